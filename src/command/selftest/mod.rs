// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `selftest`: the engine against published vectors, and what the host has.

mod engine;
mod host;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{SelftestArgs, output};

/// What a check has found.
enum Finding {
    /// It is well; a few words on what there is.
    Good(String),
    /// The device works without it. What is missing, and what to do about it.
    Missing(String),
    /// The device does not work. What is wrong, and what to do about it.
    Bad(String),
}

/// A check's name, and what it has found.
type Check = (String, Finding);

/// Runs all checks and prints a line for each.
pub fn run(args: &SelftestArgs) -> Result<ExitCode> {
    let mut checks = engine::checks();
    checks.extend(host::checks(args.qemu.as_deref()));
    // Last: nothing can be opened or started afterwards.
    checks.push(host::sandbox());
    let bad = checks.iter().filter(|(_, finding)| matches!(finding, Finding::Bad(_))).count();
    let mut text: String = checks.iter().map(line).collect();
    text += match bad {
        0 => "The device can serve frontends here.\n",
        _ => "The device cannot serve frontends here.\n",
    };
    Ok(output::print(&text, if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn line((name, finding): &Check) -> String {
    let (mark, words) = match finding {
        Finding::Good(words) => ("ok", words),
        Finding::Missing(words) => ("missing", words),
        Finding::Bad(words) => ("FAILED", words),
    };
    format!("{mark:<8} {name}: {words}\n")
}
