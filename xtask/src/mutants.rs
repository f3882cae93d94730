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

/// What runs on each change, beside the unit tests: what takes seconds.
const TESTS: [&str; 11] = [
    "broken_rings",
    "control_queue",
    "digests",
    "engine",
    "hostile",
    "in_band",
    "inflight",
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
    let out = paths.target.join("mutants");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let parts = if args.part.is_empty() { PARTS.map(str::to_owned).to_vec() } else { args.part.clone() };
    let mut mutants = cargo(paths);
    // Each change builds and links a dozen tests; nobody debugs them.
    mutants.envs([("CARGO_PROFILE_DEV_DEBUG", "none"), ("CARGO_PROFILE_TEST_DEBUG", "none")]);
    mutants.args(["mutants", "--package", "vhost-user-blk-crypto", "--shuffle"]);
    // Otherwise each change that makes a test endless takes five times as long as all of them.
    mutants.args(["--timeout-multiplier", "2", "--minimum-test-timeout", "60"]);
    mutants.arg("--output").arg(&out);
    mutants.args(parts.iter().flat_map(|part| ["--file".to_owned(), format!("src/{part}/**")]));
    mutants.args(TEST_SOURCES.iter().flat_map(|file| ["--exclude", file]));
    mutants.args(
        ["--cargo-arg=--lib".to_owned()].into_iter().chain(TESTS.map(|test| format!("--cargo-arg=--test={test}"))),
    );
    let running = Running::start(&mut mutants)?;
    let limit = Duration::from_secs(60 * args.minutes);
    let start = Instant::now();
    let mut asked = false;
    let status = loop {
        if let Some(status) = running.try_wait()? {
            break status;
        }
        if start.elapsed() > limit && !asked {
            running.signal(Signal::INT)?;
            asked = true;
        }
        ensure!(start.elapsed() < limit + TO_END, "cargo-mutants does not end");
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
    println!("\nsurvived:\n{survived}");
    println!(
        "{} survived; {} were noticed, {} by a test that did not end; {} did not compile{}",
        count(&survived),
        count(&caught) + count(&endless),
        count(&endless),
        count(&unviable),
        if asked { "; the time was over before all were tried" } else { "" }
    );
    println!("logs: {}", out.join("mutants.out").display());
    Ok(survived.is_empty())
}
