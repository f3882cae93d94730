// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data and keys for tests, and the reference encryption.

use crate::wire;
use openssl::symm::{Cipher, Crypter, Mode};

/// The bytes of buffers before the device writes to them.
pub const FILL: u8 = 0xee;

/// Numbers that are random enough to spread requests and to fill memory (xorshift64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of this number.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)] // it never ends
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A key with different halves.
    pub fn key(&mut self) -> [u8; 64] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// A key with different halves.
pub fn key(seed: u64) -> [u8; 64] {
    Random::new(seed.wrapping_add(1000)).key()
}

/// OpenSSL's AES-256-XTS over data units, the tweak being the low 128 bits of the DUN.
pub fn openssl_xts(key: &[u8; 64], dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    xts(Mode::Encrypt, key, dun, unit, data)
}

/// Decrypts.
pub fn openssl_xts_decrypt(key: &[u8; 64], dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    xts(Mode::Decrypt, key, dun, unit, data)
}

/// The digests of data units by an algorithm of the wire, in the bytes that btrfs stores; by other crates than the device's.
pub fn digests(algorithm: u8, unit: usize, data: &[u8]) -> Vec<u8> {
    const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let digest = |unit: &[u8]| match algorithm {
        wire::CRC32C => CRC32C.checksum(unit).to_le_bytes().to_vec(),
        wire::XXHASH64 => xxhash_rust::xxh64::xxh64(unit, 0).to_le_bytes().to_vec(),
        wire::SHA256 => openssl::sha::sha256(unit).to_vec(),
        wire::BLAKE2B_256 => blake2b_simd::Params::new().hash_length(32).hash(unit).as_bytes().to_vec(),
        _ => panic!("there is no algorithm {algorithm}"),
    };
    data.chunks(unit).flat_map(digest).collect()
}

/// SP 800-108 counter mode over OpenSSL's AES-256-CMAC, from the protocol's text.
fn kdf(key: &[u8], context: &[u8], len: usize) -> Vec<u8> {
    let pkey = openssl::pkey::PKey::cmac(&Cipher::aes_256_cbc(), key).expect("OpenSSL");
    let label = [0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x20];
    let block = |i: u32| {
        let bits = (len as u32 * 8).to_be_bytes();
        let input = [&i.to_be_bytes()[..], &label, &[0], context, &bits].concat();
        openssl::sign::Signer::new_without_digest(&pkey).expect("OpenSSL").sign_oneshot_to_vec(&input).expect("OpenSSL")
    };
    (1..).flat_map(block).take(len).collect()
}

/// The key that the emulated hardware derives from a raw one.
pub fn inline_encryption_key(raw: &[u8]) -> [u8; 64] {
    let context = [&b"inline encryption key"[..], &[0; 6], &[2, 0x43, 0, 0x82, 0x50, 0, 0, 0, 0]].concat();
    kdf(raw, &context, 64).try_into().expect("64 bytes")
}

/// The software secret that the emulated hardware derives from a raw key.
pub fn software_secret(raw: &[u8]) -> Vec<u8> {
    let context = [&b"raw secret"[..], &[0; 9], &[2, 0x17, 0, 0x80, 0x50, 0, 0, 0, 0]].concat();
    kdf(raw, &context, 32)
}

fn xts(mode: Mode, key: &[u8; 64], dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    let crypt = |(number, piece): (u128, &[u8])| {
        let tweak = dun.wrapping_add(number).to_le_bytes();
        let mut crypter = Crypter::new(Cipher::aes_256_xts(), mode, key, Some(&tweak)).expect("OpenSSL");
        let mut out = vec![0; piece.len() + 16];
        let len = crypter.update(piece, &mut out).expect("OpenSSL");
        out.truncate(len);
        out
    };
    (0..).zip(data.chunks(unit)).flat_map(crypt).collect()
}
