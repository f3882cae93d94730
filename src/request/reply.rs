// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The writable part of a chain: room for data, then the status byte.

use vm_memory::VolatileSlice;

use crate::protocol::Status;
use crate::queue::Segments;

/// Where the answer goes. It must end in [`Reply::finish`] or [`Reply::finish_malformed`].
#[derive(Debug)]
#[must_use = "the driver waits for a status"]
pub struct Reply<'m> {
    writable: Segments<'m>,
    written: u64,
}

impl<'m> Reply<'m> {
    pub(super) fn new(writable: Segments<'m>) -> Self {
        Self { writable, written: 0 }
    }

    /// Whether there is room for a status.
    pub fn has_status(&self) -> bool {
        !self.writable.is_empty()
    }

    /// Bytes of room for data.
    pub fn room(&self) -> u64 {
        self.writable.len().saturating_sub(1)
    }

    /// Writes data at an offset in the room; what does not fit is cut off.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let fits = usize::try_from(self.room().saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
        let written = self.writable.copy_from(offset, data.get(..fits).unwrap_or(data));
        self.written += written as u64; // usize to u64 loses nothing; the sum stays below the chain's 2^32 bytes
    }

    /// Gives the room for `len` bytes at an offset to `action`, which says whether it has filled it.
    ///
    /// # Errors
    /// Those of `action`.
    pub fn fill<E>(
        &mut self,
        offset: u64,
        len: usize,
        action: impl FnOnce(&[VolatileSlice<'_>]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let fits = usize::try_from(self.room().saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let filled = action(&self.writable.pieces(offset, fits))?;
        if filled {
            self.written += fits as u64; // as in `write`
        }
        Ok(filled)
    }

    /// Writes the status. Returns the bytes written into the chain, data and status.
    pub fn finish(mut self, status: Status) -> u32 {
        self.write_status(status);
        u32::try_from(self.written).unwrap_or(u32::MAX)
    }

    /// Writes the status if there is room for it, of a chain that is not a request. Returns the used length, which is
    /// 0 for such a chain.
    pub fn finish_malformed(mut self, status: Status) -> u32 {
        self.write_status(status);
        0
    }

    /// The one place that writes a status byte.
    fn write_status(&mut self, status: Status) {
        if let Some(offset) = self.writable.len().checked_sub(1) {
            self.written += self.writable.copy_from(offset, &[status as u8]) as u64; // 0 or 1
        }
    }
}
