// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests as bytes, written down from the protocol's text and not with the device's own types.

pub const SECTOR: usize = 512;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
pub const NOKEY: u8 = 0xe0;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;
pub const SECURE_ERASE: u32 = 14;
pub const CRYPTO_OUT: u32 = 27;
pub const CRYPTO_IN: u32 = 28;
pub const GET_CRYPTO_MODES: u32 = 29;
pub const PROGRAM: u32 = 30;
pub const EVICT: u32 = 31;
pub const DERIVE_SW_SECRET: u32 = 32;
pub const GENERATE_KEY: u32 = 33;
pub const IMPORT_KEY: u32 = 34;
pub const PREPARE_KEY: u32 = 35;
pub const GET_CRYPTO_CHARACTERISTICS: u32 = 0x1ce00;

/// What came back in the writable part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The used length.
    pub used: u32,
    /// All but the last byte.
    pub data: Vec<u8>,
    /// The last byte.
    pub status: u8,
}

impl Answer {
    pub fn new(used: u32, mut writable: Vec<u8>) -> Self {
        let status = writable.pop().unwrap_or(super::ring::FILL);
        Self { used, data: writable, status }
    }

    /// Asserts the status, and that nothing else was written.
    pub fn assert_only_status(&self, status: u8) {
        assert_eq!((self.status, self.used), (status, 1), "{self:?}");
        assert!(self.data.iter().all(|&byte| byte == super::ring::FILL), "the device wrote data: {:?}", self.data);
    }
}

pub fn header(request_type: u32, sector: u64) -> Vec<u8> {
    [&request_type.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

pub fn write_request(sector: u64, data: &[u8]) -> Vec<u8> {
    [header(OUT, sector), data.to_vec()].concat()
}

pub fn crypto_header(request_type: u32, sector: u64, slot: u32, dun: [u64; 4]) -> Vec<u8> {
    let mut bytes = header(request_type, sector);
    bytes.extend(slot.to_le_bytes());
    bytes.extend([0xa5; 4]); // "unused": any value
    dun.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    assert_eq!(bytes.len(), 56);
    bytes
}

pub fn crypto_write(sector: u64, slot: u32, dun: [u64; 4], data: &[u8]) -> Vec<u8> {
    [crypto_header(CRYPTO_OUT, sector, slot, dun), data.to_vec()].concat()
}

/// A KEYSLOT_PROGRAM command.
#[derive(Debug, Clone)]
pub struct Program {
    pub slot: u32,
    pub key: Vec<u8>,
    pub key_size: u32,
    pub mode: u32,
    pub key_type: u32,
    pub unit_bits: u32,
    pub dun_bytes: u32,
}

impl Program {
    pub fn new(slot: u32, key: &[u8], unit_bits: u32) -> Self {
        Self { slot, key: key.to_vec(), key_size: key.len() as u32, mode: 1, key_type: 1, unit_bits, dun_bytes: 8 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(PROGRAM, 0);
        bytes.extend(self.slot.to_le_bytes());
        let mut key = self.key.clone();
        key.resize(128, 0);
        bytes.extend(key);
        for word in [self.key_size, self.mode, self.key_type, self.unit_bits, self.dun_bytes] {
            bytes.extend(word.to_le_bytes());
        }
        assert_eq!(bytes.len(), 16 + 152);
        bytes
    }
}

pub fn evict(slot: u32) -> Vec<u8> {
    let mut bytes = header(EVICT, 0);
    bytes.extend(slot.to_le_bytes());
    bytes.resize(16 + 152, 0x77); // only the slot counts
    bytes
}

pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A key with different halves.
pub fn key(seed: u64) -> [u8; 64] {
    pattern(seed.wrapping_add(1000), 64).try_into().expect("64 bytes")
}

/// OpenSSL's AES-256-XTS over data units, the tweak being the low 128 bits of the DUN.
pub fn openssl_xts(key: &[u8; 64], dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    xts(openssl::symm::Mode::Encrypt, key, dun, unit, data)
}

/// The other direction.
pub fn openssl_xts_decrypt(key: &[u8; 64], dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    xts(openssl::symm::Mode::Decrypt, key, dun, unit, data)
}

fn xts(mode: openssl::symm::Mode, key: &[u8; 64], dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    use openssl::symm::{Cipher, Crypter};
    data.chunks(unit)
        .enumerate()
        .flat_map(|(number, piece)| {
            let tweak = dun.wrapping_add(number as u128).to_le_bytes();
            let mut crypter = Crypter::new(Cipher::aes_256_xts(), mode, key, Some(&tweak)).expect("OpenSSL");
            let mut out = vec![0; piece.len() + 16];
            let len = crypter.update(piece, &mut out).expect("OpenSSL");
            out.truncate(len);
            out
        })
        .collect()
}
