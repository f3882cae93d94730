// SPDX-License-Identifier: Apache-2.0 OR MIT

//! AES-NI: one block in a register, eight registers at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::expand::expand;
use super::opaque;
use crate::key::BLOCK_BYTES;
use crate::native::{Kernel, RoundKeys, Schedule};
use crate::pieces::Hints;
use crate::tweak::StartTweaks;

static KERNEL: Kernel =
    Kernel { one_lane: true, expand, start_tweaks, encrypt: crypt::<true>, decrypt: crypt::<false> };

/// The kernel, if the CPU can run it.
pub fn kernel() -> Option<&'static Kernel> {
    (is_x86_feature_detected!("aes") && is_x86_feature_detected!("ssse3")).then_some(&KERNEL)
}

/// # Safety
/// `keys` points to round keys; `round` is at most 14.
#[inline]
#[target_feature(enable = "sse2")]
unsafe fn round_key(keys: *const RoundKeys, round: usize) -> __m128i {
    // SAFETY: the key is there, aligned.
    unsafe { _mm_load_si128(keys.cast::<[__m128i; 4]>().add(round).cast()) }
}

/// AES over some blocks, to which the tweaks have been added; adds them again at the end.
///
/// # Safety
/// As for [`round_key`].
#[inline]
#[target_feature(enable = "aes,sse2")]
unsafe fn rounds<const ENCRYPT: bool, const N: usize>(
    keys: *const RoundKeys,
    blocks: &mut [__m128i; N],
    tweaks: &[__m128i; N],
) {
    // SAFETY: as for this function.
    unsafe {
        let key = round_key(keys, 0);
        for block in blocks.iter_mut() {
            *block = _mm_xor_si128(*block, key);
        }
        for round in 1..14 {
            let key = round_key(keys, round);
            for block in blocks.iter_mut() {
                *block = if ENCRYPT { _mm_aesenc_si128(*block, key) } else { _mm_aesdec_si128(*block, key) };
            }
        }
        let key = round_key(keys, 14);
        for (block, tweak) in blocks.iter_mut().zip(tweaks) {
            let key = _mm_xor_si128(key, *tweak);
            *block = if ENCRYPT { _mm_aesenclast_si128(*block, key) } else { _mm_aesdeclast_si128(*block, key) };
        }
    }
}

/// `N` blocks. Advances `tweak` by as many.
///
/// # Safety
/// As for [`round_key`]; the blocks can be read and written.
#[inline]
#[target_feature(enable = "aes,sse2")]
unsafe fn group<const ENCRYPT: bool, const N: usize>(
    keys: *const RoundKeys,
    tweak: &mut __m128i,
    from: *const u8,
    to: *mut u8,
) {
    let keys = opaque(keys);
    let mut tweaks = [*tweak; N];
    let mut blocks = [*tweak; N];
    for (at, (block, slot)) in blocks.iter_mut().zip(&mut tweaks).enumerate() {
        *slot = *tweak;
        let loaded: __m128i;
        // SAFETY: the block can be read.
        unsafe {
            asm!(
                "movdqu {loaded}, [{from}]",
                from = in(reg) from.wrapping_add(at * BLOCK_BYTES),
                loaded = out(xmm_reg) loaded,
                options(readonly, nostack, preserves_flags),
            );
        }
        *block = _mm_xor_si128(loaded, *tweak);
        *tweak = times_alpha(*tweak);
    }
    // SAFETY: as for this function.
    unsafe { rounds::<ENCRYPT, N>(keys, &mut blocks, &tweaks) };
    for (at, block) in blocks.iter().enumerate() {
        // SAFETY: the block can be written.
        unsafe {
            asm!(
                "movdqu [{to}], {block}",
                to = in(reg) to.wrapping_add(at * BLOCK_BYTES),
                block = in(xmm_reg) *block,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Doubles every word. The bit that leaves one goes into the next, and that of the last one comes back as 0x87.
#[inline]
#[target_feature(enable = "sse2")]
fn times_alpha(tweak: __m128i) -> __m128i {
    let signs = _mm_shuffle_epi32::<0x93>(_mm_srai_epi32::<31>(tweak));
    _mm_xor_si128(_mm_slli_epi32::<1>(tweak), _mm_and_si128(signs, _mm_set_epi32(1, 1, 1, 0x87)))
}

/// See [`Kernel`].
#[target_feature(enable = "aes,sse2")]
unsafe fn crypt<const ENCRYPT: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    mut from: *const u8,
    mut to: *mut u8,
    hints: &mut Hints,
) {
    let keys = if ENCRYPT { &raw const schedule.encrypt } else { &raw const schedule.decrypt };
    for first in tweaks {
        // SAFETY: a `u128` is 16 bytes, aligned.
        let mut tweak = unsafe { _mm_load_si128(std::ptr::from_ref(first).cast()) };
        let mut left = blocks;
        macro_rules! groups {
            ($($n:literal)*) => {$(
                while left >= $n {
                    hints.prefetch.advance($n * BLOCK_BYTES);
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
#[target_feature(enable = "aes,sse2")]
unsafe fn start_tweaks(schedule: &Schedule, number: u128, tweaks: &mut StartTweaks, count: usize) {
    const N: usize = 8;
    for (at, chunk) in tweaks.0.chunks_exact_mut(N).enumerate().take(count.div_ceil(N)) {
        let mut blocks = [_mm_setzero_si128(); N];
        for (lane, block) in blocks.iter_mut().enumerate() {
            let number = number.wrapping_add((at * N + lane) as u128); // usize to u128 loses nothing
            *block = _mm_set_epi64x((number >> 64) as i64, number as i64);
        }
        let keys = opaque(&raw const schedule.tweak);
        // SAFETY: the keys are there.
        unsafe { rounds::<true, N>(keys, &mut blocks, &[_mm_setzero_si128(); N]) };
        for (slot, block) in chunk.iter_mut().zip(blocks) {
            // SAFETY: a `u128` is 16 bytes, aligned.
            unsafe { _mm_store_si128(std::ptr::from_mut(slot).cast(), block) };
        }
    }
    wipe_registers();
}

/// Leaves no key, tweak or data in registers that somebody may save.
#[inline]
#[target_feature(enable = "sse2")]
fn wipe_registers() {
    macro_rules! zero {
        ($($register:tt)*) => {
            // SAFETY: all of the registers are declared as overwritten.
            unsafe {
                asm!(
                    $(concat!("pxor ", $register, ", ", $register),)*
                    $(out($register) _,)*
                    options(nomem, nostack, preserves_flags),
                );
            }
        };
    }
    zero!("xmm0" "xmm1" "xmm2" "xmm3" "xmm4" "xmm5" "xmm6" "xmm7");
    zero!("xmm8" "xmm9" "xmm10" "xmm11" "xmm12" "xmm13" "xmm14" "xmm15");
}
