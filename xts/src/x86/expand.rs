// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key expansion of AES-256 (FIPS 197, 5.2) with AES-NI, for all kernels of x86-64.

use std::arch::x86_64::*;

use crate::key::KEY_BYTES;
use crate::native::Schedule;

/// The round constants, each for the round key with this number.
const CONSTANTS: [(usize, i32); 7] = [(2, 0x01), (4, 0x02), (6, 0x04), (8, 0x08), (10, 0x10), (12, 0x20), (14, 0x40)];

/// The two keys of an XTS key are expanded side by side, because each step waits for the previous one.
///
/// `aesenclast` is SubBytes, ShiftRows and a sum. On a word that is in all columns ShiftRows changes nothing. So this
/// is SubWord and the constant, in a third of the time of `aeskeygenassist`.
macro_rules! expansion {
    ($name:ident, $features:literal, $store:ident) => {
        /// Fills the schedules of an XTS key in place.
        ///
        /// # Safety
        /// The CPU has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(schedule: &mut Schedule, key: &[u8; KEY_BYTES]) {
            let quarter = |number: usize| {
                let bytes = key.get(16 * number..).and_then(<[u8]>::first_chunk);
                to_vector(bytes.map_or(0, |bytes| u128::from_le_bytes(*bytes)))
            };
            let Schedule { encrypt, decrypt, tweak } = schedule;
            // Broadcasts the last word, rotated or not.
            let (rotate, zero) = (_mm_set1_epi32(0x0c0f_0e0d), _mm_setzero_si128());
            let [mut even, mut odd, mut tweak_even, mut tweak_odd] = [quarter(0), quarter(1), quarter(2), quarter(3)];
            // The decryption keys are the same in reverse order. All but the first and the last are transformed.
            $store(&mut decrypt[14], even);
            $store(&mut encrypt[0], even);
            $store(&mut tweak[0], tweak_even);
            for (at, constant) in CONSTANTS {
                $store(&mut encrypt[at - 1], odd);
                $store(&mut decrypt[15 - at], _mm_aesimc_si128(odd));
                $store(&mut tweak[at - 1], tweak_odd);
                let constant = _mm_set1_epi32(constant);
                let word = _mm_aesenclast_si128(_mm_shuffle_epi8(odd, rotate), constant);
                let tweak_word = _mm_aesenclast_si128(_mm_shuffle_epi8(tweak_odd, rotate), constant);
                even = _mm_xor_si128(running_sum(even), word);
                tweak_even = _mm_xor_si128(running_sum(tweak_even), tweak_word);
                let inverse = if at == 14 { even } else { _mm_aesimc_si128(even) };
                $store(&mut encrypt[at], even);
                $store(&mut decrypt[14 - at], inverse);
                $store(&mut tweak[at], tweak_even);
                let word = _mm_aesenclast_si128(_mm_shuffle_epi32::<0xff>(even), zero);
                let tweak_word = _mm_aesenclast_si128(_mm_shuffle_epi32::<0xff>(tweak_even), zero);
                odd = _mm_xor_si128(running_sum(odd), word);
                tweak_odd = _mm_xor_si128(running_sum(tweak_odd), tweak_word);
            }
        }
    };
}

expansion!(expand, "aes,ssse3", one);
expansion!(expand_avx2, "aes,avx2", one);
expansion!(expand_four, "aes,avx2", four);

fn to_vector(key: u128) -> __m128i {
    // SAFETY: both are 16 bytes of any value.
    unsafe { std::mem::transmute(key) }
}

/// For kernels that load only the first lane. Keys that come with requests are expanded and wiped all the time, and
/// stores take most of that time.
#[target_feature(enable = "sse2")]
fn one(lanes: &mut [u128; 4], key: __m128i) {
    // SAFETY: both are 16 bytes of any value.
    lanes[0] = unsafe { std::mem::transmute::<__m128i, u128>(key) };
}

/// For kernels that load all lanes.
#[target_feature(enable = "avx2")]
fn four(lanes: &mut [u128; 4], key: __m128i) {
    // SAFETY: both are 64 bytes of any value.
    *lanes = unsafe { std::mem::transmute::<[__m256i; 2], [u128; 4]>([_mm256_broadcastsi128_si256(key); 2]) };
}

/// Each word is the sum of all words up to it: `w0, w0^w1, w0^w1^w2, ...`.
#[target_feature(enable = "sse2")]
fn running_sum(vector: __m128i) -> __m128i {
    let vector = _mm_xor_si128(vector, _mm_slli_si128::<4>(vector));
    _mm_xor_si128(vector, _mm_slli_si128::<8>(vector))
}
