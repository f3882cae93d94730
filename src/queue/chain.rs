// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A descriptor chain as two byte strings, however the driver cut them into descriptors (virtio 1.4, 2.7).

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions};

use crate::segments::Segments;

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
#[error("{}", self.reason())]
pub enum ChainError {
    /// A loop, a descriptor index out of range, a table outside guest memory, an indirect table of a wrong length or
    /// inside an indirect table, or 2^32 bytes and more.
    Unending,
    /// More descriptors than the device's queue size.
    TooLong,
    /// A device-readable descriptor after a device-writable one.
    Order,
    /// A buffer that is not in guest memory.
    Address,
    /// More pieces than descriptors and borders between regions.
    Pieces,
}

/// The maximum number of memory regions that a frontend may add one by one, as in the kernel's vhost.
pub const MOST_REGIONS: usize = 509;

impl ChainError {
    /// Why the queue stops, and what a user can do about it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unending => {
                "a descriptor chain does not end (loop, index or address out of range, or too many bytes)"
            }
            Self::TooLong => "a descriptor chain is longer than the queue (--queue-size)",
            Self::Order => "in a descriptor chain, a device-readable descriptor follows a device-writable one",
            Self::Address => "a descriptor points outside guest memory (is all of it shared?)",
            Self::Pieces => "the buffers of a descriptor chain lie across more memory regions than there are",
        }
    }
}

impl<'m> Chain<'m> {
    /// Its bytes, below 2^32.
    pub fn bytes(&self) -> u64 {
        self.readable.len() + self.writable.len()
    }

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
        // Each border lies within one buffer, if buffers do not overlap. Otherwise small regions would make as many pieces as bytes.
        let mut pieces = usize::from(max_descriptors) + MOST_REGIONS;
        // The iterator ends both after the last descriptor and at a broken one. The chain is complete only if the last
        // descriptor has no next one.
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
                pieces = pieces.checked_sub(1).ok_or(ChainError::Pieces)?;
                side.push(slice.map_err(|_| ChainError::Address)?);
            }
        }
        if whole { Ok(chain) } else { Err(ChainError::Unending) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    /// Guest memory in regions of 16 bytes.
    #[test]
    fn the_pieces_of_a_chain_are_as_many_as_descriptors_and_borders() {
        let ranges: Vec<_> = (0..600).map(|number| (GuestAddress(16 * number), 16)).collect();
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
        let walk = |descriptors: u64, len: u32| {
            let next = |n: u64| if n + 1 < descriptors { 1 } else { 0 };
            let all = (0..descriptors).map(|n| Descriptor::new(0, len, next(n), 0));
            Chain::walk(&memory, all, 64).map(|chain| chain.bytes())
        };
        assert_eq!(walk(1, 16 * 573).ok(), Some(16 * 573));
        assert_eq!(walk(1, 16 * 574).err(), Some(ChainError::Pieces));
        assert_eq!(walk(3, 16 * 191).ok(), Some(16 * 573), "descriptors of the same bytes");
        assert_eq!(walk(64, 16 * 9).err(), Some(ChainError::Pieces));
    }
}
