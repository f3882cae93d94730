// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests as bytes, from the protocol's text and not from the device's own types.

#![allow(missing_docs)] // the protocol's names

/// Bytes of a sector.
pub const SECTOR: usize = 512;

// Status.
pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
pub const NOKEY: u8 = 0xe0;

// Request types.
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
/// In-band only.
pub const GET_CRYPTO_CHARACTERISTICS: u32 = 0x1ce00;
pub const GET_CRYPTO_EXTENSIONS: u32 = 0x1ce04;
pub const CRYPTO_IN_EXT: u32 = 0x1ce10;
pub const CRYPTO_OUT_EXT: u32 = 0x1ce11;

// Digest algorithms.
pub const CRC32C: u8 = 1;
pub const XXHASH64: u8 = 2;
pub const SHA256: u8 = 3;
pub const BLAKE2B_256: u8 = 4;

/// Bytes of a digest of each algorithm.
pub const DIGESTS: [(u8, usize); 4] = [(CRC32C, 4), (XXHASH64, 8), (SHA256, 32), (BLAKE2B_256, 32)];

/// The slot number in requests that carry their key.
pub const NO_SLOT: u32 = 0xffff_ffff;

/// Feature bits.
pub mod feature {
    pub const RO: u64 = 1 << 5;
    pub const FLUSH: u64 = 1 << 9;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const SECURE_ERASE: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 22;
    pub const INLINE_ENCRYPTION: u64 = 1 << 23;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Offsets in the configuration space.
pub mod config {
    pub const CAPACITY: usize = 0;
    pub const WRITEBACK: usize = 32;
    pub const NUM_QUEUES: usize = 34;
    /// Bytes of the configuration space with inline encryption.
    pub const BYTES: usize = 104;
}

pub fn header(request_type: u32, sector: u64) -> Vec<u8> {
    [&request_type.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

pub fn write_request(sector: u64, data: &[u8]) -> Vec<u8> {
    [&header(OUT, sector), data].concat()
}

pub fn crypto_header(request_type: u32, sector: u64, slot: u32, dun: [u64; 4]) -> Vec<u8> {
    extended_header(request_type, sector, slot, [0xa5; 4], dun) // "unused": any value
}

/// With the bytes that CRYPTO_OUT_EXT and CRYPTO_IN_EXT have in place of the unused ones: digest algorithm, flags, two of 0.
pub fn extended_header(request_type: u32, sector: u64, slot: u32, extensions: [u8; 4], dun: [u64; 4]) -> Vec<u8> {
    let mut bytes = header(request_type, sector);
    bytes.extend(slot.to_le_bytes());
    bytes.extend(extensions);
    dun.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    assert_eq!(bytes.len(), 56);
    bytes
}

pub fn crypto_write(sector: u64, slot: u32, dun: [u64; 4], data: &[u8]) -> Vec<u8> {
    [&crypto_header(CRYPTO_OUT, sector, slot, dun), data].concat()
}

/// A KEYSLOT_PROGRAM command.
#[derive(Debug, Clone)]
pub struct Program {
    pub slot: u32,
    pub key: [u8; 128],
    pub key_size: u32,
    pub mode: u32,
    pub key_type: u32,
    pub unit_bits: u32,
    pub dun_bytes: u32,
}

impl Program {
    /// A raw key for AES-256-XTS.
    pub fn new(slot: u32, key: &[u8], unit_bits: u32) -> Self {
        let mut room = [0; 128];
        room[..key.len()].copy_from_slice(key);
        Self { slot, key: room, key_size: key.len() as u32, mode: 1, key_type: 1, unit_bits, dun_bytes: 8 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.command(PROGRAM).to_vec()
    }

    /// The key descriptor in a command of any type.
    pub fn command(&self, request_type: u32) -> [u8; 168] {
        let mut bytes = [0; 168];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &request_type.to_le_bytes());
        put(16, &self.slot.to_le_bytes());
        put(20, &self.key);
        put(148, &self.key_size.to_le_bytes());
        put(152, &self.mode.to_le_bytes());
        put(156, &self.key_type.to_le_bytes());
        put(160, &self.unit_bits.to_le_bytes());
        put(164, &self.dun_bytes.to_le_bytes());
        bytes
    }
}

/// A CRYPTO_IN_EXT or CRYPTO_OUT_EXT that carries its key.
#[derive(Debug, Clone)]
pub struct KeyedRequest {
    pub request_type: u32,
    pub sector: u64,
    /// In the crypto message and in the key descriptor.
    pub slots: [u32; 2],
    /// Digest algorithm, flags, and two bytes of 0.
    pub extensions: [u8; 4],
    pub dun: [u64; 4],
    /// Its slot is not used.
    pub key: Program,
}

impl KeyedRequest {
    pub fn new(request_type: u32, sector: u64, dun: u64, key: &[u8]) -> Self {
        let (slots, extensions) = ([NO_SLOT; 2], [0, 1, 0, 0]);
        let key = Program::new(NO_SLOT, key, 12);
        Self { request_type, sector, slots, extensions, dun: [dun, 0, 0, 0], key }
    }

    /// All but the data of a write.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = extended_header(self.request_type, self.sector, self.slots[0], self.extensions, self.dun);
        // What follows the header of a PROGRAM command.
        bytes.extend(&Program { slot: self.slots[1], ..self.key.clone() }.bytes()[16..]);
        assert_eq!(bytes.len(), 16 + 40 + 152);
        bytes
    }
}

pub fn evict(slot: u32) -> Vec<u8> {
    let mut bytes = header(EVICT, 0);
    bytes.extend(slot.to_le_bytes());
    bytes.resize(16 + 152, 0x77); // only the slot counts
    bytes
}

/// A command with a key blob whose size field has this value.
pub fn key_blob_of_size(request_type: u32, bytes: &[u8], size: u32) -> Vec<u8> {
    let mut command = header(request_type, 0);
    command.extend(size.to_le_bytes());
    command.extend(bytes);
    command.resize(16 + 132, 0);
    command
}

pub fn key_blob(request_type: u32, bytes: &[u8]) -> Vec<u8> {
    key_blob_of_size(request_type, bytes, bytes.len() as u32)
}

/// The key blob in the reply of a command that makes one.
pub fn blob_of(reply: &[u8]) -> Vec<u8> {
    let size = u32::from_le_bytes(reply[..4].try_into().expect("4 bytes")) as usize;
    assert!((16..=128).contains(&size));
    assert!(reply[4 + size..].iter().all(|&byte| byte == 0));
    reply[4..4 + size].to_vec()
}

/// A range of DISCARD, WRITE_ZEROES or SECURE_ERASE.
pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}
