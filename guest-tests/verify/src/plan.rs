// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a manifest entry to a plan: which bytes of the image must hold which data units of which plaintext.
//!
//! It refuses everything that could make a check pass without checking: plaintext of another length than the file, data
//! without a place or with two places, holes and unwritten extents under data that is not zero.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::fscrypt::{FileIdentity, MODE_AES_256_XTS, MasterKey, Method, Numbering};
use crate::hex;
use crate::hw_kdf;
use crate::manifest::{Entry, Extent, FscryptFile, PlainArea, Policy, XtsArea};

const FIEMAP_UNKNOWN: u32 = 0x002;
const FIEMAP_DELALLOC: u32 = 0x004;
const FIEMAP_NOT_ALIGNED: u32 = 0x100;
const FIEMAP_INLINE: u32 = 0x200;
const FIEMAP_TAIL: u32 = 0x400;
const FIEMAP_UNWRITTEN: u32 = 0x800;

/// How a plan's data is encrypted.
pub enum Crypto {
    /// AES-256-XTS.
    Xts {
        /// The key.
        key: Box<[u8; 64]>,
        /// How data units are numbered.
        numbering: Numbering,
    },
    /// Not at all.
    None,
}

/// A run of consecutive bytes, on the image and in the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the plaintext.
    pub logical: u64,
    /// Offset in the image.
    pub physical: u64,
    /// Length in bytes, a multiple of the data unit size.
    pub length: u64,
}

/// What must be found on the image for one entry.
pub struct Plan {
    /// The entry's name in messages.
    pub name: String,
    /// How it is encrypted, in words.
    pub method: &'static str,
    /// How it is encrypted.
    pub crypto: Crypto,
    /// Size of a data unit in bytes.
    pub data_unit_size: u64,
    /// The plaintext, padded with zeros to whole blocks.
    pub plaintext: Vec<u8>,
    /// Where its data lies on the image.
    pub pieces: Vec<Piece>,
    /// Data units that are zero and have no place on the disk (holes, unwritten extents).
    pub absent_units: u64,
    /// Whether it is for another part of the previous plan's file.
    pub continues: bool,
}

impl Plan {
    /// Makes the plan of a manifest entry. Names have none, and plans for files in btrfs come from the image.
    pub fn new(entry: &Entry, keys: &[MasterKey], plain_dir: &Path) -> Result<Option<Self>> {
        let plan = match entry {
            Entry::Names(_) | Entry::Btrfs(_) => return Ok(None),
            Entry::Fscrypt(file) => {
                Self::of_file(file, keys, plain_dir).with_context(|| format!("{} (inode {})", file.path, file.ino))
            }
            Entry::Xts(area) => Self::of_xts_area(area, plain_dir).with_context(|| area.path.clone()),
            Entry::Plain(area) => Self::of_plain_area(area, plain_dir).with_context(|| area.path.clone()),
        };
        plan.map(Some)
    }

    /// Whether the plan is about ciphertext at all.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.crypto, Crypto::Xts { .. })
    }

    fn of_file(file: &FscryptFile, keys: &[MasterKey], plain_dir: &Path) -> Result<Self> {
        let policy = &file.policy;
        ensure!(policy.contents_mode == MODE_AES_256_XTS, "contents mode {} is not AES-256-XTS", policy.contents_mode);
        let method = Method::from_flags(policy.flags)?;
        let master = master_key(policy, keys)?;
        let data_unit_size = match policy.log2_data_unit_size {
            0 => file.block_size,
            log2 @ 9..=16 => 1 << log2,
            log2 => bail!("data units of 2^{log2} bytes"),
        };
        ensure!(
            file.block_size.is_power_of_two() && (512..=65536).contains(&file.block_size),
            "a file system block of {} bytes",
            file.block_size
        );
        ensure!(
            data_unit_size <= file.block_size,
            "data units of {data_unit_size} bytes in blocks of {}",
            file.block_size
        );

        let identity = FileIdentity { method, nonce: file.nonce.0, ino: file.ino, fs_uuid: file.fs_uuid.0 };
        let mut plaintext = read_plain(plain_dir, &file.plain)?;
        ensure!(
            plaintext.len() as u64 == file.size,
            "the file has {} bytes, its plaintext copy {}",
            file.size,
            plaintext.len()
        );
        // A file system encrypts whole blocks, the last one padded with zeros.
        pad(&mut plaintext, file.block_size)?;
        let (pieces, absent) = place(&file.extents, file.offset, file.block_size, &plaintext)?;

        Ok(Self {
            name: file.path.clone(),
            method: method.name(),
            crypto: Crypto::Xts {
                key: Box::new(master.contents_key(&identity)?),
                numbering: master.numbering(&identity)?,
            },
            data_unit_size,
            plaintext,
            pieces,
            absent_units: absent / data_unit_size,
            continues: false,
        })
    }

    fn of_xts_area(area: &XtsArea, plain_dir: &Path) -> Result<Self> {
        ensure!(
            area.data_unit_size.is_power_of_two() && (512..=65536).contains(&area.data_unit_size),
            "data units of {} bytes",
            area.data_unit_size
        );
        let plaintext = read_plain(plain_dir, &area.plain)?;
        ensure!(
            !plaintext.is_empty() && (plaintext.len() as u64).is_multiple_of(area.data_unit_size),
            "its plaintext is no whole number of data units"
        );
        Ok(Self {
            name: area.path.clone(),
            method: "XTS area",
            crypto: Crypto::Xts {
                key: Box::new(match area.key.strip_prefix("hw-wrapped:") {
                    Some(imported) => hw_kdf::inline_encryption_key(&hex::decode(imported)?)?,
                    None => hex::decode_xts_key(&area.key)?,
                }),
                numbering: Numbering::From(area.first_dun),
            },
            data_unit_size: area.data_unit_size,
            pieces: vec![Piece { logical: 0, physical: area.offset, length: plaintext.len() as u64 }],
            plaintext,
            absent_units: 0,
            continues: false,
        })
    }

    fn of_plain_area(area: &PlainArea, plain_dir: &Path) -> Result<Self> {
        let plaintext = read_plain(plain_dir, &area.plain)?;
        ensure!(
            !plaintext.is_empty() && plaintext.len().is_multiple_of(512),
            "its contents are no whole number of sectors"
        );
        Ok(Self {
            name: area.path.clone(),
            method: "not encrypted",
            crypto: Crypto::None,
            data_unit_size: 512,
            pieces: vec![Piece { logical: 0, physical: area.offset, length: plaintext.len() as u64 }],
            plaintext,
            absent_units: 0,
            continues: false,
        })
    }
}

/// The master key that a policy names.
pub fn master_key<'a>(policy: &Policy, keys: &'a [MasterKey]) -> Result<&'a MasterKey> {
    ensure!(policy.version == 2, "policy version {}, expected 2", policy.version);
    keys.iter().find(|key| key.identifier() == policy.key_identifier.0).with_context(|| {
        format!("none of the keys has the identifier {} that its policy names", hex::encode(&policy.key_identifier.0))
    })
}

/// Where a file's plaintext is.
pub fn plain_path(plain_dir: &Path, name: &str) -> PathBuf {
    plain_dir.join(name.trim_start_matches('/'))
}

/// A file's plaintext.
pub fn read_plain(plain_dir: &Path, name: &str) -> Result<Vec<u8>> {
    ensure!(!name.split('/').any(|part| part == ".."), "the plaintext's name leads out of the results: {name}");
    let path = plain_path(plain_dir, name);
    fs::read(&path).with_context(|| format!("plaintext {}", path.display()))
}

/// Fills the last block with zeros, as a file system does.
pub fn pad(data: &mut Vec<u8>, block_size: u64) -> Result<()> {
    let length = (data.len() as u64).checked_next_multiple_of(block_size).context("too long")?;
    data.resize(usize::try_from(length)?, 0);
    Ok(())
}

/// Refuses an extent that does not say where its blocks are.
pub fn check_extent(extent: &Extent, block_size: u64) -> Result<()> {
    let unusable = FIEMAP_UNKNOWN | FIEMAP_DELALLOC | FIEMAP_NOT_ALIGNED | FIEMAP_INLINE | FIEMAP_TAIL;
    ensure!(extent.flags & unusable == 0, "an extent whose place on the disk is not known (flags {:#x})", extent.flags);
    ensure!(
        [extent.logical, extent.physical, extent.length].iter().all(|n| n.is_multiple_of(block_size)),
        "an extent that does not consist of whole blocks"
    );
    Ok(())
}

/// Turns extents into pieces up to the end of the padded plaintext, and counts the bytes without a place.
fn place(extents: &[Extent], offset: u64, block_size: u64, plaintext: &[u8]) -> Result<(Vec<Piece>, u64)> {
    let end = plaintext.len() as u64;
    let mut extents = extents.to_vec();
    extents.sort_by_key(|extent| extent.logical);

    let mut pieces = Vec::new();
    let mut absent = 0;
    let mut position = 0;
    for extent in &extents {
        check_extent(extent, block_size)?;
        // Blocks after the end are only reserved, or hold a file system's own data (fs-verity).
        if extent.logical >= end {
            break;
        }
        ensure!(extent.logical >= position, "two extents claim the same part of the file");
        absent += absent_bytes(plaintext, position, extent.logical)?;
        let stop = extent.logical.checked_add(extent.length).context("an extent beyond any file's end")?.min(end);
        if extent.flags & FIEMAP_UNWRITTEN != 0 {
            absent += absent_bytes(plaintext, extent.logical, stop)?;
        } else {
            pieces.push(Piece {
                logical: extent.logical,
                physical: offset.checked_add(extent.physical).context("an extent beyond any disk's end")?,
                length: stop - extent.logical,
            });
        }
        position = stop;
    }
    absent += absent_bytes(plaintext, position, end)?;
    Ok((pieces, absent))
}

/// A part of a file.
pub fn range(plaintext: &[u8], from: u64, to: u64) -> Result<&[u8]> {
    plaintext.get(usize::try_from(from)?..usize::try_from(to)?).context("an extent behind the end of the file")
}

/// The length of a part of the file that has no written blocks; it must read as zeros.
fn absent_bytes(plaintext: &[u8], from: u64, to: u64) -> Result<u64> {
    ensure!(
        range(plaintext, from, to)?.iter().all(|byte| *byte == 0),
        "bytes {from} to {to} hold data but have no written blocks on the disk"
    );
    Ok(to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, physical: u64, length: u64, flags: u32) -> Extent {
        Extent { logical, physical, length, flags }
    }

    #[test]
    fn pieces_are_clipped_and_moved() {
        let plaintext = vec![1; 8192];
        let (pieces, absent) = place(&[extent(0, 40960, 65536, 1)], 1 << 20, 4096, &plaintext).expect("pieces");
        assert_eq!(pieces, [Piece { logical: 0, physical: (1 << 20) + 40960, length: 8192 }]);
        assert_eq!(absent, 0);
    }

    #[test]
    fn holes_must_be_zero() {
        let mut plaintext = vec![1; 4096];
        plaintext.resize(12288, 0);
        plaintext.extend([2; 4096]);
        let extents =
            [extent(12288, 8192, 4096, 1), extent(0, 40960, 4096, 0), extent(4096, 45056, 4096, FIEMAP_UNWRITTEN)];
        let (pieces, absent) = place(&extents, 0, 4096, &plaintext).expect("pieces");
        assert_eq!((pieces.len(), absent), (2, 8192));
        plaintext[5000] = 1;
        assert!(place(&extents, 0, 4096, &plaintext).is_err());
        plaintext[5000] = 0;
        plaintext[9000] = 1;
        assert!(place(&extents, 0, 4096, &plaintext).is_err());
        assert!(place(&extents[1..], 0, 4096, &plaintext).is_err());
    }

    #[test]
    fn unusable_extents_are_refused() {
        let plaintext = vec![1; 4096];
        for flags in [FIEMAP_UNKNOWN, FIEMAP_DELALLOC, FIEMAP_INLINE] {
            assert!(place(&[extent(0, 4096, 4096, flags)], 0, 4096, &plaintext).is_err());
        }
        assert!(place(&[extent(0, 512, 4096, 0)], 0, 4096, &plaintext).is_err());
        let twice = [extent(0, 4096, 4096, 0), extent(0, 8192, 4096, 0)];
        assert!(place(&twice, 0, 4096, &[1; 8192]).is_err());
        assert!(place(&[], 0, 4096, &plaintext).is_err());
    }
}
