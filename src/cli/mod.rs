// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The command line: without a subcommand the program is a device, as QEMU's backend program conventions ask.

mod access;
mod completions;
mod ctl;
mod device;
mod faults;
mod inspect;
#[cfg(test)]
mod man;
mod number;
pub mod output;
pub mod personality;
mod selftest;
mod values;

use clap::{CommandFactory, FromArgMatches, Subcommand};

pub use completions::{CompletionsArgs, completions};
pub use ctl::{CtlArgs, CtlCommand, FaultCommand, StatsFormat, Switch, TraceCommand};
pub use device::Args;
pub use inspect::InspectArgs;
pub use selftest::SelftestArgs;
pub use values::{CacheMode, DiscardMode, SandboxMode};

/// What the program does.
pub enum Invocation {
    /// Serve a device.
    Device(Box<Args>),
    /// Run a subcommand.
    Tool(Tool),
}

// The subcommands. Doc comments here would become the help of the whole program.
#[derive(Debug, Subcommand)]
pub enum Tool {
    Inspect(InspectArgs),
    Ctl(CtlArgs),
    Selftest(SelftestArgs),
    Completions(CompletionsArgs),
}

/// The device's options, or a subcommand instead.
fn command() -> clap::Command {
    Tool::augment_subcommands(Args::command())
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
        .subcommand_help_heading("Commands, instead of serving a device")
}

/// Reads the command line. Exits after printing help, the version or an error.
pub fn parse() -> Invocation {
    let matches = command().try_get_matches().unwrap_or_else(|error| exit(&error));
    let parsed = if matches.subcommand_name().is_some() {
        Tool::from_arg_matches(&matches).map(Invocation::Tool)
    } else {
        Args::from_arg_matches(&matches).map(|args| Invocation::Device(Box::new(args)))
    };
    parsed.unwrap_or_else(|error| exit(&error.format(&mut command())))
}

/// Prints help, the version or an error.
fn exit(error: &clap::Error) -> ! {
    let code = match error.print() {
        Err(failure) if !error.use_stderr() && failure.kind() != std::io::ErrorKind::BrokenPipe => {
            output::complain(&format!("cannot write to standard output: {failure}"));
            1
        }
        _ => error.exit_code(),
    };
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    fn tool(words: &[&str]) -> Result<Option<Tool>, clap::Error> {
        let matches = command().try_get_matches_from(words)?;
        matches.subcommand_name().map(|_| Tool::from_arg_matches(&matches)).transpose()
    }

    #[test]
    fn a_device_needs_no_subcommand_and_a_tool_no_image() {
        let device = ["program", "--socket-path", "s", "--blk-file", "inspect"];
        assert!(matches!(tool(&device), Ok(None)));
        assert!(tool(&["program", "--socket-path", "s"]).is_err(), "--blk-file is required");
        let inspect =
            ["program", "inspect", "i", "--key-file", "k", "--data-unit", "4K", "--dun", "0", "--verify", "p"];
        assert!(matches!(tool(&inspect), Ok(Some(Tool::Inspect(_)))));
        assert!(tool(&[&device[..], &["inspect", "i"]].concat()).is_err(), "not both");
    }
}
