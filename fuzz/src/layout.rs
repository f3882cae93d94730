// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where things lie in the guest's memory, and virtqueues as a driver writes them (virtio 1.4, 2.7).

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Guest memory starts here, so that low addresses are outside.
pub const START: u64 = 64 << 10;
/// Bytes of guest memory.
pub const BYTES: usize = 640 << 10;
/// Rings of one queue, and its indirect tables.
const QUEUE_AREA: u64 = 96 << 10;
const INDIRECT_AT: u64 = 16 << 10;
/// Descriptors of a head's indirect table.
const INDIRECT_SIZE: u64 = 64;
/// Buffers come after all rings.
pub const BUFFERS: u64 = START + 4 * QUEUE_AREA;
/// What room for the device holds before it writes.
pub const FILL: u8 = 0xee;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A descriptor.
#[derive(Debug, Clone, Copy, Default, arbitrary::Arbitrary)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// The driver's side of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    pub size: u16,
    pub next_avail: u16,
    area: u64,
}

/// Fuzzed addresses may be anywhere: what does not fit is not written.
pub fn poke(memory: &GuestMemoryMmap, at: u64, bytes: &[u8]) {
    let _ = memory.write(bytes, GuestAddress(at));
}

impl Ring {
    pub fn new(index: usize, size: u16) -> Self {
        Self { size, next_avail: 0, area: START + index as u64 * QUEUE_AREA }
    }

    pub fn descriptors(&self) -> u64 {
        self.area
    }

    pub fn avail(&self) -> u64 {
        self.area + (8 << 10)
    }

    pub fn used(&self) -> u64 {
        self.area + (12 << 10)
    }

    /// A head's own indirect table.
    pub fn indirect(&self, head: u16) -> u64 {
        self.area + INDIRECT_AT + 16 * INDIRECT_SIZE * u64::from(head % 64)
    }

    pub fn write_descriptor(&self, memory: &GuestMemoryMmap, table: u64, index: u16, descriptor: Descriptor) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        poke(memory, table + 16 * u64::from(index), &bytes);
    }

    /// Makes a head available.
    pub fn publish(&mut self, memory: &GuestMemoryMmap, head: u16) {
        poke(memory, self.avail() + 4 + 2 * u64::from(self.next_avail % self.size), &head.to_le_bytes());
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_avail_index(memory, self.next_avail);
    }

    pub fn set_avail_index(&self, memory: &GuestMemoryMmap, index: u16) {
        poke(memory, self.avail() + 2, &index.to_le_bytes());
    }

    pub fn used_index(&self, memory: &GuestMemoryMmap) -> u16 {
        memory.read_obj(GuestAddress(self.used() + 2)).expect("the rings are in guest memory")
    }

    /// An entry of the used ring, by its running number: head and length.
    pub fn used_entry(&self, memory: &GuestMemoryMmap, number: u16) -> (u32, u32) {
        let at = self.used() + 4 + 8 * u64::from(number % self.size);
        let read = |at| memory.read_obj(GuestAddress(at)).expect("the rings are in guest memory");
        (read(at), read(at + 4))
    }
}
