// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a file in btrfs to plans: which bytes of the image must hold which data units of which plaintext. Each encrypted extent has
//! a key of its own.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use super::disk::{Btrfs, Bytes};
use super::files::{Data, Extent, Inode, Inodes};
use super::sums::Sums;
use crate::fscrypt::{MODE_AES_256_XTS, MasterKey, Numbering};
use crate::hex::{self, Bytes16};
use crate::manifest::{BtrfsFile, Policy};
use crate::plan::{self, Crypto, Piece, Plan};

const FSCRYPT: u8 = 1;

/// Adds the plans of a file, and what is wrong with it apart from its data.
pub fn add(
    fs: &Btrfs,
    inodes: &Inodes,
    sums: &Sums,
    file: &BtrfsFile,
    keys: &[MasterKey],
    plain_dir: &Path,
    outcome: &mut Outcome,
) -> Result<()> {
    let inode = inodes.get(file.ino).context("there is no such inode")?;
    let mut plaintext = plan::read_plain(plain_dir, &file.plain)?;
    ensure!(
        plaintext.len() as u64 == inode.size,
        "the file has {} bytes, its plaintext copy {}",
        inode.size,
        plaintext.len()
    );
    plan::pad(&mut plaintext, fs.sector)?;
    let master = match (&inode.context, file.encrypted) {
        (Some(context), true) => Some((Policy::of_context(context)?, keys)),
        (None, false) => None,
        (Some(_), false) => return wrong(outcome, file, "it is encrypted, and should not be"),
        (None, true) => return wrong(outcome, file, "it is not encrypted, and should be"),
    };
    let count = inode.extents.len();
    if count < file.extents {
        wrong(outcome, file, &format!("it has {count} extents, and should have at least {}", file.extents))?;
    }
    let mut position = 0;
    let mut first = true;
    for (start, extent) in &inode.extents {
        ensure!(*start >= position, "two extents claim the same part of the file");
        absent(&plaintext, position, *start, outcome, file)?;
        let end = start.checked_add(extent.length).context("an extent beyond any file's end")?;
        position = end.min(plaintext.len() as u64).max(*start);
        let part = plan::range(&plaintext, *start, position)?;
        if part.is_empty() {
            continue;
        }
        let problem = match &extent.data {
            _ if extent.compression != 0 => {
                Some(format!("is compressed (type {}), which is not supported", extent.compression))
            }
            _ if extent.encryption > FSCRYPT => Some(format!("has encryption {}", extent.encryption)),
            Data::Nothing => {
                absent(&plaintext, *start, position, outcome, file)?;
                None
            }
            Data::Inline(_) if master.is_some() => Some("lies in the tree, not encrypted".to_owned()),
            Data::Inline(bytes) => {
                // Inline data ends with the file, not with the sector.
                let whole = start.checked_add(bytes.len() as u64).is_some_and(|end| end >= inode.size);
                (!whole || !part.starts_with(bytes)).then(|| "lies in the tree with other contents".to_owned())
            }
            Data::At(address) => {
                let nonces = &mut outcome.nonces;
                match crypto(inode, *start, (*address, extent), master.as_ref(), nonces, fs.sector) {
                    Ok((crypto, unit)) => {
                        check_sums(inode, sums, fs, (*address, part.len() as u64), file, outcome);
                        let places = fs.places(*address, part.len() as u64)?;
                        let length = part.len() as u64;
                        let pieces = places.iter().map(|place| Piece { logical: 0, physical: *place, length });
                        outcome.encrypted_extents += u64::from(matches!(crypto, Crypto::Xts { .. }));
                        outcome.plans.push(Plan {
                            name: format!("{}, extent at {start}", file.path),
                            method: "per-extent keys",
                            crypto,
                            data_unit_size: unit,
                            plaintext: part.to_vec(),
                            pieces: pieces.collect(),
                            absent_units: 0,
                            continues: !std::mem::take(&mut first),
                        });
                        None
                    }
                    Err(error) => Some(format!("{error:#}")),
                }
            }
        };
        if let Some(problem) = problem {
            outcome.wrong.push(format!("{}: the extent at {start} {problem}", file.path));
        }
    }
    absent(&plaintext, position, plaintext.len() as u64, outcome, file)?;
    let count =
        if inode.has_checksums() { &mut outcome.files_with_checksums } else { &mut outcome.files_without_checksums };
    *count += 1;
    Ok(())
}

fn wrong(outcome: &mut Outcome, file: &BtrfsFile, what: &str) -> Result<()> {
    outcome.wrong.push(format!("{}: {what}", file.path));
    Ok(())
}

/// A part of the file without a place on the disk must read as zeros.
fn absent(plaintext: &[u8], from: u64, to: u64, outcome: &mut Outcome, file: &BtrfsFile) -> Result<()> {
    let to = to.min(plaintext.len() as u64);
    if from < to && plan::range(plaintext, from, to)?.iter().any(|byte| *byte != 0) {
        outcome.wrong.push(format!("{}: bytes {from} to {to} hold data but have no place on the disk", file.path));
    }
    Ok(())
}

/// How an extent is encrypted, and the size of its data units.
fn crypto(
    inode: &Inode,
    start: u64,
    (address, extent): (u64, &Extent),
    master: Option<&(Policy, &[MasterKey])>,
    nonces: &mut HashMap<[u8; 16], u64>,
    sector: u64,
) -> Result<(Crypto, u64)> {
    let Some((policy, keys)) = master else {
        ensure!(extent.encryption == 0, "has encryption {} in a file that is not encrypted", extent.encryption);
        return Ok((Crypto::None, sector));
    };
    ensure!(extent.encryption == FSCRYPT, "is not encrypted");
    let context = inode.extent_contexts.get(&start).context("has no encryption context")?;
    let (identifier, nonce) = extent_context(context)?;
    ensure!(identifier == policy.key_identifier.0, "is encrypted with another key than its file's");
    let unit = match policy.log2_data_unit_size {
        0 => sector,
        log2 @ 9..=16 => 1 << log2,
        log2 => anyhow::bail!("has data units of 2^{log2} bytes"),
    };
    let begin = address.saturating_sub(extent.within);
    let other = *nonces.entry(nonce).or_insert(begin);
    ensure!(
        other == begin,
        "has the nonce of another extent, which begins at {other}: the same key and data unit numbers for other data"
    );
    let key = plan::master_key(policy, keys)?.extent_key(&nonce)?;
    Ok((Crypto::Xts { key: Box::new(key), numbering: Numbering::From(extent.within / unit) }, unit))
}

/// fscrypt's context of an extent: the identifier of the master key, and the nonce.
fn extent_context(context: &[u8]) -> Result<([u8; 16], [u8; 16])> {
    let context = Bytes(context);
    ensure!(context.u8(0)? == 1, "has an encryption context of version {}", context.u8(0)?);
    ensure!(context.u8(1)? == MODE_AES_256_XTS, "has encryption mode {}", context.u8(1)?);
    Ok((context.slice(2, 16)?.try_into()?, context.slice(18, 16)?.try_into()?))
}

fn check_sums(
    inode: &Inode,
    sums: &Sums,
    fs: &Btrfs,
    (address, length): (u64, u64),
    file: &BtrfsFile,
    outcome: &mut Outcome,
) {
    let sectors = (0..length / fs.sector).filter(|n| sums.has(address + n * fs.sector)).count() as u64;
    let expected = if inode.has_checksums() { length / fs.sector } else { 0 };
    if sectors != expected {
        outcome.wrong.push(format!(
            "{}: the csum tree has checksums of {sectors} of the {} sectors at {address}, and should have {expected}",
            file.path,
            length / fs.sector
        ));
    }
}

impl Policy {
    /// Parses fscrypt's context of an inode.
    fn of_context(context: &[u8]) -> Result<Self> {
        let bytes = Bytes(context);
        let policy = Self {
            version: bytes.u8(0)?,
            contents_mode: bytes.u8(1)?,
            filenames_mode: bytes.u8(2)?,
            flags: bytes.u8(3)?,
            log2_data_unit_size: bytes.u8(4)?,
            key_identifier: Bytes16(bytes.slice(8, 16)?.try_into()?),
        };
        ensure!(policy.version == 2, "policy version {}: {}", policy.version, hex::encode(context));
        ensure!(policy.contents_mode == MODE_AES_256_XTS, "contents mode {} is not AES-256-XTS", policy.contents_mode);
        Ok(policy)
    }
}
