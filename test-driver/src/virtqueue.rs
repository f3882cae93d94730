// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The driver's side of a split virtqueue (virtio 1.4, 2.7).

use std::sync::atomic::{AtomicU16, Ordering, fence};

use vhost::VringConfigData;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion, VolatileMemory};

/// VIRTQ_DESC_F_NEXT.
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const INDIRECT: u16 = 4;

/// Guest memory in which each ring is in one region.
pub trait GuestMemory {
    /// The region of a guest address, and the offset in it.
    fn locate(&self, address: u64) -> Option<(&MmapRegion, usize)>;
}

impl GuestMemory for GuestMemoryMmap {
    fn locate(&self, address: u64) -> Option<(&MmapRegion, usize)> {
        let (region, offset) = self.to_region_addr(GuestAddress(address))?;
        Some((region, offset.raw_value() as usize))
    }
}

impl<M: GuestMemory> GuestMemory for &M {
    fn locate(&self, address: u64) -> Option<(&MmapRegion, usize)> {
        (**self).locate(address)
    }
}

/// A descriptor in memory.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // the specification's fields
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// A buffer of a chain: guest address, bytes, [`WRITE`] or 0.
pub type Piece = (u64, u32, u16);

/// A bare virtqueue: its user chooses the descriptors of a request, and may break every rule.
///
/// A method panics when the ring is not in guest memory.
#[derive(Debug, Clone)]
pub struct Virtqueue<M> {
    memory: M,
    /// Entries of each ring.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Number of the next entry of the available ring.
    pub next_avail: u16,
    /// Number of the next entry of the used ring to read.
    pub next_used: u16,
}

impl<M: GuestMemory> Virtqueue<M> {
    /// A virtqueue whose rings, in zeroed memory, are at these addresses.
    pub fn new(memory: M, size: u16, [descriptors, avail, used]: [u64; 3]) -> Self {
        Self { memory, size, descriptors, avail, used, next_avail: 0, next_used: 0 }
    }

    fn word(&self, address: u64) -> &AtomicU16 {
        let (region, offset) = self.memory.locate(address).expect("the ring is in guest memory");
        region.get_atomic_ref(offset).expect("the ring is in guest memory")
    }

    fn avail_entry(&self, number: u16) -> u64 {
        self.avail + 4 + 2 * u64::from(number % self.size)
    }

    /// The message SET_VRING_ADDR, if the frontend has guest memory mapped `shift` bytes above its guest address.
    pub fn addresses(&self, queue_max_size: u16, shift: u64) -> VringConfigData {
        VringConfigData {
            queue_max_size,
            queue_size: self.size,
            flags: 0,
            desc_table_addr: self.descriptors + shift,
            used_ring_addr: self.used + shift,
            avail_ring_addr: self.avail + shift,
            log_addr: None,
        }
    }

    /// Writes one descriptor of a table.
    pub fn write_descriptor(&self, table: u64, index: u16, descriptor: Descriptor) {
        let (region, at) = self.memory.locate(table + 16 * u64::from(index)).expect("the table is in guest memory");
        let place = region.get_slice(at, 16).expect("the table is in guest memory");
        place.get_ref(0).expect("16 bytes").store(descriptor.address.to_le());
        place.get_ref(8).expect("16 bytes").store(descriptor.len.to_le());
        place.get_ref(12).expect("16 bytes").store(descriptor.flags.to_le());
        place.get_ref(14).expect("16 bytes").store(descriptor.next.to_le());
    }

    /// Writes a chain's descriptors into a table, linked in this order: number `n` of them at index `place(n)`.
    pub fn write_chain(&self, table: u64, place: impl Fn(u16) -> u16, pieces: &[Piece]) {
        for (number, &(address, len, flags)) in (0u16..).zip(pieces) {
            let last = usize::from(number) + 1 == pieces.len();
            let (flags, next) = if last { (flags, 0) } else { (flags | NEXT, place(number + 1)) };
            self.write_descriptor(table, place(number), Descriptor { address, len, flags, next });
        }
    }

    /// Writes a chain into an indirect table, and the descriptor `head` that refers to it.
    pub fn write_indirect(&self, head: u16, table: u64, pieces: &[Piece]) {
        self.write_chain(table, |number| number, pieces);
        let len = 16 * pieces.len() as u32;
        self.write_descriptor(self.descriptors, head, Descriptor { address: table, len, flags: INDIRECT, next: 0 });
    }

    /// Writes the next entry of the available ring. The device sees it when the index is set.
    pub fn put(&mut self, head: u16) {
        self.word(self.avail_entry(self.next_avail)).store(head.to_le(), Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Makes a head available.
    pub fn publish(&mut self, head: u16) {
        self.put(head);
        self.set_avail_index(self.next_avail);
    }

    /// Sets the available ring's index.
    pub fn set_avail_index(&self, index: u16) {
        self.word(self.avail + 2).store(index.to_le(), Ordering::Release);
    }

    /// Whether the device wants a notification for what was made available since the index was `old`.
    pub fn wants_kick(&self, old: u16, event_idx: bool) -> bool {
        fence(Ordering::SeqCst);
        if !event_idx {
            return u16::from_le(self.word(self.used).load(Ordering::Relaxed)) & 1 == 0;
        }
        let avail_event =
            u16::from_le(self.word(self.used_entry_at(0) + 8 * u64::from(self.size)).load(Ordering::Relaxed));
        self.next_avail.wrapping_sub(avail_event).wrapping_sub(1) < self.next_avail.wrapping_sub(old)
    }

    /// The used ring's index.
    pub fn used_index(&self) -> u16 {
        u16::from_le(self.word(self.used + 2).load(Ordering::Acquire))
    }

    /// Sets the used ring's index, which is the device's to write.
    pub fn set_used_index(&self, index: u16) {
        self.word(self.used + 2).store(index.to_le(), Ordering::Release);
    }

    fn used_entry_at(&self, number: u16) -> u64 {
        self.used + 4 + 8 * u64::from(number % self.size)
    }

    /// An entry of the used ring by its running number: head and length.
    pub fn used_entry(&self, number: u16) -> (u32, u32) {
        let (region, at) = self.memory.locate(self.used_entry_at(number)).expect("the ring is in guest memory");
        let entry = u64::from_le(region.get_ref(at).expect("the ring is in guest memory").load());
        (entry as u32, (entry >> 32) as u32)
    }

    /// Asks for an interrupt when the device has written the used ring's entry of this number (EVENT_IDX).
    pub fn set_used_event(&self, number: u16) {
        self.word(self.avail_entry(0) + 2 * u64::from(self.size)).store(number.to_le(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}
