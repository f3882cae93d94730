// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks the ciphertext on a disk image against what fscrypt's definition says it must be.
//!
//! A guest wrote files through inline encryption. The guest then recorded, for each file, where its blocks are and its
//! policy and nonce (`manifest.jsonl`), and saved the plaintext and the master keys. From these alone, with OpenSSL,
//! this program computes every byte of ciphertext and compares it with the image. It shares no code with the device.
//!
//! The results directory holds:
//!
//! | name | content |
//! |---|---|
//! | `manifest.jsonl` | one JSON object per file, see [`manifest`] |
//! | `keys` | the master keys, see [`keys`] |
//! | `plain/` | the plaintext of every file |
//! | `sentinel` | texts, one a line, that occur in the plaintext; no 16 bytes of them may be on the image |
//!
//! | step | module |
//! |---|---|
//! | which bytes must be where | [`plan`], with [`fscrypt`] for keys and data unit numbers |
//! | the key that hardware derives from a hardware-wrapped key | [`hw_kdf`] |
//! | are they there | [`check`], with [`xts`]; [`guess`] says what is there instead |
//! | are the names of files right | [`names`] |
//! | btrfs, whose files are found on the image itself, and its checksums | [`btrfs`] |
//! | is plaintext anywhere | [`scan`] |
//! | the report | [`report`] |

pub mod btrfs;
pub mod check;
pub mod fscrypt;
pub mod guess;
pub mod hex;
pub mod hw_kdf;
pub mod keys;
pub mod manifest;
pub mod names;
pub mod plan;
pub mod report;
pub mod scan;
pub mod xts;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use memchr::memmem;

use crate::fscrypt::MasterKey;
use crate::manifest::{BtrfsFile, Entry};
use crate::plan::Plan;
use crate::report::Report;
use crate::scan::Hit;

/// Verifies an image against the results of a test run.
///
/// With `plain_is_shared`, `plain/` also has files of other images; otherwise the manifest must name each.
///
/// An error means that verification was not possible. What it found wrong is in the report.
pub fn verify(image: &Path, results: &Path, plain_is_shared: bool) -> Result<Report> {
    let entries = manifest::read(&results.join("manifest.jsonl"))?;
    // A run without fscrypt (dm-crypt only) has no master keys.
    let needs_keys = |entry: &Entry| match entry {
        Entry::Fscrypt(_) | Entry::Names(_) => true,
        Entry::Btrfs(file) => file.encrypted,
        Entry::Xts(_) | Entry::Plain(_) => false,
    };
    let keys = if entries.iter().any(needs_keys) { keys::read(&results.join("keys"))? } else { Vec::new() };
    if !plain_is_shared {
        every_plaintext_is_named(&entries, &results.join("plain"))?;
    }
    let mut plans: Vec<Plan> = entries
        .iter()
        .filter_map(|entry| Plan::new(entry, &keys, &results.join("plain")).transpose())
        .collect::<Result<_>>()?;
    let (file, size) = open(image)?;
    let mut report = Report::default();
    check_btrfs(&file, &entries, &keys, &results.join("plain"), &mut plans, &mut report)?;
    // Where nothing is encrypted, nothing is secret.
    let sentinels = if report.btrfs.is_empty() || plans.iter().any(Plan::is_encrypted) {
        sentinels(results, &plans)?
    } else {
        Vec::new()
    };

    for plan in &plans {
        let outcome = check::check(&file, plan, &plans)?;
        if plan.is_encrypted() {
            if plan.continues {
                // Its file has been counted.
            } else if outcome.units > 0 {
                report.files += 1;
            } else {
                report.files_without_data += 1;
            }
            report.data_units += outcome.units;
            report.bytes += outcome.bytes;
            *report.by_method.entry((plan.method, plan.data_unit_size)).or_default() += outcome.units;
        } else {
            report.plain_areas += 1;
            report.plain_bytes += outcome.bytes;
        }
        report.absent_units += plan.absent_units;
        report.mismatches.extend(outcome.mismatches);
    }
    for entry in &entries {
        if let Entry::Names(directory) = entry {
            let outcome = names::check(&file, directory, &keys)?;
            report.directories += 1;
            report.names += outcome.names;
            report.wrong_names.extend(outcome.wrong);
        }
    }
    if !sentinels.is_empty() {
        report.hits = scan::scan(&file, size, &sentinels)?;
        report.scanned_bytes = size;
    }
    report.sentinels = sentinels.len();
    Ok(report)
}

/// Searches a whole image for pieces of a text.
pub fn search(image: &Path, text: &str) -> Result<Vec<Hit>> {
    let (file, size) = open(image)?;
    scan::scan(&file, size, &scan::parse_sentinels(text)?)
}

/// An image and its size.
fn open(image: &Path) -> Result<(File, u64)> {
    let mut file = File::open(image).with_context(|| format!("{}", image.display()))?;
    let size = file.seek(SeekFrom::End(0))?;
    Ok((file, size))
}

/// Requires an entry for each plaintext: without one, a file was forgotten.
fn every_plaintext_is_named(entries: &[Entry], plain_dir: &Path) -> Result<()> {
    let mut named = HashSet::new();
    for entry in entries {
        let plain = match entry {
            Entry::Fscrypt(file) => &file.plain,
            Entry::Xts(area) => &area.plain,
            Entry::Plain(area) => &area.plain,
            Entry::Names(_) => continue,
            Entry::Btrfs(file) => &file.plain,
        };
        named.insert(plan::plain_path(plain_dir, plain));
    }
    let mut directories = vec![plain_dir.to_owned()];
    directories.retain(|directory| directory.exists());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("{}", directory.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                ensure!(
                    named.contains(&entry.path()),
                    "no entry of the manifest names the plaintext {}",
                    entry.path().display()
                );
            }
        }
    }
    Ok(())
}

/// Checks each btrfs with listed files.
fn check_btrfs(
    image: &File,
    entries: &[Entry],
    keys: &[MasterKey],
    plain_dir: &Path,
    plans: &mut Vec<Plan>,
    report: &mut Report,
) -> Result<()> {
    let mut listed: BTreeMap<u64, Vec<&BtrfsFile>> = BTreeMap::new();
    for entry in entries {
        if let Entry::Btrfs(file) = entry {
            listed.entry(file.offset).or_default().push(file);
        }
    }
    for (base, files) in listed {
        let mut outcome = btrfs::check(image, base, &files, keys, plain_dir)
            .with_context(|| format!("the btrfs at offset {base} of the image"))?;
        plans.append(&mut outcome.plans);
        report.btrfs.push(outcome);
    }
    Ok(())
}

/// The texts that must be nowhere on the image.
fn sentinels(results: &Path, plans: &[Plan]) -> Result<Vec<String>> {
    let file = results.join("sentinel");
    let sentinels = fs::read_to_string(&file)
        .map_err(anyhow::Error::from)
        .and_then(|text| scan::parse_sentinels(&text))
        .with_context(|| format!("{}", file.display()))?;
    check_sentinels(&sentinels, plans)?;
    Ok(sentinels)
}

/// Requires each sentinel in some plaintext: otherwise the search for it would prove nothing.
fn check_sentinels(sentinels: &[String], plans: &[Plan]) -> Result<()> {
    for sentinel in sentinels {
        let finder = memmem::Finder::new(sentinel);
        ensure!(
            plans.iter().any(|plan| plan.is_encrypted() && finder.find(&plan.plaintext).is_some()),
            "the sentinel \"{sentinel}\" occurs in none of the files: searching the image for it would prove nothing"
        );
    }
    Ok(())
}
