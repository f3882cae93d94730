// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key expansion of AES-256 (FIPS 197, 5.2) with AES-NI, for all kernels of x86-64.

use std::arch::x86_64::*;

use crate::key::KEY_BYTES;
use crate::native::{RoundKeys, Schedule};

/// Fills the schedules of an XTS key in place.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "aes,sse2")]
pub(super) unsafe fn expand(schedule: &mut Schedule, key: &[u8; KEY_BYTES]) {
    let (data, tweak) = key.split_at(KEY_BYTES / 2);
    expand_one(&mut schedule.encrypt, data);
    expand_one(&mut schedule.tweak, tweak);
    let count = schedule.encrypt.len();
    for (number, (inverse, key)) in schedule.decrypt.iter_mut().zip(schedule.encrypt.iter().rev()).enumerate() {
        let outer = number == 0 || number == count - 1;
        *inverse = if outer { *key } else { [from_vector(_mm_aesimc_si128(to_vector(key[0]))); 4] };
    }
}

fn to_vector(key: u128) -> __m128i {
    // SAFETY: both are 16 bytes of any value.
    unsafe { std::mem::transmute(key) }
}

fn from_vector(vector: __m128i) -> u128 {
    // SAFETY: both are 16 bytes of any value.
    unsafe { std::mem::transmute(vector) }
}

/// Each word is the sum of all words up to it: `w0, w0^w1, w0^w1^w2, ...`.
#[target_feature(enable = "sse2")]
fn running_sum(vector: __m128i) -> __m128i {
    let vector = _mm_xor_si128(vector, _mm_slli_si128::<4>(vector));
    _mm_xor_si128(vector, _mm_slli_si128::<8>(vector))
}

#[target_feature(enable = "aes,sse2")]
fn expand_one(keys: &mut RoundKeys, key: &[u8]) {
    let half = |range: std::ops::Range<usize>| {
        key.get(range).and_then(|half| half.try_into().ok()).map_or(0, u128::from_le_bytes)
    };
    let (mut even, mut odd) = (to_vector(half(0..16)), to_vector(half(16..32)));
    keys[0] = [from_vector(even); 4];
    keys[1] = [from_vector(odd); 4];
    macro_rules! pair {
        ($at:literal, $constant:literal) => {
            // RotWord(SubWord(last word)) ^ Rcon for the even keys; SubWord(last word) alone for the odd ones.
            let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(odd));
            even = _mm_xor_si128(running_sum(even), word);
            keys[$at] = [from_vector(even); 4];
            pair!(odd $at, $constant);
        };
        (odd $at:literal, $constant:literal) => {
            let word = _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(even));
            odd = _mm_xor_si128(running_sum(odd), word);
            keys[$at + 1] = [from_vector(odd); 4];
        };
    }
    pair!(2, 0x01);
    pair!(4, 0x02);
    pair!(6, 0x04);
    pair!(8, 0x08);
    pair!(10, 0x10);
    pair!(12, 0x20);
    let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<0x40>(odd));
    keys[14] = [from_vector(_mm_xor_si128(running_sum(even), word)); 4];
}
