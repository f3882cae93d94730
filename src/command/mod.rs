// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The subcommands: what the program does when it is not a device.

mod ctl;
mod inspect;
mod selftest;

use std::process::ExitCode;

use crate::cli::{Tool, completions, output};

/// Runs a subcommand. Exit status 0: success; 1: a difference; 2: an error, which is printed.
pub fn run(tool: &Tool) -> ExitCode {
    let result = match tool {
        Tool::Inspect(args) => inspect::run(args),
        Tool::Ctl(args) => ctl::run(args),
        Tool::Selftest(args) => selftest::run(args),
        Tool::Completions(args) => Ok(output::print(&completions(args.shell), ExitCode::SUCCESS)),
    };
    result.unwrap_or_else(|error| {
        output::complain(&format!("{error:#}"));
        ExitCode::from(2)
    })
}
