// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask fuzz`: builds the programs of `fuzz/targets` with LLVM's coverage and address sanitizer, and runs them.
//!
//! This is what `cargo fuzz` does. `RUSTC_BOOTSTRAP` lets any toolchain take the unstable flags.

use crate::cli::FuzzArgs;
use crate::device::cargo;
use crate::paths::Paths;
use crate::process::{self, command, run_logged};
use crate::progress::{line, timed};
use crate::report::Report;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The programs, as `fuzz/Cargo.toml` names them.
const TARGETS: [&str; 9] = [
    "virtqueues",
    "keyslots",
    "request_keys",
    "requests",
    "config_space",
    "inflight",
    "vfio_user",
    "ufs_registers",
    "ufs_transfers",
];
const PACKAGE: &str = "vhost-user-blk-crypto-fuzz";
/// For each target in `cargo xtask test --long`.
const SECONDS_IN_TEST: u32 = 40;
/// Targets that run at a time.
const AT_ONCE: usize = 2;

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

/// Why there is no [`triple`].
pub const NO_SANITIZER: &str = "the address sanitizer needs x86_64 or aarch64 with glibc";

/// `cargo xtask fuzz`; true when nothing was found.
pub fn run(paths: &Paths, args: &FuzzArgs) -> Result<bool> {
    if let Some(unknown) = args.target.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        bail!("there is no target {unknown}; the targets are {}", TARGETS.join(", "));
    }
    let chosen = |name: &&str| args.target.is_empty() || args.target.iter().any(|target| target == name);
    let targets: Vec<_> = TARGETS.into_iter().filter(chosen).collect();
    let mut report = Report::default();
    if let Some(programs) = all(paths, &targets, args.seconds, &mut report)
        && args.merge
    {
        targets.iter().try_for_each(|target| merge(paths, &programs, target))?;
    }
    Ok(report.finish())
}

/// The part of `cargo xtask test --long`.
pub fn check(paths: &Paths, report: &mut Report) {
    all(paths, &TARGETS, SECONDS_IN_TEST, report);
}

/// Builds the programs and runs these targets, [`AT_ONCE`] at a time. Returns where the programs are.
fn all(paths: &Paths, targets: &[&'static str], seconds: u32, report: &mut Report) -> Option<PathBuf> {
    if let Some(reason) = obstacle() {
        report.skip("fuzzing", Duration::ZERO, &format!("not run: {reason}"));
        return None;
    }
    let (programs, took) = timed("fuzz targets (build)", || build(paths));
    let programs = match programs {
        Ok(programs) => programs,
        Err(e) => {
            report.fail("fuzz targets (build)", took, &format!("{e:#}"));
            return None;
        }
    };
    line("fuzz targets (build)", "done", took);
    let waiting = Mutex::new(targets.iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some(target) = next() {
            let start = Instant::now();
            let result = fuzz(paths, &programs, target, seconds);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((target, result, start.elapsed()));
        }
    };
    timed("fuzzing", || thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work)))));
    for (target, result, took) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let name = format!("fuzz: {target} ({seconds} s)");
        match result {
            Ok(summary) => {
                report.pass(&name, took);
                eprintln!("    {summary}");
            }
            Err(e) => report.fail(&name, took, &format!("{e:#}")),
        }
    }
    Some(programs)
}

/// Why fuzzing is not possible here.
fn obstacle() -> Option<&'static str> {
    if triple().is_none() {
        return Some(NO_SANITIZER);
    }
    process::find_program("c++").is_none().then_some("libFuzzer needs a C++ compiler (apt install g++)")
}

/// The target of this machine, if the address sanitizer knows it.
pub fn triple() -> Option<&'static str> {
    match (std::env::consts::ARCH, cfg!(target_env = "gnu")) {
        ("x86_64", true) => Some("x86_64-unknown-linux-gnu"),
        ("aarch64", true) => Some("aarch64-unknown-linux-gnu"),
        _ => None,
    }
}

/// Returns the directory of the programs.
fn build(paths: &Paths) -> Result<PathBuf> {
    let triple = triple().context(NO_SANITIZER)?;
    let log = paths.fresh_log("fuzz-build");
    let mut cargo = cargo(paths);
    // With --target the flags are not for build scripts and macros.
    cargo.args(["build", "--package", PACKAGE, "--features", "libfuzzer", "--bins", "--profile", "fuzz", "--target"]);
    cargo.arg(triple).env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    run_logged(&mut cargo, &log).context("the fuzz targets did not build")?;
    Ok(paths.target.join(triple).join("fuzz"))
}

/// The corpus in the repository.
fn seeds(paths: &Paths, target: &str) -> PathBuf {
    paths.root.join("fuzz/corpus").join(target)
}

/// The corpus of earlier runs on this machine.
fn found(paths: &Paths, target: &str) -> Result<PathBuf> {
    let directory = paths.target.join("fuzz-corpus").join(target);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

fn fuzz(paths: &Paths, programs: &Path, target: &str, seconds: u32) -> Result<String> {
    let artifacts = paths.target.join("fuzz-artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    let log = paths.fresh_log(&format!("fuzz-{target}"));
    let path = programs.join(target);
    let mut program = command(&path);
    program
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=60", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"])
        // While a helper thread starts or ends, nothing refers to its memory: the sanitizer would call that a leak.
        .arg("-detect_leaks=0")
        .arg(found(paths, target)?)
        .arg(seeds(paths, target));
    run_logged(&mut program, &log).with_context(|| match culprit(&log) {
        Some(input) => format!("to reproduce it: FUZZ_SHOW=1 {} {input}", path.display()),
        None => format!("the fuzzer wrote no input to {}; see {}", artifacts.display(), log.display()),
    })?;
    let text = process::text(&log);
    let last = |word: &str| text.lines().rev().find(|line| line.contains(word)).unwrap_or_default().trim().to_owned();
    let runs = last("stat::number_of_executed_units:");
    ensure!(!runs.is_empty(), "{target} ran nothing; see {}", log.display());
    Ok(format!("{} runs; {}", runs.rsplit(' ').next().unwrap_or_default(), coverage(&last(" cov: "))))
}

/// The file of the input that has failed.
fn culprit(log: &Path) -> Option<String> {
    let text = process::text(log);
    text.lines().rev().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim().to_owned())
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
    let log = paths.fresh_log(&format!("fuzz-merge-{target}"));
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
