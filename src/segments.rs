// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The data of a request in guest memory, in any number of pieces.
#![forbid(unsafe_code)]

use smallvec::SmallVec;
use vm_memory::VolatileSlice;

/// Contiguous pieces of guest memory, in order. Most requests have few, which need no allocation.
pub type Pieces<'m> = SmallVec<[VolatileSlice<'m>; 4]>;

/// A string of bytes in guest memory.
///
/// The guest can change its memory at any time. Only what was copied out counts, and users of this type read nothing
/// twice.
#[derive(Debug, Default)]
pub struct Segments<'m> {
    slices: Pieces<'m>,
    /// How many slices have been removed completely.
    first: usize,
    len: u64,
}

impl<'m> Segments<'m> {
    /// Adds bytes at the end.
    pub fn push(&mut self, slice: VolatileSlice<'m>) {
        self.len += slice.len() as u64; // usize to u64 loses nothing; the sum is bounded by the chain's 2^32 bytes
        self.slices.push(slice);
    }

    /// Bytes in the string; less than 2^32.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the first bytes out of guest memory and removes them from the string. Returns false if there are fewer
    /// than `buffer.len()`; the buffer is then not usable.
    pub fn read_front(&mut self, buffer: &mut [u8]) -> bool {
        let wanted = buffer.len() as u64; // usize to u64 loses nothing
        if self.len < wanted {
            return false;
        }
        let mut rest = buffer;
        while !rest.is_empty() {
            let Some(slice) = self.slices.get_mut(self.first) else { return false };
            let count = slice.copy_to(rest);
            rest = rest.get_mut(count..).unwrap_or_default();
            match slice.offset(count) {
                Ok(tail) if !tail.is_empty() => *slice = tail,
                _ => self.first += 1,
            }
        }
        self.len -= wanted;
        true
    }

    /// Removes the last byte.
    pub fn split_last(&mut self) -> Option<VolatileSlice<'m>> {
        if self.is_empty() {
            return None;
        }
        while let Some(slice) = self.slices.last_mut() {
            let Some(rest) = slice.len().checked_sub(1) else {
                self.slices.pop();
                continue;
            };
            let (front, last) = slice.split_at(rest).ok()?;
            // An empty slice may stay: all readers pass over it, and removing it takes longer.
            *slice = front;
            self.len -= 1;
            return Some(last);
        }
        None
    }

    /// The `len` bytes from `offset` on, or fewer at the end, without copying them.
    pub fn pieces(&self, offset: u64, len: usize) -> Pieces<'m> {
        let mut rest = len;
        let mut pieces = Pieces::new();
        self.for_each_from(offset, |slice| {
            let take = rest.min(slice.len());
            if let Ok(piece) = slice.subslice(0, take)
                && take > 0
            {
                pieces.push(piece);
                rest -= take;
            }
        });
        pieces
    }

    /// Copies bytes from `offset` on out of guest memory. Returns how many there were, at most `buffer.len()`.
    pub fn copy_to(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        self.for_each_from(offset, |slice| {
            let Some(rest) = buffer.get_mut(done..) else { return };
            done += slice.copy_to(rest);
        });
        done
    }

    /// Copies `data` into guest memory from `offset` on. Returns how many bytes fit.
    pub fn copy_from(&self, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        self.for_each_from(offset, |slice| {
            let Some(rest) = data.get(done..) else { return };
            let count = rest.len().min(slice.len());
            slice.copy_from(rest);
            done += count;
        });
        done
    }

    fn for_each_from(&self, mut offset: u64, mut action: impl FnMut(&VolatileSlice<'m>)) {
        for slice in self.slices.iter().skip(self.first) {
            let len = slice.len() as u64; // usize to u64 loses nothing
            if offset >= len {
                offset -= len;
            } else if let Ok(rest) = slice.offset(offset as usize) {
                // `offset` is less than a usize here
                action(&rest);
                offset = 0;
            }
        }
    }
}

/// Space in guest memory for the reply to a request.
#[derive(Debug, Default)]
pub struct Room<'m> {
    segments: Segments<'m>,
    written: u64,
}

impl<'m> Room<'m> {
    /// Nothing is written yet.
    pub fn new(segments: Segments<'m>) -> Self {
        Self { segments, written: 0 }
    }

    /// Bytes of space.
    pub fn len(&self) -> u64 {
        self.segments.len()
    }

    /// Whether there is no space.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes data at an offset, and cuts off what does not fit.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let written = self.segments.copy_from(offset, data);
        self.written += written as u64; // usize to u64 loses nothing; the sum stays below the chain's 2^32 bytes
    }

    /// Passes the space for `len` bytes at an offset to `action`, which returns whether it has filled it.
    ///
    /// # Errors
    /// Those of `action`.
    pub fn fill<E>(
        &mut self,
        offset: u64,
        len: usize,
        action: impl FnOnce(&[VolatileSlice<'_>]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let fits = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let filled = action(&self.segments.pieces(offset, fits))?;
        if filled {
            self.written += fits as u64; // as in `write`
        }
        Ok(filled)
    }
}
