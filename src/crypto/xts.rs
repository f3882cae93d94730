// SPDX-License-Identifier: Apache-2.0 OR MIT

//! AES-256-XTS (IEEE 1619-2018) over whole data units, in place.
//!
//! The `aes` crate does the AES (run-time dispatch to the CPU's instructions, constant time); this module makes the
//! tweaks, and hands it many blocks at once, which is what keeps the AES units busy. Data units are multiples of 16
//! bytes, so ciphertext stealing never happens.

use aes::cipher::consts::{U32, U64};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};

use super::Dun;
use vm_memory::VolatileSlice;

/// Bytes of an AES-256-XTS key: one AES-256 key for the data, then one for the tweak.
pub const KEY_BYTES: usize = 64;

/// AES blocks handed to the AES implementation at once (1 KiB).
const BATCH: usize = 64;

/// An expanded AES-256-XTS key. The `aes` crate wipes the schedules when it is dropped.
pub struct XtsKey {
    data: Aes256,
    tweak: Aes256Enc,
}

impl std::fmt::Debug for XtsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XtsKey([redacted])")
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

impl XtsKey {
    /// Expands a key.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let (data, tweak) = <&Array<u8, U64>>::from(key).split_ref::<U32>();
        Self { data: Aes256::new(data), tweak: Aes256Enc::new(tweak) }
    }

    /// Encrypts `data`, whole data units of `1 << unit_bits` bytes, the first of them number `dun`.
    ///
    /// `data` must be a multiple of the data unit size and `unit_bits` at least 4; the caller has checked that the
    /// DUN of the last data unit exists. A rest shorter than a data unit is not touched.
    pub fn encrypt(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        self.run(Direction::Encrypt, dun, unit_bits, data);
    }

    /// Decrypts; otherwise as [`XtsKey::encrypt`].
    pub fn decrypt(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        self.run(Direction::Decrypt, dun, unit_bits, data);
    }

    /// From one memory to another.
    pub fn encrypt_between(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        self.between(Direction::Encrypt, dun, unit_bits, from, to);
    }

    /// From one memory to another.
    pub fn decrypt_between(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        self.between(Direction::Decrypt, dun, unit_bits, from, to);
    }

    fn between(&self, d: Direction, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        let mut data = Vec::new();
        for piece in from {
            let at = data.len();
            data.resize(at + piece.len(), 0);
            piece.copy_to(&mut data[at..]);
        }
        self.run(d, dun, unit_bits, &mut data);
        let mut at = 0;
        for piece in to {
            piece.copy_from(&data[at..]);
            at += piece.len();
        }
    }

    fn run(&self, direction: Direction, first: Dun, unit_bits: u8, data: &mut [u8]) {
        debug_assert!((4..=31).contains(&unit_bits));
        let mut number = first.low_128();
        for unit in data.chunks_exact_mut(1 << unit_bits) {
            let mut start = Block::from(number.to_le_bytes());
            self.tweak.encrypt_block(&mut start);
            self.data_unit(direction, u128::from_le_bytes(start.into()), unit);
            // Only the low 128 bits make the tweak: past 2^128 - 1 comes 0.
            number = number.wrapping_add(1);
        }
    }

    fn data_unit(&self, direction: Direction, mut tweak: u128, unit: &mut [u8]) {
        let (blocks, _) = Block::slice_as_chunks_mut(unit);
        for batch in blocks.chunks_mut(BATCH) {
            let mut tweaks = [0u128; BATCH];
            for (block, slot) in batch.iter_mut().zip(&mut tweaks) {
                *slot = tweak;
                xor(block, tweak);
                tweak = times_alpha(tweak);
            }
            match direction {
                Direction::Encrypt => self.data.encrypt_blocks(batch),
                Direction::Decrypt => self.data.decrypt_blocks(batch),
            }
            for (block, tweak) in batch.iter_mut().zip(tweaks) {
                xor(block, tweak);
            }
        }
    }
}

fn xor(block: &mut Block, tweak: u128) {
    *block = Block::from((u128::from_le_bytes((*block).into()) ^ tweak).to_le_bytes());
}

/// Multiplication by alpha in GF(2^128) (IEEE 1619, 5.2), without a branch on secret bits.
fn times_alpha(tweak: u128) -> u128 {
    (tweak << 1) ^ (0x87 & (tweak >> 127).wrapping_neg())
}
