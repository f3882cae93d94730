// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which requests a fault strikes.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::protocol::SECTOR_SHIFT;
use crate::request::Extent;

/// The type of a request, as far as faults distinguish types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// IN and CRYPTO_IN.
    Read,
    /// OUT and CRYPTO_OUT.
    Write,
    /// FLUSH.
    Flush,
    /// DISCARD.
    Discard,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// SECURE_ERASE.
    SecureErase,
    /// KEYSLOT_PROGRAM.
    Program,
    /// KEYSLOT_EVICT.
    Evict,
    /// DME_HIBERNATE_ENTER of a UFS host controller.
    HibernateEnter,
    /// DME_HIBERNATE_EXIT.
    HibernateExit,
    /// DME_SET of PA_PWRMODE.
    PowerMode,
    /// DME_LINKSTARTUP.
    LinkStartup,
}

impl Op {
    pub(super) const ALL: [Self; 12] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Discard,
        Self::WriteZeroes,
        Self::SecureErase,
        Self::Program,
        Self::Evict,
        Self::HibernateEnter,
        Self::HibernateExit,
        Self::PowerMode,
        Self::LinkStartup,
    ];

    /// Its name in `op=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write-zeroes",
            Self::SecureErase => "secure-erase",
            Self::Program => "program",
            Self::Evict => "evict",
            Self::HibernateEnter => "hibernate-enter",
            Self::HibernateExit => "hibernate-exit",
            Self::PowerMode => "power-mode",
            Self::LinkStartup => "link-startup",
        }
    }
}

/// A set of operations, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ops(u16);

/// All requests.
pub(super) const ANY: Ops = Ops(0xff);
/// Those for the disk.
pub(super) const DISK: Ops = Ops(0x3f);
/// Commands for the link.
pub(super) const UIC: Ops = Ops(0xf00);
pub(super) const TRANSFERS: Ops = Ops(1 << Op::Read as u16 | 1 << Op::Write as u16);

impl Ops {
    pub(super) fn add(&mut self, op: Op) {
        self.0 |= 1 << op as u16;
    }

    pub(super) fn has(self, op: Op) -> bool {
        self.0 & 1 << op as u16 != 0
    }

    pub(super) fn is_in(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// What faults know about a request.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'r> {
    /// What it is.
    pub op: Op,
    /// The index of its queue.
    pub queue: usize,
    /// The logical unit that it is for.
    pub lun: usize,
    /// The keyslot that it names.
    pub slot: Option<u32>,
    /// It wants digests.
    pub digested: bool,
    /// The parts of the disk that it is about.
    pub extents: &'r [Extent],
}

/// When a fault strikes. All conditions must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub(super) ops: Ops,
    /// Only requests that name a keyslot and transfer data.
    pub(super) encrypted_only: bool,
    /// Only requests with digests.
    pub(super) digested_only: bool,
    /// Sectors of 512 bytes, of which the request concerns at least one.
    pub(super) sectors: Option<RangeInclusive<u64>>,
    pub(super) slots: Option<RangeInclusive<u64>>,
    pub(super) queues: Option<RangeInclusive<u64>>,
    pub(super) luns: Option<RangeInclusive<u64>>,
    /// The first matching request that may be struck, counted from 1.
    pub(super) nth: u64,
    /// The maximum number of requests to strike.
    pub(super) count: Option<u64>,
    /// The share of these that is struck, as a part of 2^64; `None`: all.
    pub(super) probability: Option<u64>,
    /// The seed of the pseudo-random choice.
    pub(super) seed: u64,
    /// How long after the fault was added.
    pub(super) after: Duration,
}

impl Condition {
    /// Whether the request matches, apart from `nth`, `count` and `probability`.
    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        let within = |range: &Option<RangeInclusive<u64>>, value: Option<u64>| match (range, value) {
            (None, _) => true,
            (Some(range), Some(value)) => range.contains(&value),
            (Some(_), None) => false,
        };
        self.ops.has(subject.op)
            && (!self.encrypted_only || subject.slot.is_some())
            && (!self.digested_only || subject.digested)
            && within(&self.slots, subject.slot.map(u64::from))
            && within(&self.queues, u64::try_from(subject.queue).ok())
            && within(&self.luns, u64::try_from(subject.lun).ok())
            && self.sectors.as_ref().is_none_or(|sectors| subject.extents.iter().any(|extent| touches(extent, sectors)))
    }

    /// Whether to strike the `matched`th matching request, after `struck` strikes.
    pub(super) fn chosen(&self, matched: u64, struck: u64) -> bool {
        matched >= self.nth
            && self.count.is_none_or(|count| struck < count)
            && self.probability.is_none_or(|part| random(self.seed, matched) < part)
    }
}

fn touches(extent: &Extent, sectors: &RangeInclusive<u64>) -> bool {
    let Some(last) = extent.len.checked_sub(1).and_then(|len| extent.offset.checked_add(len)) else { return false };
    extent.offset >> SECTOR_SHIFT <= *sectors.end() && last >> SECTOR_SHIFT >= *sectors.start()
}

/// The `number`th value of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): the
/// same for the same seed on every machine.
fn random(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first values for seed 1234567, as published with other implementations (for example Rosetta Code).
    #[test]
    fn splitmix64() {
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([1, 2, 3].map(|number| random(1_234_567, number)), expected);
    }

    #[test]
    fn sectors_at_the_edges() {
        let extent = |offset, len| Extent { offset, len };
        let sectors = 8..=15;
        for (extent, expected) in [
            (extent(0, 8 * 512), false),
            (extent(0, 8 * 512 + 1), true),
            (extent(15 * 512, 512), true),
            (extent(16 * 512, 512), false),
            (extent(0, 1 << 20), true),
            (extent(8 * 512, 0), false),
            (extent(u64::MAX, 2), false),
        ] {
            assert_eq!(touches(&extent, &sectors), expected, "{extent:?}");
        }
    }
}
