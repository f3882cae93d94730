// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The CRC-32C of each data unit of ciphertext, computed beside the cipher.
//!
//! AES leaves the integer units of a CPU idle. A kernel that computes CRCs keeps the last groups of ciphertext in private memory,
//! because others may change the source and the target at any moment. Between the AES rounds of one group, it computes the CRC of
//! the group before, and moves it to the target if it is not there yet.

#![cfg_attr(any(not(target_arch = "x86_64"), miri), allow(dead_code, reason = "no kernel computes CRCs"))]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// Bytes of a group.
pub(super) const GROUP_BYTES: usize = 256;
/// Groups that are kept: one that is being digested, while the next one is stored.
const KEPT: usize = 2;

/// The last groups of ciphertext. They stay in the CPU's first cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct LastGroups(MaybeUninit<[u8; KEPT * GROUP_BYTES]>);

impl LastGroups {
    /// No groups yet.
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

/// A group of ciphertext to digest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    /// [`GROUP_BYTES`] bytes of [`LastGroups`].
    pub at: *const u8,
    /// Their target, if they are not there yet; otherwise null.
    pub to: *mut u8,
    /// The CRC before them.
    pub state: u32,
}

/// The CRCs of a request.
#[derive(Debug)]
pub(super) struct Crc32c<'t> {
    /// The beginning of [`LastGroups`].
    start: *mut u8,
    /// Groups that were stored, and those of them that are digested: all, or all but the last one.
    stored: usize,
    digested: usize,
    /// The target of the last group.
    to: *mut u8,
    state: u32,
    unit: usize,
    /// Bytes of the current data unit that are not digested.
    left: usize,
    crcs: std::slice::IterMut<'t, [u8; 4]>,
    groups: PhantomData<&'t mut LastGroups>,
}

impl<'t> Crc32c<'t> {
    /// For data units of `1 << unit_bits` bytes.
    pub(super) fn new(unit_bits: u8, groups: &'t mut LastGroups, crcs: &'t mut [[u8; 4]]) -> Self {
        let unit = 1usize.checked_shl(unit_bits.max(4).into()).unwrap_or(0);
        let (start, state, crcs) = (groups.0.as_mut_ptr().cast(), u32::MAX, crcs.iter_mut());
        Self { start, stored: 0, digested: 0, to: null_mut(), state, unit, left: unit, crcs, groups: PhantomData }
    }

    fn group(&self, number: usize) -> *mut u8 {
        self.start.wrapping_add(number % KEPT * GROUP_BYTES)
    }

    /// Where the next group is stored. The last group stays where it is.
    #[inline(always)]
    pub(super) fn place(&self) -> *mut u8 {
        self.group(self.stored)
    }

    /// A group is in the place that [`place`](Self::place) returned. The one before is digested. `to`: see [`Pending::to`].
    #[inline(always)]
    pub(super) fn group_stored(&mut self, to: *mut u8) {
        debug_assert_eq!(self.digested, self.stored);
        self.stored += 1;
        self.to = to;
    }

    /// The group that is stored and not digested, if there is one.
    #[inline(always)]
    pub(super) fn pending(&self) -> Option<Pending> {
        let pending = Pending { at: self.group(self.digested), to: self.to, state: self.state };
        (self.digested < self.stored).then_some(pending)
    }

    /// The CRC after the group that was pending.
    #[inline(always)]
    pub(super) fn group_done(&mut self, state: u32) {
        self.digested += 1;
        self.done(GROUP_BYTES, state);
    }

    /// The state, if no group is pending.
    pub(super) fn state(&self) -> u32 {
        self.state
    }

    /// The CRC after `bytes` more bytes of the data unit.
    #[inline(always)]
    pub(super) fn done(&mut self, bytes: usize, state: u32) {
        self.state = state;
        self.left = self.left.wrapping_sub(bytes);
        if self.left == 0 {
            if let Some(crc) = self.crcs.next() {
                *crc = (!state).to_le_bytes();
            }
            (self.state, self.left) = (u32::MAX, self.unit);
        }
    }
}

/// x^n modulo the polynomial of CRC-32C, bits reflected.
pub(super) const fn power_of_x(n: usize) -> u32 {
    let mut power: u32 = 1 << 31;
    let mut i = 0;
    while i < n {
        power = (power >> 1) ^ if power & 1 == 1 { 0x82f6_3b78 } else { 0 };
        i += 1;
    }
    power
}
