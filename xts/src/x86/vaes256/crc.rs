// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The CRC-32C of a group of ciphertext, in steps that go between the AES rounds of another group.
//!
//! A CPU has one unit for its CRC instruction, and a short queue before it. Thirty-two of these instructions in a row fill the
//! queue, and then AES waits, too. A few in each round cost next to nothing.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::crc32c::{Crc32c, GROUP_BYTES, Pending, power_of_x};

const WORD: usize = size_of::<u64>();
const HALF: usize = GROUP_BYTES / 2;
const QUARTER: usize = GROUP_BYTES / 4;

/// What goes beside the AES rounds, which are 0 to 14.
pub trait Beside {
    /// What goes beside a round.
    fn round<const ROUND: usize>(&mut self);
}

/// Nothing.
impl Beside for () {
    #[inline(always)]
    fn round<const ROUND: usize>(&mut self) {}
}

/// A group that is being digested, in two chains: one for each half. The CPU can begin a CRC instruction in each cycle, but takes
/// three for it, so one chain would take longer than the AES rounds.
///
/// `MOVE`: the group goes to its target, too. Spread over the rounds, these stores cost less than at the end of the group.
pub struct Halves<const MOVE: bool> {
    first: u64,
    second: u64,
    at: *const u8,
    to: *mut u8,
}

impl<const MOVE: bool> Beside for Halves<MOVE> {
    #[inline(always)]
    fn round<const ROUND: usize>(&mut self) {
        // Sixteen steps for fifteen rounds.
        self.step::<ROUND>();
        if ROUND == 14 {
            self.step::<15>();
        }
    }
}

impl<const MOVE: bool> Halves<MOVE> {
    /// # Safety
    /// The group is stored, and stays until [`finish`](Self::finish). With `MOVE`, there is room for it in the target.
    #[inline(always)]
    pub unsafe fn new(Pending { at, to, state }: Pending) -> Self {
        Self { first: state.into(), second: 0, at, to }
    }

    /// Digests a word of each half.
    #[inline(always)]
    fn step<const WORDS: usize>(&mut self) {
        // In assembly, so that the compiler leaves it in its round.
        // SAFETY: the group is there, and so is the room.
        unsafe {
            if MOVE {
                asm!(
                    "mov {word}, qword ptr [{at} + {offset}]",
                    "crc32 {first}, {word}",
                    "mov qword ptr [{to} + {offset}], {word}",
                    "mov {word}, qword ptr [{at} + {offset} + {half}]",
                    "crc32 {second}, {word}",
                    "mov qword ptr [{to} + {offset} + {half}], {word}",
                    first = inout(reg) self.first,
                    second = inout(reg) self.second,
                    at = in(reg) self.at,
                    to = in(reg) self.to,
                    word = out(reg) _,
                    offset = const WORDS * WORD,
                    half = const HALF,
                    options(nostack, preserves_flags),
                );
            } else {
                asm!(
                    "crc32 {first}, qword ptr [{at} + {offset}]",
                    "crc32 {second}, qword ptr [{at} + {offset} + {half}]",
                    first = inout(reg) self.first,
                    second = inout(reg) self.second,
                    at = in(reg) self.at,
                    offset = const WORDS * WORD,
                    half = const HALF,
                    options(readonly, nostack, preserves_flags),
                );
            }
        }
    }

    /// The CRC after the group.
    #[inline]
    #[target_feature(enable = "avx2,pclmulqdq")]
    pub fn finish(self) -> u32 {
        joined([self.first, self.second], const { [after(HALF), 0] })
    }
}

/// What `bytes` more bytes do to a CRC: a factor, but for the last step, which the CRC instruction does.
const fn after(bytes: usize) -> u32 {
    power_of_x(8 * bytes - 33)
}

/// The CRC of parts that follow each other, from their CRCs and the factors of what comes after them.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
fn joined<const N: usize>(crcs: [u64; N], after: [u32; N]) -> u32 {
    let mut sum = _mm_setzero_si128();
    for (crc, after) in crcs.into_iter().zip(after).take(N - 1) {
        let product = _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(crc as i64), _mm_cvtsi64_si128(after.into()));
        sum = _mm_xor_si128(sum, product);
    }
    (_mm_crc32_u64(0, _mm_cvtsi128_si64(sum) as u64) ^ crcs[N - 1]) as u32 // a CRC has 32 bits
}

/// Digests the group that is pending, in four chains, and moves it to its target: there is no AES to do meanwhile.
///
/// # Safety
/// The target still exists.
#[target_feature(enable = "avx2,pclmulqdq")]
pub unsafe fn finish_group(crc: &mut Crc32c<'_>) {
    let Some(Pending { at, to, state }) = crc.pending() else { return };
    let mut crcs = [state.into(), 0, 0, 0];
    for offset in (0..QUARTER).step_by(WORD) {
        for (part, crc) in crcs.iter_mut().enumerate() {
            let offset = part * QUARTER + offset;
            // SAFETY: a pending group is stored, and there is room in its target.
            *crc = unsafe { digest_word(*crc, at.wrapping_add(offset), to, offset) };
        }
    }
    crc.group_done(joined(crcs, const { [after(3 * QUARTER), after(2 * QUARTER), after(QUARTER), 0] }));
}

/// Digests some bytes, a multiple of 16, when no group is pending, and moves them to their target if it is not null.
///
/// # Safety
/// They are stored, and there is room in the target.
#[target_feature(enable = "avx2")]
pub unsafe fn digest_rest(crc: &mut Crc32c<'_>, at: *const u8, to: *mut u8, bytes: usize) {
    let mut state = crc.state().into();
    for offset in (0..bytes).step_by(WORD) {
        // SAFETY: as for this function.
        state = unsafe { digest_word(state, at.wrapping_add(offset), to, offset) };
    }
    crc.done(bytes, state as u32); // a CRC has 32 bits
}

/// Digests a word, and moves it to `offset` bytes behind `to` if that is not null.
///
/// # Safety
/// It is stored, and there is room in the target.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn digest_word(crc: u64, at: *const u8, to: *mut u8, offset: usize) -> u64 {
    // SAFETY: as for this function.
    let word = unsafe { at.cast::<u64>().read() };
    if !to.is_null() {
        // SAFETY: as for this function. In assembly, because others may access the target meanwhile.
        unsafe {
            asm!(
                "mov qword ptr [{to}], {word}",
                to = in(reg) to.wrapping_add(offset),
                word = in(reg) word,
                options(nostack, preserves_flags),
            );
        }
    }
    _mm_crc32_u64(crc, word)
}
