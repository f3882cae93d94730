// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands that the guest gets, in this order.

use super::report::{Findings, Load, Step, Way};
use crate::compare::disk::Counters;
use crate::compare::guest::{Guest, Window};
use crate::compare::target::Disk;
use anyhow::Result;

/// The disk on which parts of extents are overwritten.
pub const PARTS: Disk = Disk::Spare(4);
/// Two disks with a copy each, and one that replaces the second.
pub const COPIES: [Disk; 3] = [Disk::Spare(1), Disk::Spare(2), Disk::Spare(3)];
/// Images, and under which disk's name the guest has recorded what is on them.
pub const IMAGES: [(Disk, Disk); 4] =
    [(Disk::Main, Disk::Main), (PARTS, PARTS), (COPIES[0], COPIES[0]), (COPIES[2], COPIES[0])];
/// The disk that is replaced. It keeps its copy, without a file system to verify it by.
pub const REPLACED: Disk = COPIES[1];
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

/// Runs all steps. A failure is a finding; steps that do not depend on the failed one still run.
pub fn run(guest: &mut Guest, keyslots: &[Disk], findings: &mut Findings) {
    let main = Disk::Main.serial();
    if !findings.step("make a btrfs", guest.ask(&format!("start {main}"))) {
        return;
    }
    // A kernel without the patches refuses the first key.
    let encrypts = guest.ask(&format!("directory {main} checksummed encrypted sums"));
    findings.lacking = encrypts.err().map(|e| format!("{e:#}"));
    let kind = findings.kind();
    if findings.lacking.is_some() {
        findings.step("a directory with checksums", guest.ask(&format!("directory {main} checksummed open sums")));
    }
    findings.step("a directory without checksums", guest.ask(&format!("directory {main} nodatasum {kind} nosums")));
    findings.step("the files' contents", guest.ask(&format!("plaintext {kind}")));
    files(guest, kind, findings);
    parts(guest, kind, findings);
    if findings.lacking.is_some() {
        return;
    }
    // Software encryption needs no keyslots, but the loads are a test all the same.
    let native = findings.ways.iter().any(|way| way.is_native());
    for disk in keyslots.iter().take(if native { keyslots.len() } else { 1 }) {
        loads(guest, *disk, findings);
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
    for (name, _) in DIRECTORIES {
        findings.step(&format!("record {name} files"), guest.ask(&format!("record_dir {main} {name} {kind} {kind}")));
    }
    findings.step("record", guest.ask(&format!("recorded {main}")));
    findings.step("check", guest.ask(&format!("leave {main}")));
}

/// Overwrites parts of extents, on a device of its own: some kernels shut down the whole file system here.
fn parts(guest: &mut Guest, kind: &str, findings: &mut Findings) {
    let serial = PARTS.serial();
    let mut steps = vec![("make a btrfs for parts of extents".to_owned(), format!("start {serial}"))];
    for (name, sums) in DIRECTORIES {
        steps
            .push((format!("a directory for {name} files, parts"), format!("directory {serial} {name} {kind} {sums}")));
        steps.push((format!("write {name} files, parts"), format!("put {serial} {name} {kind}")));
    }
    steps.push(("other contents".to_owned(), format!("change_plaintext {kind} parts")));
    for (name, _) in DIRECTORIES {
        steps.push((format!("write into extents of {name} files"), format!("change {serial} {name}")));
        steps.push((format!("read {name} files after that"), format!("same {serial} {name} parts")));
    }
    steps.push(("scrub after that".to_owned(), format!("scrub {serial}")));
    for (name, _) in DIRECTORIES {
        steps.push((format!("record {name} files, parts"), format!("record_dir {serial} {name} parts {kind}")));
    }
    steps.push(("record, parts".to_owned(), format!("recorded {serial}")));
    steps.push(("check, parts".to_owned(), format!("leave {serial}")));
    in_order(guest, &steps, findings);
}

/// Steps that depend on each other. The first failure ends them.
fn in_order(guest: &mut Guest, steps: &[(String, String)], findings: &mut Findings) {
    for (at, (name, command)) in steps.iter().enumerate() {
        if !findings.step(name, guest.ask(command)) {
            let left = steps.len() - at - 1;
            findings.notes.push(format!("{left} steps after \"{name}\" were not done"));
            return;
        }
    }
}

/// Two copies of everything, on two of our devices. One is damaged and repaired, then replaced by a third device.
pub fn copies(guest: &mut Guest, findings: &mut Findings) {
    let kind = findings.kind();
    let [first, second, third] = COPIES.map(Disk::serial);
    let same = format!("same mirror checksummed {kind}");
    let steps = [
        ("the files' contents, RAID1", format!("plaintext {kind}")),
        ("RAID1 of two devices", format!("mirror {first} {second}")),
        ("a directory with checksums, RAID1", format!("directory mirror checksummed {kind} sums")),
        ("write files, RAID1", format!("put mirror checksummed {kind}")),
        ("damage one device", format!("damage {second} {first} {kind}")),
        ("read files of which one copy is damaged", same.clone()),
        ("repair by scrub", "repair".to_owned()),
        ("read files after repair", same.clone()),
        ("device replace", format!("replace_disk {second} {third}")),
        ("read files after device replace", same),
        ("scrub after device replace", "scrub mirror".to_owned()),
        ("record files, RAID1", format!("record_dir mirror checksummed {kind} {kind}")),
        ("record, RAID1", format!("recorded {first}")),
        ("check, RAID1", format!("leave_mirror {first}")),
    ];
    in_order(guest, &steps.map(|(name, command)| (name.to_owned(), command)), findings);
}

/// Reads all files from the disk.
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
    /// Of what kind the files are.
    fn kind(&self) -> &'static str {
        if self.lacking.is_none() { "encrypted" } else { "open" }
    }

    /// Records the result of a step; true if it succeeded.
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
