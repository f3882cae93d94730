// SPDX-License-Identifier: Apache-2.0 OR MIT

//! AES-XTS with the `aes` crate, for CPUs without a kernel. Safe code only.
//!
//! Data goes through a buffer: guest memory must not be read twice, or hold unfinished results.

use aes::cipher::consts::{U32, U64};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};
use vm_memory::VolatileSlice;
use zeroize::Zeroize;

use crate::key::{BLOCK_BYTES, KEY_BYTES};
use crate::pieces::{Cipher, Direction, Hints};
use crate::tweak::{StartTweaks, TWEAKS_AT_ONCE, advance};

/// AES blocks per call of the `aes` crate (1 KiB).
const BATCH: usize = 64;

/// An expanded key. The `aes` crate wipes the schedules when it is dropped.
pub(super) struct Portable {
    data: Aes256,
    tweak: Aes256Enc,
}

impl Portable {
    /// Room for a key.
    pub fn blank() -> Self {
        Self::new(&[0; KEY_BYTES])
    }

    /// Expands a key.
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let (data, tweak) = <&Array<u8, U64>>::from(key).split_ref::<U32>();
        Self { data: Aes256::new(data), tweak: Aes256Enc::new(tweak) }
    }
}

impl Cipher for Portable {
    fn start_tweaks(&self, mut number: u128, tweaks: &mut StartTweaks, count: usize) {
        let mut blocks = [Block::default(); TWEAKS_AT_ONCE];
        for block in blocks.iter_mut().take(count) {
            *block = Block::from(number.to_le_bytes());
            number = number.wrapping_add(1);
        }
        self.tweak.encrypt_blocks(blocks.get_mut(..count).unwrap_or_default());
        for (tweak, block) in tweaks.0.iter_mut().zip(blocks) {
            *tweak = u128::from_le_bytes(block.into());
        }
    }

    fn crypt(
        &self,
        direction: Direction,
        starts: &[u128],
        blocks: usize,
        mut from: VolatileSlice<'_>,
        mut to: VolatileSlice<'_>,
        _: &mut Hints,
    ) {
        let mut buffer = [0; BATCH * BLOCK_BYTES];
        let mut tweaks = [0; BATCH];
        for &start in starts {
            let (mut tweak, mut left) = (start, blocks);
            while left > 0 {
                let batch = left.min(BATCH);
                left -= batch;
                let Some(data) = buffer.get_mut(..batch * BLOCK_BYTES) else { return };
                let (Ok((source, from_rest)), Ok((target, to_rest))) =
                    (from.split_at(data.len()), to.split_at(data.len()))
                else {
                    return;
                };
                (from, to) = (from_rest, to_rest);
                source.copy_to(data);
                let (data_blocks, _) = Block::slice_as_chunks_mut(data);
                for (block, slot) in data_blocks.iter_mut().zip(&mut tweaks) {
                    *slot = tweak;
                    xor(block, tweak);
                    tweak = advance(tweak, 1);
                }
                match direction {
                    Direction::Encrypt => self.data.encrypt_blocks(data_blocks),
                    Direction::Decrypt => self.data.decrypt_blocks(data_blocks),
                }
                for (block, tweak) in data_blocks.iter_mut().zip(tweaks) {
                    xor(block, tweak);
                }
                target.copy_from(&*data);
            }
        }
        buffer.zeroize();
    }
}

fn xor(block: &mut Block, tweak: u128) {
    *block = Block::from((u128::from_le_bytes((*block).into()) ^ tweak).to_le_bytes());
}
