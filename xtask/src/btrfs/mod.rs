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
use crate::paths::Paths;
use crate::setup::{self, Prepared};
use crate::verify;
use crate::{cache, progress};
use anyhow::{Context, Result, ensure};
use report::Findings;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What a kernel lacks if its btrfs refuses keys.
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
        "the guest's kernel, {}, has no CONFIG_BTRFS_FS; use --kernel and --kdir to boot a kernel that has it",
        kernel.name
    );
    let out = paths.target.join("btrfs");
    cache::remove_tree(&out)?;
    let mut findings = Findings::default();
    let keyslots = if keys { &KEYSLOTS[..] } else { &[] };
    let run = Run { paths, prepared, device, out: &out };
    run.guest("files", &[&[Disk::Main, steps::PARTS], keyslots].concat(), &mut findings, |guest, findings| {
        steps::run(guest, keyslots, findings);
    })?;
    // In a guest of its own: some kernels have crashed here.
    run.guest("copies", &steps::COPIES, &mut findings, steps::copies)?;
    let text = report::text(prepared, &findings);
    println!("\n{text}");
    fs::write(out.join("report.txt"), &text)?;
    println!("logs and report: {}", out.display());
    Ok(findings.is_good())
}

/// fscrypt's messages about the contents of files.
fn said(dmesg: &str) -> Vec<String> {
    let lines = dmesg.lines().filter_map(|l| l.find("fscrypt: ").map(|at| l[at..].trim().to_owned()));
    lines.filter(|l| l.contains(" using blk-crypto")).collect()
}

/// What all guests of a run share.
struct Run<'a> {
    paths: &'a Paths,
    prepared: &'a Prepared,
    device: &'a [String],
    out: &'a Path,
}

impl Run<'_> {
    /// Boots a guest with these disks, runs steps in it, and verifies the images whose expected content it has
    /// recorded.
    fn guest(
        &self,
        name: &str,
        disks: &[Disk],
        findings: &mut Findings,
        steps: impl FnOnce(&mut Guest, &mut Findings),
    ) -> Result<()> {
        let logs = self.out.join(name);
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let images = tempfile::Builder::new().prefix("images-").tempdir_in(self.out)?;
        let places = (images.path(), logs.as_path());
        let mut guest = progress::step(&format!("guest boot ({name})"), || {
            let script = ("btrfs/run.sh", vec![]);
            Guest::start(self.paths, self.prepared, script, (disks, IMAGE_BYTES), self.device, places)
        })?;
        steps(&mut guest, findings);
        match guest.finish() {
            Ok(problems) => findings.problems.extend(problems),
            Err(error) => findings.problems.push(format!("guest {name}: {error:#}")),
        }
        let words = said(&crate::process::text(&logs.join("out/dmesg")));
        findings.words.extend(words.into_iter().filter(|w| !findings.words.contains(w)).collect::<Vec<_>>());
        self.verify(images.path(), &logs, findings)
    }

    fn verify(&self, images: &Path, logs: &Path, findings: &mut Findings) -> Result<()> {
        let from = logs.join("out");
        for (disk, recorded) in steps::IMAGES {
            let manifest = from.join(format!("{}.jsonl", recorded.serial()));
            if !manifest.exists() {
                continue;
            }
            let results = logs.join(disk.serial());
            fs::create_dir(&results)?;
            fs::copy(&manifest, results.join("manifest.jsonl"))?;
            for name in ["keys", "sentinel", "plain"].iter().filter(|name| from.join(name).exists()) {
                symlink(std::path::absolute(from.join(name))?, results.join(name))?;
            }
            let name = format!("{}.img", disk.serial().to_lowercase());
            let verified = verify::run_on_one_of_several(
                &self.prepared.programs.verifier,
                &images.join(&name),
                &results,
                &results,
            );
            match verified {
                Ok(verified) => findings.verified.push((name, verified)),
                Err(error) => findings.problems.push(format!("{name}: {error:#}")),
            }
        }
        let replaced = images.join(format!("{}.img", steps::REPLACED.serial().to_lowercase()));
        // Only encrypted files have a text that must be nowhere.
        let text = fs::read_to_string(from.join("sentinel")).ok().filter(|_| replaced.exists());
        let searched =
            text.map(|text| verify::search(&self.prepared.programs.verifier, &replaced, text.trim_end(), logs));
        findings.problems.extend(searched.and_then(Result::err).map(|error| format!("the replaced disk: {error:#}")));
        Ok(())
    }
}
