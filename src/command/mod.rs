// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The subcommands: what the program does when it is not a device.

mod ctl;
mod inspect;

use std::process::ExitCode;

use crate::cli::{Tool, output};

/// Runs a subcommand. Exit status 0: success; 1: a difference; 2: an error, which is printed.
pub fn run(tool: &Tool) -> ExitCode {
    let result = match tool {
        Tool::Inspect(args) => inspect::run(args),
        Tool::Ctl(args) => ctl::run(args),
    };
    result.unwrap_or_else(|error| {
        output::complain(&format!("{error:#}"));
        ExitCode::from(2)
    })
}
