// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask mutants`: cargo-mutants changes the device's core in many small ways, in a copy of the tree, and runs tests on each
//! change. A change that no test notices (it "survives") shows what the tests do not look at.

use crate::cli::MutantsArgs;
use crate::device::cargo;
use crate::paths::Paths;
use crate::process::{self, Running};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Directories of `src` that are changed.
pub const PARTS: [&str; 5] = ["keyslot", "engine", "device", "queue", "request"];

/// Tests among the sources, which are not changed. The second runs under a scheduler of its own only (`cargo xtask miri`).
const TEST_SOURCES: [&str; 2] = ["src/**/tests.rs", "src/keyslot/interleavings.rs"];

/// What runs on each change, beside the unit tests: what takes seconds at most.
const QUICK: [&str; 9] = [
    "broken_rings",
    "control_queue",
    "engine",
    "hostile",
    "in_band",
    "inline",
    "plain",
    "request_keys",
    "wrapped_keys",
];

/// From the signal until cargo-mutants has ended what it runs.
const TO_END: Duration = Duration::from_secs(60);

/// Runs it until all is done or the time is over; true when no change has survived.
pub fn run(paths: &Paths, args: &MutantsArgs) -> Result<bool> {
    if process::output(cargo(paths).args(["mutants", "--version"])).is_err() {
        bail!("cargo-mutants is not installed; run: cargo install --locked cargo-mutants");
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(60 * args.minutes);
    // The rest is for the second pass.
    let quick_end = start + Duration::from_secs(40 * args.minutes);
    let parts = if args.part.is_empty() { PARTS.map(str::to_owned).to_vec() } else { args.part.clone() };
    let mut quick: Vec<String> = parts.iter().flat_map(|part| ["--file".into(), format!("src/{part}/**")]).collect();
    quick.extend(TEST_SOURCES.iter().flat_map(|file| ["--exclude".into(), (*file).into()]));
    quick.push("--cargo-arg=--lib".into());
    quick.extend(QUICK.map(|test| format!("--cargo-arg=--test={test}")));
    let survived = pass(paths, "quick", &quick, quick_end)?.survived;
    if survived.is_empty() {
        return Ok(true);
    }
    println!("\nWhat has survived the quick tests, with all tests:");
    let mut all = vec!["--cargo-arg=--tests".to_owned()];
    for change in survived.lines() {
        // cargo-mutants does not apply `--re` to deleted struct fields: those in the same files are tried again.
        let file = change.split(':').next().unwrap_or_default();
        all.extend(["--file".into(), file.to_owned(), "--re".into(), pattern(change)]);
    }
    let tried = pass(paths, "all", &all, end)?.noticed;
    let left: Vec<_> = survived.lines().filter(|change| !tried.lines().any(|line| line == *change)).collect();
    println!("\nleft, because they survived or the time was over:\n{}", left.join("\n"));
    Ok(left.is_empty())
}

/// Changes, one a line.
struct Tried {
    survived: String,
    noticed: String,
}

/// Matches the name of one change.
fn pattern(change: &str) -> String {
    let inner: String = change.chars().map(|c| if c.is_ascii_punctuation() { '.' } else { c }).collect();
    format!("^{inner}$")
}

/// Tries changes with some of the tests.
fn pass(paths: &Paths, name: &str, options: &[String], end: Instant) -> Result<Tried> {
    let out = paths.target.join("mutants").join(name);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut mutants = cargo(paths);
    // Each change builds and links many tests; nobody debugs them.
    mutants.envs([("CARGO_PROFILE_DEV_DEBUG", "none"), ("CARGO_PROFILE_TEST_DEBUG", "none")]);
    mutants.args(["mutants", "--package", "vhost-user-blk-crypto", "--shuffle"]);
    // Otherwise each change that makes a test endless takes five times as long as all of them.
    mutants.args(["--timeout-multiplier", "2", "--minimum-test-timeout", "40"]);
    mutants.arg("--output").arg(&out).args(options);
    let running = Running::start(&mut mutants)?;
    let mut asked = false;
    let status = loop {
        if let Some(status) = running.try_wait()? {
            break status;
        }
        if Instant::now() > end && !asked {
            running.signal(Signal::INT)?;
            asked = true;
        }
        ensure!(Instant::now() < end + TO_END, "cargo-mutants does not end");
        thread::sleep(Duration::from_millis(200));
    };
    let list = |name: &str| process::text(&out.join("mutants.out").join(name));
    let [survived, caught, endless, unviable] = ["missed.txt", "caught.txt", "timeout.txt", "unviable.txt"].map(list);
    ensure!(
        asked || matches!(status.code(), Some(0 | 2 | 3)),
        "cargo-mutants failed ({status}): see {}",
        out.join("mutants.out/log").display()
    );
    let count = |text: &str| text.lines().count();
    println!("\na test did not end:\n{endless}\nsurvived:\n{survived}");
    println!(
        "{} survived; {} were noticed, {} by a test that did not end; {} did not compile{}",
        count(&survived),
        count(&caught) + count(&endless),
        count(&endless),
        count(&unviable),
        if asked { "; the time was over before all were tried" } else { "" }
    );
    println!("logs: {}", out.join("mutants.out").display());
    Ok(Tried { survived, noticed: caught + &endless + &unviable })
}
