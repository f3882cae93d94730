// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tweaks: the encrypted data unit number, multiplied by alpha for each further block (IEEE 1619-2018, 5.1 and 5.2).

use zeroize::Zeroize;

use crate::pieces::Cipher;

/// Data units whose tweaks are computed in one call.
///
/// One AES block takes the whole latency of the AES units' pipeline. Several blocks together take hardly longer.
pub(super) const TWEAKS_AT_ONCE: usize = 32;

/// The tweaks of the first blocks of consecutive data units.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct StartTweaks(pub [u128; TWEAKS_AT_ONCE]);

/// Yields the tweaks of a request's data units, in order.
pub(super) struct UnitTweaks<'c, C> {
    cipher: &'c C,
    /// The number of the data unit after those in `ready`, its low 128 bits.
    next: u128,
    /// Data units that are not in `ready` yet.
    left: usize,
    ready: StartTweaks,
    /// The range of `ready` that has not been returned.
    from: usize,
    to: usize,
}

impl<'c, C: Cipher> UnitTweaks<'c, C> {
    /// For `units` data units, the first with number `first`.
    pub fn new(cipher: &'c C, first: u128, units: usize) -> Self {
        Self { cipher, next: first, left: units, ready: StartTweaks([0; TWEAKS_AT_ONCE]), from: 0, to: 0 }
    }

    /// The tweaks of the next data units: at most `most`, at least one unless none is left or wanted.
    pub fn take(&mut self, most: usize) -> &[u128] {
        if self.from == self.to {
            let count = self.left.min(TWEAKS_AT_ONCE);
            self.cipher.start_tweaks(self.next, &mut self.ready, count);
            // Only the low 128 bits make the tweak: past 2^128 - 1 comes 0.
            self.next = self.next.wrapping_add(count as u128);
            self.left -= count;
            (self.from, self.to) = (0, count);
        }
        let end = self.from.saturating_add(most).min(self.to);
        let taken = self.ready.0.get(self.from..end).unwrap_or_default();
        self.from = end;
        taken
    }
}

impl<C> Drop for UnitTweaks<'_, C> {
    fn drop(&mut self) {
        self.ready.0.zeroize();
    }
}

/// The tweak `blocks` blocks further on in a data unit. The time depends on the number, not on the tweak.
pub(super) fn advance(mut tweak: u128, mut blocks: usize) -> u128 {
    // Bits that are shifted out come back multiplied by 0x87, which has 8 bits: with 56 shifted out, that fits in 64.
    while blocks > 0 {
        let step = blocks.min(56);
        let out = ((tweak >> 1) >> (127 - step)) as u64; // `step` bits
        let back = out ^ (out << 1) ^ (out << 2) ^ (out << 7);
        tweak = (tweak << step) ^ u128::from(back);
        blocks -= step;
    }
    tweak
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::tests::cases())]
        #[test]
        fn advance_is_repeated_multiplication_by_alpha(tweak in any::<u128>(), blocks in 0usize..600) {
            let mut expected = tweak;
            for _ in 0..blocks {
                expected = (expected << 1) ^ if expected >> 127 == 1 { 0x87 } else { 0 };
            }
            prop_assert_eq!(advance(tweak, blocks), expected);
        }
    }
}
