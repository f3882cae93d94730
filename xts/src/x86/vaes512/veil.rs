// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Veils: tweaks to which the last round key is added, and their products with powers of alpha.

use std::arch::x86_64::*;

use zeroize::Zeroize;

use super::{GROUP, opaque, round_key};
use crate::native::RoundKeys;

/// Sums of a tweak and the last round key.
pub type Veils = [__m512i; GROUP];

/// Values computed from round keys at the beginning of a call. They are loaded from the stack when they are needed, and
/// wiped there at the end: a register could be spilled.
#[repr(C)]
pub struct Derived {
    /// The sum of the first and the last round key.
    pub ends: u128,
    /// Added to a veil that was multiplied by alpha^32 or alpha^64, this makes its key the last round key again.
    pub after_32: u128,
    pub after_64: u128,
}

impl Derived {
    /// # Safety
    /// As for [`round_key`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    pub unsafe fn new(keys: *const RoundKeys) -> Self {
        // SAFETY: as for this function.
        let (first, last) = unsafe { (round_key(keys, 0), round_key(keys, 14)) };
        // SAFETY: both are 16 bytes of any value.
        let lane = |lanes| unsafe { std::mem::transmute::<__m128i, u128>(_mm512_castsi512_si128(lanes)) };
        Self {
            ends: lane(_mm512_xor_si512(first, last)),
            after_32: lane(times_alpha_bytes::<4, 12>(last, last)),
            after_64: lane(times_alpha_64(last, last)),
        }
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        self.ends.zeroize();
        self.after_32.zeroize();
        self.after_64.zeroize();
    }
}

/// The value, in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn broadcast(value: &u128) -> __m512i {
    // SAFETY: a `u128` is 16 bytes, aligned.
    _mm512_broadcast_i32x4(unsafe { _mm_load_si128(opaque(value).cast()) })
}

/// 0x87 (alpha^128), in the low half of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduction() -> __m512i {
    _mm512_maskz_set1_epi64(0x55, 0x87)
}

/// Multiplies each lane by alpha^(8 * BYTES), 7 bytes at most, and adds `sum`.
///
/// `REST` is 16 - BYTES. What is shifted out at the top comes back multiplied by 0x87.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
pub fn times_alpha_bytes<const BYTES: i32, const REST: i32>(tweak: __m512i, sum: __m512i) -> __m512i {
    let back = _mm512_clmulepi64_epi128::<0x00>(_mm512_bsrli_epi128::<REST>(tweak), reduction());
    _mm512_ternarylogic_epi64::<0x96>(_mm512_bslli_epi128::<BYTES>(tweak), back, sum)
}

/// Multiplies each lane by alpha^64 and adds `sum`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
pub fn times_alpha_64(tweak: __m512i, sum: __m512i) -> __m512i {
    let back = _mm512_clmulepi64_epi128::<0x01>(tweak, reduction());
    _mm512_ternarylogic_epi64::<0x96>(_mm512_bslli_epi128::<8>(tweak), back, sum)
}

/// Multiplies each lane by a power of alpha of its own, 0 to 56, which `bits` has in both halves of the lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_alpha_bits(tweak: __m512i, bits: __m512i) -> __m512i {
    let swapped = _mm512_shuffle_epi32::<0x4e>(tweak);
    // Bits that are shifted out of one half, in the other one. A shift by 64 gives 0.
    let out = _mm512_srlv_epi64(swapped, _mm512_sub_epi64(_mm512_set1_epi64(64), bits));
    let back = _mm512_clmulepi64_epi128::<0x00>(out, reduction());
    let carried = _mm512_maskz_mov_epi64(0xaa, out);
    _mm512_ternarylogic_epi64::<0x96>(_mm512_sllv_epi64(tweak, bits), back, carried)
}

/// The veils of a group from the tweak of its first block and the last round key.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
pub fn spread(first: &u128, last: __m512i) -> Veils {
    let first = broadcast(first);
    let a = times_alpha_bits(first, _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0));
    let b = times_alpha_bits(first, _mm512_set_epi64(7, 7, 6, 6, 5, 5, 4, 4));
    [
        _mm512_xor_si512(a, last),
        _mm512_xor_si512(b, last),
        times_alpha_bytes::<1, 15>(a, last),
        times_alpha_bytes::<1, 15>(b, last),
        times_alpha_bytes::<2, 14>(a, last),
        times_alpha_bytes::<2, 14>(b, last),
        times_alpha_bytes::<3, 13>(a, last),
        times_alpha_bytes::<3, 13>(b, last),
    ]
}
