// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The result of a verification, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

use crate::btrfs::Outcome;
use crate::check::Mismatch;
use crate::hex;
use crate::scan::Hit;

/// The maximum of mismatches in the text: the first ones are enough. The JSON has all.
const MISMATCHES_SHOWN: usize = 10;
const MISMATCHES_SHOWN_PER_FILE: usize = 3;

/// Everything that was verified, and everything that was wrong.
#[derive(Default)]
pub struct Report {
    /// Encrypted files and areas with at least one data unit on the disk.
    pub files: u64,
    /// Empty files and files that are one hole.
    pub files_without_data: u64,
    /// Encrypted data units compared.
    pub data_units: u64,
    /// Bytes of these data units.
    pub bytes: u64,
    /// Areas that must hold plaintext, and bytes of them.
    pub plain_areas: u64,
    /// Bytes compared in such areas.
    pub plain_bytes: u64,
    /// Data units that read as zeros and have no place on the disk.
    pub absent_units: u64,
    /// Data units compared, by method and size.
    pub by_method: BTreeMap<(&'static str, u64), u64>,
    /// Bytes of the image that were searched for sentinels.
    pub scanned_bytes: u64,
    /// Sentinels searched for.
    pub sentinels: usize,
    /// Directories whose names were compared.
    pub directories: u64,
    /// Names in them.
    pub names: u64,
    /// What was found of each btrfs.
    pub btrfs: Vec<Outcome>,
    /// What is wrong with names.
    pub wrong_names: Vec<String>,
    /// Data units that are wrong.
    pub mismatches: Vec<Mismatch>,
    /// Plaintext found on the image.
    pub hits: Vec<Hit>,
}

impl Report {
    /// Whether all is well and something was verified at all.
    pub fn is_verified(&self) -> bool {
        let compared = self.data_units > 0 || self.checksums() > 0;
        compared
            && self.mismatches.is_empty()
            && self.wrong_names.is_empty()
            && self.hits.is_empty()
            && self.wrong_btrfs().next().is_none()
    }

    /// Entries of csum trees that were compared with checksums computed here.
    pub fn checksums(&self) -> u64 {
        self.btrfs.iter().map(|fs| fs.checksums).sum()
    }

    fn wrong_btrfs(&self) -> impl Iterator<Item = &String> {
        self.btrfs.iter().flat_map(|fs| &fs.wrong)
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        let by_method: Vec<Value> = self
            .by_method
            .iter()
            .map(|((method, size), units)| json!({"method": method, "data_unit_size": size, "data_units": units}))
            .collect();
        let mismatches: Vec<Value> = self.mismatches.iter().map(mismatch_json).collect();
        let hits: Vec<Value> = self
            .hits
            .iter()
            .map(|hit| json!({"sentinel": hit.sentinel, "first": hit.first, "count": hit.count}))
            .collect();
        json!({
            "verified": self.is_verified(),
            "files": self.files,
            "files_without_data": self.files_without_data,
            "data_units": self.data_units,
            "bytes": self.bytes,
            "plain_areas": self.plain_areas,
            "plain_bytes": self.plain_bytes,
            "absent_units": self.absent_units,
            "by_method": by_method,
            "directories": self.directories,
            "names": self.names,
            "wrong_names": self.wrong_names,
            "checksums": self.checksums(),
            "btrfs": self.btrfs.iter().map(btrfs_json).collect::<Vec<_>>(),
            "scanned_bytes": self.scanned_bytes,
            "sentinels": self.sentinels,
            "mismatches": mismatches,
            "plaintext_found": hits,
        })
    }
}

fn btrfs_json(fs: &Outcome) -> Value {
    json!({
        "algorithm": fs.algorithm,
        "nodes": fs.nodes,
        "checksums": fs.checksums,
        "encrypted_extents": fs.encrypted_extents,
        "nonces": fs.nonces.len(),
        "files_with_checksums": fs.files_with_checksums,
        "files_without_checksums": fs.files_without_checksums,
        "wrong": fs.wrong,
    })
}

fn mismatch_json(mismatch: &Mismatch) -> Value {
    json!({
        "file": mismatch.name,
        "data_unit": mismatch.index,
        "image_offset": mismatch.physical,
        "dun": mismatch.dun.map(|dun| dun.to_string()),
        "expected": hex::encode(&mismatch.expected),
        "found": hex::encode(&mismatch.found),
        "first_difference": mismatch.first_difference,
        "guess": mismatch.guess,
    })
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: data unit {} (image offset {}", self.name, self.index, self.physical)?;
        if let Some(dun) = self.dun {
            write!(f, ", data unit number {dun}")?;
        }
        write!(
            f,
            ") is wrong from byte {}: expected {}.., found {}..: {}",
            self.first_difference,
            hex::encode(&self.expected),
            hex::encode(&self.found),
            self.guess
        )
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut shown_of: BTreeMap<&str, usize> = BTreeMap::new();
        let shown = self.mismatches.iter().filter(|mismatch| {
            let count = shown_of.entry(&mismatch.name).or_default();
            *count += 1;
            *count <= MISMATCHES_SHOWN_PER_FILE
        });
        let mut left = self.mismatches.len();
        for mismatch in shown.take(MISMATCHES_SHOWN) {
            writeln!(f, "{mismatch}")?;
            left -= 1;
        }
        if left > 0 {
            writeln!(f, "... and {left} more data units")?;
        }
        for wrong in self.wrong_names.iter().take(MISMATCHES_SHOWN).chain(self.wrong_btrfs().take(MISMATCHES_SHOWN)) {
            writeln!(f, "{wrong}")?;
        }
        for hit in &self.hits {
            writeln!(f, "{hit}")?;
        }
        if !self.is_verified() {
            return if self.data_units == 0 && self.btrfs.is_empty() {
                write!(f, "nothing verified: the image has no encrypted data unit")
            } else {
                write!(
                    f,
                    "ciphertext NOT verified: {} of {} data units wrong, {} of {} names wrong, {} sentinels found on the \
                     image, {} things wrong with btrfs",
                    self.mismatches.len(),
                    self.data_units,
                    self.wrong_names.len(),
                    self.names,
                    self.hits.len(),
                    self.wrong_btrfs().count()
                )
            };
        }
        write!(f, "ciphertext verified: {} files, {} blocks", self.files, self.data_units)?;
        let kinds: Vec<String> = self
            .by_method
            .iter()
            .map(|((method, size), units)| format!("{units} data units of {size} bytes, {method}"))
            .collect();
        if !kinds.is_empty() {
            write!(f, " ({})", kinds.join("; "))?;
        }
        for fs in &self.btrfs {
            write!(
                f,
                "\nbtrfs verified: {} checksums ({}) of data on the image, {} nodes; {} encrypted extents with {} nonces; {} files \
                 with checksums, {} without",
                fs.checksums,
                fs.algorithm,
                fs.nodes,
                fs.encrypted_extents,
                fs.nonces.len(),
                fs.files_with_checksums,
                fs.files_without_checksums
            )?;
        }
        if self.directories > 0 {
            write!(f, "\nnames verified: {} in {} directories", self.names, self.directories)?;
        }
        if self.plain_areas > 0 {
            write!(f, "\nplain data verified: {} areas, {} bytes", self.plain_areas, self.plain_bytes)?;
        }
        if self.sentinels > 0 {
            write!(f, "\nno plaintext in {} bytes of image", self.scanned_bytes)?;
        }
        Ok(())
    }
}
