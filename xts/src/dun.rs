// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data unit numbers.

/// The number of a data unit, a 256-bit integer, least significant word first, as `bc_dun` of the Linux kernel's
/// `struct bio_crypt_ctx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dun([u64; 4]);

impl Dun {
    /// A number from four words, least significant first.
    #[inline]
    pub const fn new(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// The number as four words, least significant first.
    #[inline]
    pub const fn words(self) -> [u64; 4] {
        self.0
    }

    /// The number of the data unit `units` further on, or `None` past 2^256 - 1.
    #[inline]
    pub fn checked_add(self, units: u64) -> Option<Self> {
        let [a, b, c, d] = self.0;
        let (a, carry) = a.overflowing_add(units);
        let (b, carry) = b.overflowing_add(u64::from(carry));
        let (c, carry) = c.overflowing_add(u64::from(carry));
        let (d, carry) = d.overflowing_add(u64::from(carry));
        (!carry).then_some(Self([a, b, c, d]))
    }

    /// Whether the number fits in `bytes` bytes (32 or more: always).
    #[inline]
    pub fn fits(self, bytes: u8) -> bool {
        let mut bytes = usize::from(bytes);
        self.0.iter().all(|&word| {
            let here = bytes.min(8);
            bytes -= here;
            // `here` is 0 to 8. Rust has no shift by 64, so 8 is checked apart.
            here == 8 || word >> (here * 8) == 0
        })
    }

    /// The tweak of AES-XTS: the low 128 bits (IEEE 1619 takes them as 16 little-endian bytes).
    #[inline]
    pub fn low_128(self) -> u128 {
        let [a, b, ..] = self.0;
        u128::from(b) << 64 | u128::from(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An independent reading of the same rule: schoolbook addition over bytes.
    fn add_bytes(words: [u64; 4], units: u64) -> Option<[u8; 32]> {
        let mut bytes = [0u8; 32];
        for (chunk, word) in bytes.chunks_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let mut carry = 0u16;
        for (i, byte) in bytes.iter_mut().enumerate() {
            let addend = units.to_le_bytes().get(i).copied().unwrap_or(0);
            let sum = u16::from(*byte) + u16::from(addend) + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        (carry == 0).then_some(bytes)
    }

    fn to_bytes(dun: Dun) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        for (chunk, word) in bytes.chunks_mut(8).zip(dun.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Words near the edges, where carries happen.
    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), (u64::MAX - 9)..=u64::MAX, any::<u64>()]
    }

    proptest! {
        #![proptest_config(crate::tests::cases())]
        #[test]
        fn addition_carries_through_all_words(a in word(), b in word(), c in word(), d in word(), units in word()) {
            let sum = Dun::new([a, b, c, d]).checked_add(units);
            prop_assert_eq!(sum.map(to_bytes), add_bytes([a, b, c, d], units));
        }

        #[test]
        fn fits_means_that_the_bytes_above_are_zero(a in word(), b in word(), c in word(), d in word(), keep in 0u8..40, size in 0u8..40) {
            let mut bytes = to_bytes(Dun::new([a, b, c, d]));
            bytes.iter_mut().skip(keep.into()).for_each(|byte| *byte = 0);
            let words: Vec<u64> =
                bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes"))).collect();
            let dun = Dun::new(words.try_into().expect("4 words"));
            let expected = bytes.iter().skip(size.into()).all(|&byte| byte == 0);
            prop_assert_eq!(dun.fits(size), expected);
        }
    }
}
