// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Digests of the ciphertext of data units. This module knows no keys, no DUNs and no guest memory.
//!
//! A digest consists of the bytes that btrfs stores. Other crates compute it.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::Digest;
use smallvec::SmallVec;

/// Bytes of digests that need no allocation. They are a part of the context of each request, so there are few.
pub const INLINE_BYTES: usize = 32;

/// A digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestAlgorithm {
    /// CRC-32C (RFC 3720), little-endian.
    Crc32c,
    /// XXH64 with seed 0, little-endian.
    Xxhash64,
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// BLAKE2b with 32 bytes and without a key (RFC 7693).
    Blake2b256,
}

impl DigestAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Crc32c, Self::Xxhash64, Self::Sha256, Self::Blake2b256];

    /// The name: that of the btrfs tools, but for BLAKE2b with the size of the digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Xxhash64 => "xxhash64",
            Self::Sha256 => "sha256",
            Self::Blake2b256 => "blake2b-256",
        }
    }

    /// Bytes of a digest.
    pub fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b256 => 32,
        }
    }

    /// Digests some bytes.
    pub fn digest(self, bytes: &[u8]) -> SmallVec<[u8; 32]> {
        let mut digest = SmallVec::new();
        self.append(bytes, |part| digest.extend_from_slice(part));
        digest
    }

    #[inline]
    fn append(self, bytes: &[u8], mut to: impl FnMut(&[u8])) {
        match self {
            Self::Crc32c => to(&crc_fast::crc32_iscsi(bytes).to_le_bytes()),
            Self::Xxhash64 => to(&twox_hash::XxHash64::oneshot(0, bytes).to_le_bytes()),
            Self::Sha256 => to(&sha2::Sha256::digest(bytes)),
            Self::Blake2b256 => to(&blake2::Blake2b256::digest(bytes)),
        }
    }
}

impl fmt::Display for DigestAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DigestAlgorithm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        found.ok_or_else(|| format!("there is no digest algorithm {name:?}; there are {}", names()))
    }
}

impl Serialize for DigestAlgorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The digests of the data units of a request, in order.
#[derive(Debug)]
pub struct Digests {
    algorithm: DigestAlgorithm,
    unit_bits: u8,
    bytes: SmallVec<[u8; INLINE_BYTES]>,
}

impl Digests {
    /// No digests yet.
    pub fn new(algorithm: DigestAlgorithm, unit_bits: u8) -> Self {
        Self { algorithm, unit_bits, bytes: SmallVec::new() }
    }

    /// Allocates memory for so many bytes of digests. Returns false if there is none.
    #[must_use]
    pub fn reserve(&mut self, bytes: usize) -> bool {
        self.bytes.try_reserve_exact(bytes).is_ok()
    }

    /// Bytes of a data unit.
    pub fn unit(&self) -> u64 {
        1u64.checked_shl(self.unit_bits.into()).unwrap_or(u64::MAX)
    }

    /// Digests whole data units. The first one begins `offset` bytes into the request. Digests of this and later data units that
    /// were there before are dropped: the engine repeats a part if it could not use the image in place after all.
    #[inline]
    pub fn add(&mut self, offset: u64, ciphertext: &[u8]) {
        self.drop_from(offset);
        let unit = usize::try_from(self.unit()).unwrap_or(usize::MAX);
        for unit in ciphertext.chunks_exact(unit) {
            self.algorithm.append(unit, |digest| self.bytes.extend_from_slice(digest));
        }
    }

    /// As [`add`](Self::add), for a cipher that computes the CRC-32Cs itself: returns room for those of `len` bytes. `None`: the
    /// algorithm is another one.
    #[inline]
    pub fn crc32c_room(&mut self, offset: u64, len: usize) -> Option<&mut [[u8; 4]]> {
        if self.algorithm != DigestAlgorithm::Crc32c {
            return None;
        }
        self.drop_from(offset);
        let before = self.bytes.len();
        self.bytes.resize(before + 4 * (len >> self.unit_bits.min(31)), 0);
        Some(self.bytes.get_mut(before..)?.as_chunks_mut().0)
    }

    #[inline]
    fn drop_from(&mut self, offset: u64) {
        let before = usize::try_from(offset >> self.unit_bits.min(31)).unwrap_or(usize::MAX);
        self.bytes.truncate(before.saturating_mul(self.algorithm.size()));
    }

    /// The digests.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes digests wrong, for a fault: those of data units whose numbers are multiples of `every`. `first` is the number of the
    /// first data unit.
    pub fn flip(&mut self, first: u128, every: u64) {
        for (digest, number) in self.bytes.chunks_exact_mut(self.algorithm.size()).zip(0u128..) {
            if first.wrapping_add(number).is_multiple_of(every.into())
                && let Some(byte) = digest.first_mut()
            {
                *byte ^= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Published values. CRC-32C: RFC 3720, B.4. XXH64: the xxHash specification, and xxhash for Python. SHA-256: the examples of
    /// FIPS 180-4. BLAKE2b-256: `b2sum -l 256` of the BLAKE2 site. The first two are little-endian here.
    #[test]
    fn published_values() {
        use DigestAlgorithm::{Blake2b256, Crc32c, Sha256, Xxhash64};
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        for (algorithm, bytes, expected) in [
            (Crc32c, &[0; 32][..], "aa36918a"),
            (Crc32c, &[0xff; 32][..], "43aba862"),
            (Crc32c, &ascending, "4e79dd46"),
            (Crc32c, &descending, "5cdb3f11"),
            (Crc32c, b"123456789", "839206e3"),
            (Xxhash64, b"", "99e9d85137db46ef"),
            (Xxhash64, b"abc", "990977adf52cbc44"),
            (Sha256, b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (Sha256, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Blake2b256, b"", "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"),
            (Blake2b256, b"abc", "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"),
        ] {
            assert_eq!(hex(&algorithm.digest(bytes)), expected, "{algorithm}");
            assert_eq!(expected.len(), 2 * algorithm.size());
        }
    }

    #[test]
    fn data_units_may_come_in_any_steps_and_twice() {
        let data: Vec<u8> = (0..40 * 512u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        for algorithm in DigestAlgorithm::ALL {
            let expected: Vec<u8> = data.chunks(1024).flat_map(|unit| algorithm.digest(unit)).collect();
            let mut digests = Digests::new(algorithm, 10);
            assert!(digests.reserve(20 * algorithm.size()));
            for (offset, len) in [(0, 3), (3, 1), (0, 7), (7, 13), (12, 8)] {
                digests.add(offset << 10, &data[(offset as usize) << 10..][..len << 10]);
            }
            assert_eq!(digests.bytes(), expected, "{algorithm}");
            digests.flip(u128::MAX - 3, 4);
            let changed = digests.bytes().chunks(algorithm.size()).zip(expected.chunks(algorithm.size()));
            let changed: Vec<_> = changed.map(|(digest, good)| digest[0] ^ good[0]).collect();
            assert_eq!(changed, [1, 0, 0, 0].repeat(5));
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        assert!("blake2b".parse::<DigestAlgorithm>().expect_err("unknown").contains("blake2b-256"));
        assert!(!Digests::new(DigestAlgorithm::Sha256, 9).reserve(usize::MAX));
    }
}
