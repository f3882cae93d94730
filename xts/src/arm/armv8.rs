// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The AES instructions of Armv8: one block in a register, eight registers at a time.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use crate::key::{BLOCK_BYTES, KEY_BYTES};
use crate::native::{Kernel, RoundKeys, Schedule};
use crate::pieces::Hints;
use crate::tweak::StartTweaks;

const GROUP: usize = 8;

static KERNEL: Kernel =
    Kernel { one_lane: false, expand, start_tweaks, encrypt: crypt::<true>, decrypt: crypt::<false> };

/// The kernel, if the CPU can run it.
pub fn kernel() -> Option<&'static Kernel> {
    is_aarch64_feature_detected!("aes").then_some(&KERNEL)
}

fn to_vector(value: u128) -> uint8x16_t {
    // SAFETY: both are 16 bytes of any value.
    unsafe { std::mem::transmute(value) }
}

fn from_vector(vector: uint8x16_t) -> u128 {
    // SAFETY: both are 16 bytes of any value.
    unsafe { std::mem::transmute(vector) }
}

/// The same pointer, which the compiler must take for another one. So round keys are loaded again for each group, and
/// are not kept or spilled to the stack in between.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is accessed through it")]
fn opaque(mut keys: *const RoundKeys) -> *const RoundKeys {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {} */", inout(reg) keys, options(nomem, nostack, preserves_flags)) };
    keys
}

/// The key expansion of AES-256 (FIPS 197, 5.2), in place.
#[target_feature(enable = "aes,neon")]
unsafe fn expand(schedule: &mut Schedule, key: &[u8; KEY_BYTES]) {
    let (data, tweak) = key.split_at(KEY_BYTES / 2);
    expand_one(&mut schedule.encrypt, data);
    expand_one(&mut schedule.tweak, tweak);
    let count = schedule.encrypt.len();
    for (number, (inverse, key)) in schedule.decrypt.iter_mut().zip(schedule.encrypt.iter().rev()).enumerate() {
        let outer = number == 0 || number == count - 1;
        *inverse = if outer { *key } else { [from_vector(vaesimcq_u8(to_vector(key[0]))); 4] };
    }
}

/// SubWord.
#[target_feature(enable = "aes,neon")]
fn substitute(word: u32) -> u32 {
    // AESE with a key of zeroes is SubBytes and ShiftRows; with four equal columns, the latter changes nothing.
    let columns = vreinterpretq_u8_u32(vdupq_n_u32(word));
    vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vaeseq_u8(columns, vdupq_n_u8(0))))
}

#[target_feature(enable = "aes,neon")]
fn expand_one(keys: &mut RoundKeys, key: &[u8]) {
    let mut words = [0u32; 8];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_le_bytes);
    }
    let mut constant = 1u32;
    for pair in keys.chunks_mut(2) {
        for (key, half) in pair.iter_mut().zip(words.chunks_exact(4)) {
            *key = [half.iter().rev().fold(0, |key, word| key << 32 | u128::from(*word)); 4];
        }
        // Little-endian words: RotWord moves the low byte to the top.
        let [a, b, c, d, e, f, g, h] = words;
        let a = a ^ substitute(h).rotate_right(8) ^ constant;
        let (b, c, d) = (b ^ a, c ^ b ^ a, d ^ c ^ b ^ a);
        let e = e ^ substitute(d);
        words = [a, b, c, d, e, f ^ e, g ^ f ^ e, h ^ g ^ f ^ e];
        constant <<= 1;
    }
}

/// # Safety
/// `keys` points to round keys; `round` is at most 14.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn round_key(keys: *const RoundKeys, round: usize) -> uint8x16_t {
    // SAFETY: the key is there.
    unsafe { vld1q_u8(keys.cast::<[u128; 4]>().add(round).cast()) }
}

/// AES over some blocks, to which the tweaks have been added; adds them again at the end.
///
/// # Safety
/// As for [`round_key`].
#[inline]
#[target_feature(enable = "aes,neon")]
unsafe fn rounds<const ENCRYPT: bool, const N: usize>(
    keys: *const RoundKeys,
    blocks: &mut [uint8x16_t; N],
    tweaks: &[uint8x16_t; N],
) {
    // SAFETY: as for this function.
    unsafe {
        for round in 0..13 {
            let key = round_key(keys, round);
            for block in blocks.iter_mut() {
                *block = if ENCRYPT { vaesmcq_u8(vaeseq_u8(*block, key)) } else { vaesimcq_u8(vaesdq_u8(*block, key)) };
            }
        }
        let key = round_key(keys, 13);
        for block in blocks.iter_mut() {
            *block = if ENCRYPT { vaeseq_u8(*block, key) } else { vaesdq_u8(*block, key) };
        }
        let key = round_key(keys, 14);
        for (block, tweak) in blocks.iter_mut().zip(tweaks) {
            *block = veorq_u8(*block, veorq_u8(key, *tweak));
        }
    }
}

/// `N` blocks. Advances `tweak` by as many.
///
/// # Safety
/// As for [`round_key`]; the blocks can be read and written.
#[inline]
#[target_feature(enable = "aes,neon")]
unsafe fn group<const ENCRYPT: bool, const N: usize>(
    keys: *const RoundKeys,
    tweak: &mut uint8x16_t,
    from: *const u8,
    to: *mut u8,
) {
    let keys = opaque(keys);
    let mut tweaks = [*tweak; N];
    let mut blocks = [*tweak; N];
    for (at, (block, slot)) in blocks.iter_mut().zip(&mut tweaks).enumerate() {
        *slot = *tweak;
        let loaded: uint8x16_t;
        // SAFETY: the block can be read.
        unsafe {
            asm!(
                "ldr {loaded:q}, [{from}]",
                from = in(reg) from.wrapping_add(at * BLOCK_BYTES),
                loaded = out(vreg) loaded,
                options(readonly, nostack, preserves_flags),
            );
        }
        *block = veorq_u8(loaded, *tweak);
        *tweak = times_alpha(*tweak);
    }
    // SAFETY: as for this function.
    unsafe { rounds::<ENCRYPT, N>(keys, &mut blocks, &tweaks) };
    for (at, block) in blocks.iter().enumerate() {
        // SAFETY: the block can be written.
        unsafe {
            asm!(
                "str {block:q}, [{to}]",
                to = in(reg) to.wrapping_add(at * BLOCK_BYTES),
                block = in(vreg) *block,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Doubles both words. The bit that leaves one goes into the other, and that of the upper one comes back as 0x87.
#[inline]
#[target_feature(enable = "neon")]
fn times_alpha(tweak: uint8x16_t) -> uint8x16_t {
    let signs = vshrq_n_s64::<63>(vreinterpretq_s64_u8(tweak));
    let carries = vandq_u8(vreinterpretq_u8_s64(vextq_s64::<1>(signs, signs)), to_vector(1 << 64 | 0x87));
    let words = vreinterpretq_u64_u8(tweak);
    veorq_u8(vreinterpretq_u8_u64(vaddq_u64(words, words)), carries)
}

/// See [`Kernel`].
#[target_feature(enable = "aes,neon")]
unsafe fn crypt<const ENCRYPT: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    mut from: *const u8,
    mut to: *mut u8,
    _: &mut Hints,
) {
    let keys = if ENCRYPT { &raw const schedule.encrypt } else { &raw const schedule.decrypt };
    for first in tweaks {
        let mut tweak = to_vector(*first);
        let mut left = blocks;
        macro_rules! groups {
            ($($n:literal)*) => {$(
                while left >= $n {
                    // SAFETY: the caller guarantees the blocks that are left.
                    unsafe { group::<ENCRYPT, $n>(keys, &mut tweak, from, to) };
                    (from, to) = (from.wrapping_add($n * BLOCK_BYTES), to.wrapping_add($n * BLOCK_BYTES));
                    left -= $n;
                }
            )*};
        }
        groups!(8 4 2 1);
    }
    wipe_registers();
}

/// See [`Kernel`].
#[target_feature(enable = "aes,neon")]
unsafe fn start_tweaks(schedule: &Schedule, number: u128, tweaks: &mut StartTweaks, count: usize) {
    let zeroes = [vdupq_n_u8(0); GROUP];
    for (at, chunk) in tweaks.0.chunks_exact_mut(GROUP).enumerate().take(count.div_ceil(GROUP)) {
        let mut blocks = zeroes;
        for (lane, block) in blocks.iter_mut().enumerate() {
            *block = to_vector(number.wrapping_add((at * GROUP + lane) as u128)); // usize to u128 loses nothing
        }
        // SAFETY: the keys are there.
        unsafe { rounds::<true, GROUP>(opaque(&raw const schedule.tweak), &mut blocks, &zeroes) };
        for (slot, block) in chunk.iter_mut().zip(blocks) {
            *slot = from_vector(block);
        }
    }
    wipe_registers();
}

/// Leaves no key, tweak or data in registers that somebody may save. (The lower halves of `v8` to `v15` are the
/// caller's; the compiler restores them.)
#[inline]
#[target_feature(enable = "neon")]
fn wipe_registers() {
    macro_rules! zero {
        ($($register:tt)*) => {
            // SAFETY: all of the registers are declared as overwritten.
            unsafe {
                asm!(
                    $(concat!("movi ", $register, ".2d, #0"),)*
                    $(out($register) _,)*
                    options(nomem, nostack, preserves_flags),
                );
            }
        };
    }
    zero!("v0" "v1" "v2" "v3" "v4" "v5" "v6" "v7" "v8" "v9" "v10" "v11" "v12" "v13" "v14" "v15");
    zero!("v16" "v17" "v18" "v19" "v20" "v21" "v22" "v23" "v24" "v25" "v26" "v27" "v28" "v29" "v30" "v31");
}
