// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask fuzz`: builds the programs of `fuzz/targets` with LLVM's coverage and address sanitizer, and runs them.
//!
//! What `cargo fuzz` does, without it: `RUSTC_BOOTSTRAP` lets any toolchain take the flags that are not stable.

use crate::cli::FuzzArgs;
use crate::device::cargo;
use crate::paths::Paths;
use crate::process::{self, command, run_logged};
use crate::report::Report;
use crate::ui::timed;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The programs, as `fuzz/Cargo.toml` names them.
const TARGETS: [&str; 4] = ["virtqueues", "requests", "keyslots", "config_space"];
const PACKAGE: &str = "vhost-user-blk-crypto-fuzz";
/// In `cargo xtask test`.
const SECONDS_IN_TEST: u32 = 60;

/// As cargo-fuzz 0.13 gives them.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
    "--cfg=fuzzing",
];

/// `cargo xtask fuzz`; true when nothing was found.
pub fn run(paths: &Paths, args: &FuzzArgs) -> Result<bool> {
    if let Some(unknown) = args.targets.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        bail!("there is no target {unknown}; there are {}", TARGETS.join(", "));
    }
    if let Some(reason) = obstacle() {
        bail!("{reason}");
    }
    let programs = build(paths)?;
    let mut report = Report::default();
    for target in TARGETS.into_iter().filter(|name| args.targets.is_empty() || args.targets.iter().any(|t| t == name)) {
        one(paths, &programs, target, args.seconds, &mut report);
        if args.merge {
            merge(paths, &programs, target)?;
        }
    }
    Ok(report.finish())
}

/// The part of `cargo xtask test`.
pub fn check(paths: &Paths, report: &mut Report) {
    if let Some(reason) = obstacle() {
        report.skip("fuzzing", Duration::ZERO, &format!("not run: {reason}"));
        return;
    }
    let (programs, took) = timed("fuzz targets (build)", || build(paths));
    match programs {
        Ok(programs) => TARGETS.iter().for_each(|target| one(paths, &programs, target, SECONDS_IN_TEST, report)),
        Err(e) => report.fail("fuzz targets (build)", took, &format!("{e:#}")),
    }
}

/// Why fuzzing is not possible here.
fn obstacle() -> Option<&'static str> {
    if triple().is_none() {
        return Some("the address sanitizer needs x86_64 or aarch64 with glibc");
    }
    process::find_program("c++").is_none().then_some("libFuzzer needs a C++ compiler (apt install g++)")
}

fn triple() -> Option<&'static str> {
    match (std::env::consts::ARCH, cfg!(target_env = "gnu")) {
        ("x86_64", true) => Some("x86_64-unknown-linux-gnu"),
        ("aarch64", true) => Some("aarch64-unknown-linux-gnu"),
        _ => None,
    }
}

/// Returns the directory of the programs.
fn build(paths: &Paths) -> Result<PathBuf> {
    let triple = triple().context("no sanitizer for this machine")?;
    let log = paths.log("fuzz-build");
    let _ = fs::remove_file(&log);
    let mut cargo = cargo(paths);
    // With --target the flags are not for build scripts and macros.
    cargo.args(["build", "--package", PACKAGE, "--features", "libfuzzer", "--bins", "--profile", "fuzz", "--target"]);
    cargo.arg(triple).env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    run_logged(&mut cargo, &log).context("the fuzz targets did not build")?;
    Ok(paths.target.join(triple).join("fuzz"))
}

fn one(paths: &Paths, programs: &Path, target: &str, seconds: u32, report: &mut Report) {
    let name = format!("fuzz: {target} ({seconds} s)");
    let (result, took) = timed(&name, || fuzz(paths, programs, target, seconds));
    match result {
        Ok(summary) => {
            report.pass(&name, took);
            eprintln!("    {summary}");
        }
        Err(e) => report.fail(&name, took, &format!("{e:#}")),
    }
}

/// The corpus in the repository.
fn seeds(paths: &Paths, target: &str) -> PathBuf {
    paths.root.join("fuzz/corpus").join(target)
}

/// What this machine has found so far.
fn found(paths: &Paths, target: &str) -> Result<PathBuf> {
    let directory = paths.target.join("fuzz-corpus").join(target);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

fn fuzz(paths: &Paths, programs: &Path, target: &str, seconds: u32) -> Result<String> {
    let artifacts = paths.target.join("fuzz-artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    let log = paths.log(&format!("fuzz-{target}"));
    let _ = fs::remove_file(&log);
    let mut program = command(programs.join(target));
    program
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"])
        .arg(found(paths, target)?)
        .arg(seeds(paths, target));
    run_logged(&mut program, &log).with_context(|| {
        format!("the input that did it is in {}; give it to the program alone", artifacts.display())
    })?;
    let text = fs::read_to_string(&log)?;
    let last = |word: &str| text.lines().rev().find(|line| line.contains(word)).unwrap_or_default().trim().to_owned();
    let runs = last("stat::number_of_executed_units:");
    ensure!(!runs.is_empty(), "{target} ran nothing; see {}", log.display());
    Ok(format!("{} runs; {}", runs.rsplit(' ').next().unwrap_or_default(), coverage(&last(" cov: "))))
}

/// `#123 DONE cov: 1 ft: 2 corp: 3/4b ...`, shortened.
fn coverage(line: &str) -> String {
    let mut words = line.split_whitespace().skip_while(|word| *word != "cov:");
    match (words.next(), words.next(), words.next(), words.next(), words.next(), words.next()) {
        (_, Some(edges), _, Some(features), _, Some(corpus)) => {
            format!("{edges} edges, {features} features, corpus {corpus}")
        }
        _ => "coverage unknown".to_owned(),
    }
}

fn merge(paths: &Paths, programs: &Path, target: &str) -> Result<()> {
    let log = paths.log(&format!("fuzz-merge-{target}"));
    let _ = fs::remove_file(&log);
    let mut program = command(programs.join(target));
    program
        .args(["-merge=1", "-timeout=20", "-rss_limit_mb=2048"])
        .arg(seeds(paths, target))
        .arg(found(paths, target)?);
    run_logged(&mut program, &log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_coverage() {
        let line = "#4194\tDONE   cov: 1721 ft: 6022 corp: 311/84Kb lim: 4096 exec/s: 2097 rss: 91Mb";
        assert_eq!(coverage(line), "1721 edges, 6022 features, corpus 311/84Kb");
        assert_eq!(coverage(""), "coverage unknown");
    }

    #[test]
    fn targets_are_those_of_the_package() {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        TARGETS.iter().for_each(|name| assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}"));
    }
}
