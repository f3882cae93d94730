// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A descriptor chain as two byte strings, however the driver cut them into descriptors (virtio 1.4, 2.7).

use smallvec::SmallVec;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// Pieces of guest memory in a row. Most requests have few, which need no allocation.
pub type Pieces<'m> = SmallVec<[VolatileSlice<'m>; 4]>;

/// A string of bytes in guest memory.
///
/// The guest can change its memory at any time, so what has been copied out of it is what counts, and users of this
/// type read nothing a second time.
#[derive(Debug, Default)]
pub struct Segments<'m> {
    slices: Pieces<'m>,
    /// Slices that have been taken off as a whole.
    first: usize,
    len: u64,
}

impl<'m> Segments<'m> {
    fn push(&mut self, slice: VolatileSlice<'m>) {
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

    /// Copies the first bytes out of guest memory and takes them off the string. False, with nothing usable copied, when
    /// there are fewer than `buffer.len()`.
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

    /// The `len` bytes (or as many as there are) from `offset` on, where they lie.
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

    /// Copies `data` into guest memory from `offset` on. Returns how many bytes found room.
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

/// What a driver made available: bytes for the device to read, then room for it to write.
#[derive(Debug, Default)]
pub struct Chain<'m> {
    /// Bytes that the device reads.
    pub readable: Segments<'m>,
    /// Room that the device writes.
    pub writable: Segments<'m>,
}

/// A chain that breaks the rules of the ring. After that nothing in the ring can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A loop, a descriptor index out of range, a table outside guest memory, an indirect table of a wrong length or
    /// inside an indirect table, or 2^32 bytes and more.
    #[error("the descriptor chain does not end (loop, index or address out of range, or too many bytes)")]
    Unending,
    /// More descriptors than the device's queue size.
    #[error("the descriptor chain is longer than the queue")]
    TooLong,
    /// A device-readable descriptor after a device-writable one.
    #[error("a device-readable descriptor follows a device-writable one")]
    Order,
    /// A buffer that is not in guest memory.
    #[error("a descriptor points outside guest memory")]
    Address,
}

impl<'m> Chain<'m> {
    /// Walks a chain of at most `max_descriptors` descriptors. Each descriptor is read once.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn walk(
        memory: &'m GuestMemoryMmap,
        descriptors: impl Iterator<Item = Descriptor>,
        max_descriptors: u16,
    ) -> Result<Self, ChainError> {
        let mut chain = Chain::default();
        let mut count = 0u16;
        // The iterator ends both after the last descriptor and at a broken one. A chain is whole exactly
        // when the last descriptor that it yields names no next one.
        let mut whole = false;
        for descriptor in descriptors {
            whole = !descriptor.has_next();
            count = count.saturating_add(1);
            if count > max_descriptors {
                return Err(ChainError::TooLong);
            }
            let (side, access) = if descriptor.is_write_only() {
                (&mut chain.writable, Permissions::Write)
            } else if chain.writable.is_empty() {
                (&mut chain.readable, Permissions::Read)
            } else {
                return Err(ChainError::Order);
            };
            let slices = memory
                .get_slices(descriptor.addr(), descriptor.len() as usize, access) // u32 to usize loses nothing
                .map_err(|_| ChainError::Address)?;
            for slice in slices {
                side.push(slice.map_err(|_| ChainError::Address)?);
            }
        }
        if whole { Ok(chain) } else { Err(ChainError::Unending) }
    }
}
