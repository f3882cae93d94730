// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The checks that cargo and its helpers make: formatting, lints, dependencies, tests.

use crate::device::cargo;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::process::{self, run_logged};
use crate::progress::{line, timed};
use crate::report::{Report, TAKES_MINUTES};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The newest Rust, 1.95, whose lints the code keeps. A later one has others, and deprecates what the oldest supported Rust needs.
const LINTS_OF: u32 = 95;

/// Runs those that the plan has.
pub fn run(paths: &Paths, report: &mut Report, plan: &Plan, long: bool) {
    if plan.lints {
        let mut clippy = vec!["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        let version = process::output(cargo(paths).arg("--version")).unwrap_or_default();
        if minor(&version).is_some_and(|minor| minor > LINTS_OF) {
            eprintln!("{}: some lints fail nothing, because they are newer than 1.{LINTS_OF}", version.trim());
            clippy.extend(["--force-warn", "clippy::all", "--force-warn", "deprecated"]);
        }
        check(paths, report, "cargo fmt", cargo(paths).args(["fmt", "--all", "--check", "--", "-l"]));
        check(paths, report, "cargo clippy", cargo(paths).args(clippy));
        if installed(paths, report, "deny") {
            check(paths, report, "cargo deny", cargo(paths).args(["deny", "--workspace", "check"]));
        }
        if installed(paths, report, "audit") {
            check(paths, report, "cargo audit", cargo(paths).arg("audit"));
        }
    }
    for (number, arguments) in plan.tests.iter().enumerate() {
        let log = if number == 0 { "cargo-test".to_owned() } else { format!("cargo-test-{}", number + 1) };
        tests(paths, report, &paths.fresh_log(&log), arguments, &plan.filters);
    }
    if plan.optimised {
        // Rules that only optimised code must keep.
        let packages = ["--package", "scattered-xts", "--package", "vhost-user-blk-crypto"];
        let tests = ["--test", "xts", "--test", "key_stack", "--test", "sandbox", "--", "no_key_stays_"];
        let mut cargo = cargo(paths);
        cargo.args(["test", "--release"]).args(packages).args(tests);
        check(paths, report, "cargo test, optimised", &mut cargo);
    }
    if plan.fuzz && long {
        crate::fuzz::check(paths, report);
    } else if plan.fuzz {
        // `cargo test` has run its corpus and random bytes.
        report.skip("fuzzing", Duration::ZERO, TAKES_MINUTES);
    }
}

/// The minor version in what `cargo --version` prints.
fn minor(text: &str) -> Option<u32> {
    text.split('.').nth(1)?.parse().ok()
}

/// Runs a command that passes or fails, with a log of its own.
pub fn check(paths: &Paths, report: &mut Report, name: &str, command: &mut Command) {
    let log = paths.fresh_log(&name.replace([',', ':'], "").replace(' ', "-"));
    let (result, took) = timed(name, || run_logged(command, &log));
    match result {
        Ok(()) => report.pass(name, took),
        Err(e) => {
            let text = fs::read_to_string(&log).unwrap_or_default();
            // The advisory database is fetched; a machine without a network cannot be blamed on the project.
            if text.contains("advisory-db") && text.contains("fetch") && !text.contains("error[") {
                report.skip(name, took, &format!("{name} could not fetch the advisory database"));
            } else {
                report.fail(name, took, &format!("{e:#}"));
            }
        }
    }
}

fn installed(paths: &Paths, report: &mut Report, tool: &str) -> bool {
    let there = process::output(cargo(paths).args([tool, "--version"])).is_ok();
    if !there {
        report.skip(&format!("cargo {tool}"), Duration::ZERO, &format!("not run: cargo-{tool} is not installed"));
    }
    there
}

/// Runs cargo's tests in these packages.
fn tests(paths: &Paths, report: &mut Report, log: &Path, packages: &[String], filters: &[String]) {
    let device = LoopDevice::new();
    let (result, took) = timed("cargo test", || {
        let mut cargo = cargo(paths);
        cargo.arg("test").args(packages).args(["--no-fail-fast", "--color=never", "--"]).args(filters);
        if let Some(device) = &device {
            cargo.arg("--include-ignored").env("VUBC_BLOCK_DEVICE", &device.path);
        }
        run_logged(&mut cargo, log)
    });
    let totals = Totals::parse(&process::text(log));
    match result {
        Err(e) if totals.failed.is_empty() => report.fail("cargo test", took, &format!("{e:#}")),
        result => {
            line(
                &format!("cargo test ({} tests)", totals.passed),
                if result.is_ok() { "passed" } else { "FAILED" },
                took,
            );
            if let Err(e) = result {
                eprintln!("{e:#}");
            }
        }
    }
    report.add(totals.passed, totals.failed, totals.ignored);
}

/// A block device for the test that overwrites one. Without it, that test counts as skipped.
struct LoopDevice {
    path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// Makes one, which only root can, and only where the kernel has loop devices.
    fn new() -> Option<Self> {
        if !process::is_root() {
            return None;
        }
        let file = tempfile::NamedTempFile::new().ok()?;
        file.as_file().set_len(64 << 20).ok()?;
        let output = process::output(process::command("losetup").args(["--find", "--show"]).arg(file.path())).ok()?;
        Some(Self { path: output.trim().to_owned(), _file: file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // The kernel removes it with the last user of the file.
        let _ = process::output(process::command("losetup").args(["--detach", &self.path]));
    }
}

/// What cargo's test programs counted.
#[derive(Default)]
struct Totals {
    passed: usize,
    failed: Vec<(String, String)>,
    ignored: Vec<(String, String)>,
}

impl Totals {
    /// Adds up the `test result:` lines of all programs; names come from the lines of the single tests.
    fn parse(text: &str) -> Self {
        let mut totals = Self::default();
        let (mut failed, mut ignored) = (0, 0);
        for line in text.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                let count = |what: &str| {
                    counts
                        .split([';', '.'])
                        .find_map(|p| p.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
                        .unwrap_or(0)
                };
                totals.passed += count("passed");
                failed += count("failed");
                ignored += count("ignored");
            } else if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
                let name = name.trim_end();
                if verdict.starts_with("FAILED") {
                    totals.failed.push((format!("cargo test: {name}"), "see its log in target/xtask-logs".into()));
                } else if let Some(reason) = verdict.strip_prefix("ignored") {
                    let reason = reason.trim_start_matches(", ");
                    let reason = if reason.is_empty() { "marked #[ignore]" } else { reason };
                    totals.ignored.push((format!("cargo test: {name}"), reason.to_owned()));
                }
            }
        }
        // A test that prints may hide its own line: the counts decide.
        let unnamed = || ("cargo test: a test without a line of its own".to_owned(), "see the log".to_owned());
        totals.failed.resize_with(failed.max(totals.failed.len()), unnamed);
        totals.ignored.resize_with(ignored.max(totals.ignored.len()), unnamed);
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_rust() {
        assert_eq!(minor("cargo 1.99.1 (5f94df478 2026-08-27)\n"), Some(99));
        assert_eq!(minor(""), None);
    }

    #[test]
    fn totals_of_several_programs() {
        let text = "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest d ... ignored, needs root\n\
            test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 7 filtered out; finished in 0.10s\n";
        let totals = Totals::parse(text);
        assert_eq!((totals.passed, totals.failed.len(), totals.ignored.len()), (13, 1, 3));
        assert_eq!(totals.failed[0].0, "cargo test: a::c");
        assert_eq!(totals.ignored[0].1, "needs root");
    }
}
