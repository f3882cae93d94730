// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tweaks, two in a register.

use std::arch::x86_64::*;

use super::GROUP;

/// 0x87 (alpha^128), in the low half of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn reduction() -> __m256i {
    _mm256_set_epi64x(0, 0x87, 0, 0x87)
}

/// Multiplies each lane by alpha^(8 * BYTES); 8 bytes at most.
///
/// `REST` is 16 - BYTES. What is shifted out at the top comes back multiplied by 0x87.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
pub fn times_alpha_bytes<const BYTES: i32, const REST: i32>(tweak: __m256i) -> __m256i {
    let back = _mm256_clmulepi64_epi128::<0x00>(_mm256_bsrli_epi128::<REST>(tweak), reduction());
    _mm256_xor_si256(_mm256_bslli_epi128::<BYTES>(tweak), back)
}

/// Multiplies each lane by a power of alpha of its own, 0 to 56, which `bits` has in both halves of the lane.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
pub fn times_alpha_bits(tweak: __m256i, bits: __m256i) -> __m256i {
    let swapped = _mm256_shuffle_epi32::<0x4e>(tweak);
    // Bits that are shifted out of one half, in the other one. A shift by 64 gives 0.
    let out = _mm256_srlv_epi64(swapped, _mm256_sub_epi64(_mm256_set1_epi64x(64), bits));
    let back = _mm256_clmulepi64_epi128::<0x00>(out, reduction());
    let carried = _mm256_blend_epi32::<0xcc>(_mm256_setzero_si256(), out);
    _mm256_xor_si256(_mm256_sllv_epi64(tweak, bits), _mm256_xor_si256(back, carried))
}

/// The tweaks of a group from that of its first block.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
pub fn spread(first: &u128) -> [__m256i; GROUP] {
    // SAFETY: a `u128` is 16 bytes, aligned.
    let first = _mm256_broadcastsi128_si256(unsafe { _mm_load_si128(std::ptr::from_ref(first).cast()) });
    let a = times_alpha_bits(first, _mm256_set_epi64x(1, 1, 0, 0));
    let b = times_alpha_bits(first, _mm256_set_epi64x(3, 3, 2, 2));
    let c = times_alpha_bits(first, _mm256_set_epi64x(5, 5, 4, 4));
    let d = times_alpha_bits(first, _mm256_set_epi64x(7, 7, 6, 6));
    let next = |tweak| times_alpha_bytes::<1, 15>(tweak);
    [a, b, c, d, next(a), next(b), next(c), next(d)]
}
