// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Ciphertext in a second place, for who must look at it while others may write the first one; and its CRC-32C, beside the
//! cipher.
//!
//! A CPU that encrypts has little to do for its integer units. A kernel that computes the CRC of the group before while it
//! encrypts this one hardly takes longer. (One call after the other does: a CPU looks ahead for some hundred instructions.)

#![cfg_attr(any(not(target_arch = "x86_64"), miri), allow(dead_code, reason = "only a kernel computes CRCs"))]

use vm_memory::VolatileSlice;

/// Bytes that a kernel digests at a time.
pub(super) const CRC_BYTES: usize = 256;

/// Private memory to which ciphertext goes beside its way: that of encryption as well as that of decryption.
#[derive(Debug)]
pub struct Tee<'t> {
    memory: VolatileSlice<'t>,
    /// It is the memory to which it is encrypted, or from which it is decrypted: only the CRC is wanted.
    in_place: bool,
    /// Bytes of it that hold ciphertext.
    stored: usize,
    crc: Option<Crc<'t>>,
}

/// The CRC-32C of each data unit.
#[derive(Debug)]
struct Crc<'t> {
    /// Bytes of the memory that are digested.
    digested: usize,
    /// Of the data unit that was begun.
    state: u32,
    unit: usize,
    out: &'t mut [u32],
    /// Data units that are digested.
    count: usize,
}

impl<'t> Tee<'t> {
    /// At least as much memory as will be encrypted or decrypted. What is more is not touched.
    pub fn new(memory: &'t mut [u8]) -> Self {
        Self { memory: VolatileSlice::from(memory), in_place: false, stored: 0, crc: None }
    }

    /// For the CRC of what is in memory that nobody else uses, or comes there.
    pub(super) fn in_place(memory: VolatileSlice<'t>) -> Self {
        Self { memory, in_place: true, stored: 0, crc: None }
    }

    /// Whether ciphertext goes to no second place.
    pub(super) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Also computes the CRC-32C of each data unit of `1 << unit_bits` bytes, where that can be done beside the cipher.
    #[must_use]
    pub fn with_crc32c(mut self, unit_bits: u8, out: &'t mut [u32]) -> Self {
        let unit = 1usize.checked_shl(unit_bits.into()).unwrap_or(0);
        if unit.is_multiple_of(CRC_BYTES) && unit != 0 {
            self.crc = Some(Crc { digested: 0, state: u32::MAX, unit, out, count: 0 });
        }
        self
    }

    /// The memory: for who fills it by other means.
    pub fn memory(&self) -> VolatileSlice<'t> {
        self.memory
    }

    /// Where the next `bytes` of ciphertext go, if there is room for them.
    pub(super) fn place(&self, bytes: usize) -> Option<VolatileSlice<'t>> {
        self.memory.subslice(self.stored, bytes).ok()
    }

    /// So many more bytes have been stored.
    #[inline(always)]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.stored = self.stored.saturating_add(bytes).min(self.memory.len());
    }

    /// What is to be digested next, and the state before it: [`CRC_BYTES`], if they have been stored, and `lag` bytes after them.
    #[inline(always)]
    pub(super) fn next_crc(&self, lag: usize) -> Option<(*const u8, u32)> {
        let crc = self.crc.as_ref()?;
        let end = crc.digested + CRC_BYTES; // inside the memory, as `stored`
        (end + lag <= self.stored).then(|| (self.memory.ptr_guard().as_ptr().wrapping_add(crc.digested), crc.state))
    }

    /// That has been digested.
    #[inline(always)]
    pub(super) fn crc_done(&mut self, state: u32) {
        let Some(crc) = &mut self.crc else { return };
        crc.digested += CRC_BYTES;
        crc.state = state;
        if crc.digested & (crc.unit - 1) == 0 {
            if let Some(out) = crc.out.get_mut(crc.count) {
                *out = !state;
            }
            crc.count += 1;
            crc.state = u32::MAX;
        }
    }

    /// Nothing digests beside the cipher.
    pub(super) fn without_crc(&mut self) {
        self.crc = None;
    }

    /// Data units whose CRC has been computed.
    pub(super) fn crcs(&self) -> usize {
        self.crc.as_ref().map_or(0, |crc| crc.count.min(crc.out.len()))
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
