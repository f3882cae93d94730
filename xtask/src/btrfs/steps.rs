// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest is asked for, in this order.

use super::report::{Findings, Load, Step, Way};
use crate::compare::disk::Counters;
use crate::compare::guest::{Guest, Window};
use crate::compare::target::Disk;
use anyhow::Result;

/// Longer than any of the loads takes.
const SECONDS: f64 = 60.0;

/// Directories: name, and whether their files have checksums.
const DIRECTORIES: [(&str, &str); 2] = [("checksummed", "sums"), ("nodatasum", "nosums")];
const LOADS: [(&str, &str); 4] = [
    ("small", "200 files of 4 KiB"),
    ("write", "16 MiB, 1 MiB at a time"),
    ("random", "random writes of 4 KiB"),
    ("read", "random reads of 4 KiB of that file"),
];

/// Does them all. What fails is a finding, and what does not depend on it goes on.
pub fn run(guest: &mut Guest, keyslots: &[Disk], findings: &mut Findings) {
    let main = Disk::Main.serial();
    if !findings.step("make a btrfs", guest.ask(&format!("start {main}"))) {
        return;
    }
    // A kernel without the patches refuses the first key.
    let encrypts = guest.ask(&format!("directory {main} checksummed encrypted sums"));
    findings.lacking = encrypts.err().map(|e| format!("{e:#}"));
    let kind = if findings.lacking.is_none() { "encrypted" } else { "open" };
    if findings.lacking.is_some() {
        findings.step("a directory with checksums", guest.ask(&format!("directory {main} checksummed open sums")));
    }
    findings.step("a directory without checksums", guest.ask(&format!("directory {main} nodatasum {kind} nosums")));
    findings.step("the files' contents", guest.ask(&format!("plaintext {kind}")));
    files(guest, kind, findings);
    findings.step("check", guest.ask(&format!("leave {main}")));
    if findings.lacking.is_none() {
        for disk in keyslots {
            loads(guest, *disk, findings);
        }
    }
}

/// What is done with the files of both directories.
fn files(guest: &mut Guest, kind: &str, findings: &mut Findings) {
    let main = Disk::Main.serial();
    for (name, _) in DIRECTORIES {
        let written = guest.watch(Disk::Main, &format!("fill {main} {name} {kind}"), SECONDS);
        if let Some((text, counters)) = findings.counted(&format!("write {name} files"), written) {
            let bytes = text.trim().parse().unwrap_or(0);
            findings.ways.push(Way { name, bytes, counters });
        }
    }
    same(guest, kind, "back", findings);
    findings.step("remount", guest.ask(&format!("remount {main} - {kind}")));
    same(guest, kind, "after remount", findings);
    findings.step("scrub", guest.ask(&format!("scrub {main}")));
    findings.step("balance", guest.ask(&format!("balance {main}")));
    same(guest, kind, "after balance", findings);
    for step in ["snapshot", "reflink"] {
        for (name, _) in DIRECTORIES {
            findings.step(&format!("{step} of {name} files"), guest.ask(&format!("{step} {main} {name} {kind}")));
        }
    }
    findings.step("other contents", guest.ask(&format!("change_plaintext {kind}")));
    for (name, _) in DIRECTORIES {
        findings.step(&format!("write into extents of {name} files"), guest.ask(&format!("change {main} {name}")));
    }
    same(guest, kind, "after that", findings);
    findings.step("scrub again", guest.ask(&format!("scrub {main}")));
    for (name, _) in DIRECTORIES {
        findings.step(&format!("record {name} files"), guest.ask(&format!("record_dir {main} {name} {kind}")));
    }
}

/// All files are read from the disk.
fn same(guest: &mut Guest, kind: &str, when: &str, findings: &mut Findings) {
    for (name, _) in DIRECTORIES {
        let same = guest.ask(&format!("same {} {name} {kind}", Disk::Main.serial()));
        findings.step(&format!("read {name} files {when}"), same);
    }
}

/// What keys cost.
fn loads(guest: &mut Guest, disk: Disk, findings: &mut Findings) {
    let serial = disk.serial();
    if !findings.step(&format!("make a btrfs on {serial}"), guest.ask(&format!("start {serial}"))) {
        return;
    }
    for (name, sums) in DIRECTORIES {
        let make = guest.ask(&format!("directory {serial} {name} encrypted {sums}"));
        if !findings.step(&format!("a directory for {name} files, {serial}"), make) {
            continue;
        }
        for (load, title) in LOADS {
            let run = guest.watch(disk, &format!("load {serial} {name} {load}"), SECONDS);
            if let Some((_, counters)) = findings.counted(&format!("{title}, {name}, {serial}"), run) {
                findings.loads.push(Load { disk, name, title, counters });
            }
        }
    }
    findings.step(&format!("check {serial}"), guest.ask(&format!("leave {serial}")));
}

impl Findings {
    /// Notes what came of a step; true when it is done.
    fn step(&mut self, name: &str, result: Result<String>) -> bool {
        let error = result.err().map(|e| format!("{e:#}"));
        if let Some(error) = &error {
            eprintln!("FAILED: {name}: {error}");
        }
        self.steps.push(Step { name: name.to_owned(), error });
        self.steps.last().is_some_and(|step| step.error.is_none())
    }

    /// The same for a step whose requests the device has counted.
    fn counted(&mut self, name: &str, result: Result<(String, Window)>) -> Option<(String, Counters)> {
        let (result, counters) = match result {
            Ok((text, window)) => (Ok(text), Some(window.counters)),
            Err(error) => (Err(error), None),
        };
        let text = result.as_ref().map(Clone::clone).unwrap_or_default();
        self.step(name, result);
        Some((text, counters?))
    }
}
