// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The findings, and the report.

use super::LACKING;
use crate::compare::disk::Counters;
use crate::compare::target::Disk;
use crate::measure::table::Table;
use crate::setup::Prepared;
use crate::verify::Verified;

/// A step, and why it failed.
pub struct Step {
    /// What it is.
    pub name: String,
    /// `None`: done.
    pub error: Option<String>,
}

/// A load whose keys were counted.
pub struct Load {
    /// Where.
    pub disk: Disk,
    /// Which directory.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What the device counted.
    pub counters: Counters,
}

/// Files of a directory that were written.
pub struct Way {
    /// Which directory.
    pub name: &'static str,
    /// Bytes of the files.
    pub bytes: u64,
    /// What the device counted.
    pub counters: Counters,
}

impl Way {
    /// Who encrypted them, according to the device's counters alone.
    fn verdict(&self) -> &'static str {
        let share = if self.bytes == 0 { 0.0 } else { self.counters.crypto_bytes as f64 / self.bytes as f64 };
        match share {
            0.9.. => "NATIVE",
            0.001.. => "MIXED",
            _ => "FALLBACK",
        }
    }

    /// The device did.
    pub fn is_native(&self) -> bool {
        self.verdict() == "NATIVE"
    }

    fn words(&self) -> String {
        let Counters { encrypted, programs, .. } = self.counters;
        match encrypted {
            0 => format!("of {} bytes the device encrypted none", self.bytes),
            _ => format!(
                "of {} bytes the device encrypted {encrypted} data units, with {programs} program commands",
                self.bytes
            ),
        }
    }
}

/// All of it.
#[derive(Default)]
pub struct Findings {
    /// Why btrfs does not encrypt; `None`: it does.
    pub lacking: Option<String>,
    /// All steps.
    pub steps: Vec<Step>,
    /// What the device counted when the files of a directory were written.
    pub ways: Vec<Way>,
    /// fscrypt's messages.
    pub words: Vec<String>,
    /// What was left out, and why.
    pub notes: Vec<String>,
    /// What keys cost.
    pub loads: Vec<Load>,
    /// Which images the verifier has looked at, and what it found.
    pub verified: Vec<(String, Verified)>,
    /// What was wrong with guest, devices or image.
    pub problems: Vec<String>,
}

impl Findings {
    /// No step failed, and the image is what it must be.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty() && !self.verified.is_empty() && self.steps.iter().all(|s| s.error.is_none())
    }
}

/// The report on the terminal.
pub fn text(prepared: &Prepared, findings: &Findings) -> String {
    let mut text =
        format!("guest kernel  {}\naccelerator   {}\n", prepared.machine.kernel.name, prepared.machine.accel.name());
    match &findings.lacking {
        Some(reason) => {
            text += &format!(
                "LACKING       {LACKING} (docs/own-kernel.md).\n              Its words: {reason}\n              The rest is \
                 about files that are not encrypted.\n"
            );
        }
        None => text += "encryption    a key can be added and a policy be set\n",
    }
    for words in &findings.words {
        text += &format!("kernel        {words}\n");
    }
    for way in &findings.ways {
        let verdict = if findings.lacking.is_some() { "not encrypted" } else { way.verdict() };
        text += &format!("{:<14}{verdict}: {}\n", way.name, way.words());
    }
    let fell_back = findings.lacking.is_none() && findings.ways.iter().any(|way| way.verdict() == "FALLBACK");
    if fell_back && findings.words.iter().any(|w| w.ends_with("(native)")) {
        text += "note          The kernel said native, and the device encrypted nothing of some files. The public series looks for\n";
        text += "              hardware before it says that checksums need the fallback.\n";
    }
    for (image, verified) in &findings.verified {
        text += &format!("{image:<14}{verified}\n");
    }
    text += "\n";
    for step in &findings.steps {
        match &step.error {
            None => text += &format!("ok      {}\n", step.name),
            Some(error) => text += &format!("FAILED  {}: {error}\n", step.name),
        }
    }
    for note in &findings.notes {
        text += &format!("note    {note}\n");
    }
    let keys = keys(findings);
    if !keys.rows.is_empty() {
        text += &format!("\n{}", keys.text());
    } else if !findings.loads.is_empty() {
        text += "note    no load was native, so no key was programmed\n";
    }
    for problem in &findings.problems {
        text += &format!("FAILED: {problem}\n");
    }
    text
}

/// Program commands by keyslots.
fn keys(findings: &Findings) -> Table {
    let rows = findings.loads.iter().filter(|load| load.counters.crypto_requests > 0).map(|load| {
        let counters = &load.counters;
        let slots = match load.disk {
            Disk::Keyslots(n) => n.to_string(),
            Disk::KeysInRequests => "none".to_owned(),
            _ => "default".to_owned(),
        };
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}"));
        let mebibytes = counters.crypto_bytes as f64 / f64::from(1 << 20);
        let per_mebibyte = (counters.crypto_bytes > 0).then(|| counters.programs as f64 / mebibytes);
        vec![
            load.name.to_owned(),
            load.title.to_owned(),
            slots,
            counters.crypto_requests.to_string(),
            number(counters.programs_per_request()),
            number(per_mebibyte),
        ]
    });
    Table {
        title: "What keys cost".to_owned(),
        head: ["files", "load", "keyslots", "encrypted requests", "programs per request", "programs per MiB"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
        numbers: 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_is_enough() {
        let verified = Verified { files: 1, blocks: 1, checksums: 1 };
        let mut findings = Findings { verified: vec![("image".to_owned(), verified)], ..Findings::default() };
        assert!(findings.is_good());
        findings.steps.push(Step { name: "scrub".into(), error: Some("no".into()) });
        assert!(!findings.is_good());
        assert!(!Findings::default().is_good());
    }

    #[test]
    fn programs_by_keyslots() {
        let counters = Counters { crypto_requests: 100, crypto_bytes: 1 << 20, programs: 50, ..Counters::default() };
        let load = |disk| Load { disk, name: "nodatasum", title: "x", counters };
        let findings =
            Findings { loads: vec![load(Disk::Keyslots(4)), load(Disk::KeysInRequests)], ..Findings::default() };
        let rows = keys(&findings).rows;
        assert_eq!(rows[0][2..], ["4", "100", "0.50", "50.00"]);
        assert_eq!(rows[1][2], "none");
    }

    #[test]
    fn who_encrypted() {
        let counters = |crypto_bytes| Counters { crypto_bytes, ..Counters::default() };
        let verdict = |crypto_bytes| Way { name: "x", bytes: 1000, counters: counters(crypto_bytes) }.verdict();
        assert_eq!([0, 500, 1000].map(verdict), ["FALLBACK", "MIXED", "NATIVE"]);
    }
}
