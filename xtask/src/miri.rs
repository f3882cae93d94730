// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask miri`: what has `unsafe` or order-sensitive atomics, in interpreters that see more than a test does.

use crate::device::cargo;
use crate::paths::Paths;
use crate::process::{self, run_logged};
use crate::report::Report;
use crate::ui::timed;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// The parts that make no system calls, and take minutes, not hours.
const PARTS: [&str; 2] = ["keyslot", "crypto"];

/// Runs both; true when nothing failed.
pub fn run(paths: &Paths) -> bool {
    let mut report = Report::default();
    interleavings(paths, &mut report);
    miri(paths, &mut report);
    report.finish()
}

/// The keyslots under a scheduler of the test's own; a build of its own.
fn interleavings(paths: &Paths, report: &mut Report) {
    let mut cargo = cargo(paths);
    cargo.args(["test", "--lib", "interleavings"]).env("RUSTFLAGS", "--cfg=shuttle");
    logged(report, "keyslot interleavings", paths, cargo.env("CARGO_TARGET_DIR", paths.target.join("shuttle")));
}

fn miri(paths: &Paths, report: &mut Report) {
    // The toolchain of this run would decide, if it were passed on.
    let cargo = || {
        let mut cargo = process::command("cargo");
        cargo.args(["+nightly", "miri"]).current_dir(&paths.root).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        cargo
    };
    if process::output(cargo().arg("--version")).is_err() {
        let reason = "not run: no nightly toolchain with Miri (rustup +nightly component add miri)";
        report.skip("Miri", Duration::ZERO, reason);
        return;
    }
    for part in PARTS {
        let mut cargo = cargo();
        cargo.args(["test", "--lib", part]).env("CARGO_TARGET_DIR", paths.target.join("miri"));
        logged(report, &format!("Miri: {part}"), paths, &mut cargo);
    }
}

fn logged(report: &mut Report, name: &str, paths: &Paths, command: &mut Command) {
    let log = paths.log(&name.replace(": ", "-").replace(' ', "-"));
    let _ = fs::remove_file(&log);
    let (result, took) = timed(name, || run_logged(command, &log));
    match result {
        Ok(()) => report.pass(name, took),
        Err(e) => report.fail(name, took, &format!("{e:#}")),
    }
}
