// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checksums: btrfs' four algorithms, from other code than the device's, and the csum tree.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use crc::{CRC_32_ISCSI, Crc};
use openssl::sha::sha256;

use super::disk::Btrfs;
use crate::hex;

const CSUM_TREE: u64 = 7;
const CSUM_OBJECT: u64 = u64::MAX - 9;
const CSUM_ITEM: u8 = 128;
/// Bytes of a metadata block's checksum, which is at its front.
const PLACE: usize = 32;
/// The maximum number of errors: a disk that is wrong everywhere needs no more.
const MOST_WRONG: usize = 20;

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A checksum algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// CRC-32C.
    Crc32c,
    /// XXH64 with seed 0.
    Xxhash64,
    /// SHA-256.
    Sha256,
    /// BLAKE2b with 32 bytes of output.
    Blake2b,
}

impl Algorithm {
    /// From its number in the superblock.
    pub fn of(number: u16) -> Result<Self> {
        Ok(match number {
            0 => Self::Crc32c,
            1 => Self::Xxhash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            _ => bail!("checksums of type {number}"),
        })
    }

    /// Its name for mkfs.btrfs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Xxhash64 => "xxhash",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2",
        }
    }

    /// Length of a checksum.
    pub fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// The checksum of these bytes.
    pub fn sum(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Crc32c => CRC32C.checksum(bytes).to_le_bytes().to_vec(),
            Self::Xxhash64 => xxh64(bytes).to_le_bytes().to_vec(),
            Self::Sha256 => sha256(bytes).to_vec(),
            Self::Blake2b => blake2b_simd::Params::new().hash_length(32).hash(bytes).as_bytes().to_vec(),
        }
    }

    /// Whether a block of metadata has its own checksum in front.
    pub fn fits(self, block: &[u8]) -> bool {
        block.split_at_checked(PLACE).is_some_and(|(place, rest)| place.starts_with(&self.sum(rest)))
    }
}

/// XXH64 (xxHash's specification 0.1.1) with seed 0. It is written here because the device uses the crate for it.
fn xxh64(bytes: &[u8]) -> u64 {
    const P: [u64; 5] = [
        0x9e37_79b1_85eb_ca87,
        0xc2b2_ae3d_27d4_eb4f,
        0x1656_67b1_9e37_79f9,
        0x85eb_ca77_c2b2_ae63,
        0x27d4_eb2f_1656_67c5,
    ];
    let round = |lane: u64, word: u64| lane.wrapping_add(word.wrapping_mul(P[1])).rotate_left(31).wrapping_mul(P[0]);
    let word = |eight: &[u8]| eight.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut hash = P[4];
    if !stripes.is_empty() {
        let mut lanes = [P[0].wrapping_add(P[1]), P[1], 0, 0u64.wrapping_sub(P[0])];
        for stripe in stripes {
            for (lane, eight) in lanes.iter_mut().zip(stripe.chunks(8)) {
                *lane = round(*lane, word(eight));
            }
        }
        hash = lanes.iter().zip([1, 7, 12, 18]).fold(0, |all, (lane, by)| lane.rotate_left(by).wrapping_add(all));
        for lane in lanes {
            hash = (hash ^ round(0, lane)).wrapping_mul(P[0]).wrapping_add(P[3]);
        }
    }
    hash = hash.wrapping_add(bytes.len() as u64);
    let (eights, rest) = rest.as_chunks::<8>();
    for eight in eights {
        hash = (hash ^ round(0, word(eight))).rotate_left(27).wrapping_mul(P[0]).wrapping_add(P[3]);
    }
    let (fours, rest) = rest.as_chunks::<4>();
    for four in fours {
        hash = (hash ^ word(four).wrapping_mul(P[0])).rotate_left(23).wrapping_mul(P[1]).wrapping_add(P[2]);
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P[1]);
    hash = (hash ^ hash >> 29).wrapping_mul(P[2]);
    hash ^ hash >> 32
}

/// The csum tree: a checksum for each sector of data that has one.
pub struct Sums {
    by_address: BTreeMap<u64, Vec<u8>>,
}

impl Btrfs<'_> {
    /// Reads the csum tree.
    pub fn sums(&self) -> Result<Sums> {
        let mut by_address = BTreeMap::new();
        let size = self.algorithm.size();
        self.tree(CSUM_TREE, &mut |key, item| {
            if key.object == CSUM_OBJECT && key.kind == CSUM_ITEM {
                ensure!(item.0.len().is_multiple_of(size), "a csum item of {} bytes", item.0.len());
                for (n, sum) in item.0.chunks(size).enumerate() {
                    let address = key.offset.checked_add(n as u64 * self.sector).context("an address out of range")?;
                    by_address.insert(address, sum.to_vec());
                }
            }
            Ok(())
        })?;
        Ok(Sums { by_address })
    }
}

impl Sums {
    /// Whether the sector at this address has a checksum.
    pub fn has(&self, address: u64) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Compares all checksums with those of the data on the image, for each copy; returns their number.
    pub fn compare(&self, fs: &Btrfs, wrong: &mut Vec<String>) -> Result<u64> {
        let mut compared = 0;
        for (address, sum) in &self.by_address {
            for place in fs.places(*address, fs.sector)? {
                compared += 1;
                let found = fs.algorithm.sum(&fs.read(place, fs.sector)?);
                if found != *sum && wrong.len() < MOST_WRONG {
                    wrong.push(format!(
                        "the {} of the sector at {address} (image offset {place}) is {}, but the csum tree has {}",
                        fs.algorithm.name(),
                        hex::encode(&found),
                        hex::encode(sum)
                    ));
                }
            }
        }
        Ok(compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that others have published (RFC 3720, xxHash's and BLAKE2's own test programs) or that Python's hashlib has made.
    #[test]
    fn known_checksums() {
        let sum = |algorithm: Algorithm, bytes: &[u8]| hex::encode(&algorithm.sum(bytes));
        assert_eq!(sum(Algorithm::Crc32c, &[0; 32]), "aa36918a");
        assert_eq!(sum(Algorithm::Crc32c, b"123456789"), "839206e3");
        assert_eq!(xxh64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xxh64(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(xxh64(b"abc"), 0x44bc_2cf5_ad77_0999);
        assert_eq!(xxh64(b"Call me Ishmael. Some years ago--never mind how long precisely-"), 0x02a2_e854_70d6_fd96);
        assert_eq!(sum(Algorithm::Blake2b, b"abc"), "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
        assert_eq!(sum(Algorithm::Sha256, b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let all = [Algorithm::Crc32c, Algorithm::Xxhash64, Algorithm::Sha256, Algorithm::Blake2b];
        for (number, algorithm) in all.into_iter().enumerate() {
            assert_eq!(Algorithm::of(number as u16).expect("algorithm"), algorithm);
            assert_eq!(algorithm.sum(&[1; 100]).len(), algorithm.size());
        }
        assert!(Algorithm::of(4).is_err());
    }
}
