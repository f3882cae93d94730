// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask btrfs`: what btrfs on this device does on a kernel, with and without encryption, and what its keys cost.
//!
//! One guest has a btrfs on each of several of our devices. Every step says what came of it; a step that fails does not end the
//! run. Whether encryption is native is reported, not demanded: in the public series it is not.

mod report;
mod steps;

use crate::cli::BtrfsArgs;
use crate::compare::guest::Guest;
use crate::compare::target::Disk;
use crate::console;
use crate::paths::Paths;
use crate::setup::{self, Prepared};
use crate::verify;
use crate::{cache, progress};
use anyhow::{Context, Result, ensure};
use report::Findings;
use std::fs;
use std::path::Path;

/// What a kernel lacks whose btrfs refuses keys.
pub const LACKING: &str = "this kernel's btrfs does not encrypt: it lacks the series \"btrfs: add fscrypt support\"";

/// Room for all files and a balance.
const IMAGE_BYTES: u64 = 1 << 30;

/// The disks on which keys are counted.
const KEYSLOTS: [Disk; 5] =
    [Disk::Keyslots(1), Disk::Keyslots(4), Disk::Keyslots(32), Disk::Keyslots(256), Disk::KeysInRequests];

/// Runs it; true when no step failed and the image was verified.
pub fn run(paths: &Paths, args: &BtrfsArgs) -> Result<bool> {
    let prepared = setup::prepare(paths, &args.guest)?;
    run_on(paths, &prepared, &args.device, true)
}

/// The same on a guest that is ready; `keys`: also measure what keys cost.
pub fn run_on(paths: &Paths, prepared: &Prepared, device: &[String], keys: bool) -> Result<bool> {
    let kernel = &prepared.machine.kernel;
    ensure!(
        kernel.has("CONFIG_BTRFS_FS"),
        "the guest's kernel, {}, has no CONFIG_BTRFS_FS: give one of your own that has, with --kernel and --kdir",
        kernel.name
    );
    let out = paths.target.join("btrfs");
    let logs = out.join("logs");
    cache::remove_tree(&out)?;
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let images = tempfile::Builder::new().prefix("vubc-btrfs-").tempdir_in(&out)?;
    let keyslots = if keys { &KEYSLOTS[..] } else { &[] };
    let disks = [&[Disk::Main], keyslots].concat();
    let mut findings = Findings::default();
    let mut guest = progress::step("guest boot", || {
        Guest::start(paths, prepared, "btrfs/run.sh", (&disks, IMAGE_BYTES), device, (images.path(), &logs))
    })?;
    steps::run(&mut guest, keyslots, &mut findings);
    match guest.finish() {
        Ok(problems) => findings.problems.extend(problems),
        Err(error) => findings.problems.push(format!("{error:#}")),
    }
    findings.words = said(&crate::process::text(&logs.join("out/dmesg")));
    verify(prepared, images.path(), &logs, &out, &mut findings);
    let text = report::text(prepared, &findings);
    println!("\n{text}");
    fs::write(out.join("report.txt"), &text)?;
    println!("logs and report: {}", out.display());
    Ok(findings.is_good())
}

/// fscrypt's own words about the contents of files.
fn said(dmesg: &str) -> Vec<String> {
    let lines = dmesg.lines().filter_map(|l| l.find("fscrypt: ").map(|at| l[at..].trim().to_owned()));
    lines.filter(|l| l.contains(" using blk-crypto")).collect()
}

/// The independent verifier over the first disk's image.
fn verify(prepared: &Prepared, images: &Path, logs: &Path, out: &Path, findings: &mut Findings) {
    let image = images.join(format!("{}.img", Disk::Main.serial().to_lowercase()));
    match verify::run(&prepared.programs.verifier, &image, &logs.join("out"), out) {
        Ok(verified) => findings.verified = Some(verified),
        Err(error) => findings.problems.push(format!("{error:#}")),
    }
    if let Some(line) = console::trouble(&crate::process::text(&logs.join("out/dmesg")))
        && !findings.problems.iter().any(|p| p.contains(line))
    {
        findings.problems.push(format!("the guest's kernel says: {line}"));
    }
}
