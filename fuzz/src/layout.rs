// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The layout of the guest's memory.

use test_driver::Virtqueue;
use vhost_user_blk_crypto::queue::RingAddresses;
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

pub type Ring = Virtqueue<GuestMemoryMmap>;

/// The driver's side of a queue.
pub fn ring(memory: &GuestMemoryMmap, index: usize, size: u16) -> Ring {
    let area = START + index as u64 * QUEUE_AREA;
    Virtqueue::new(memory.clone(), size, [area, area + (8 << 10), area + (12 << 10)])
}

/// A head's own indirect table.
pub fn indirect(ring: &Ring, head: u16) -> u64 {
    ring.descriptors + INDIRECT_AT + 16 * INDIRECT_SIZE * u64::from(head % 64)
}

/// What a frontend tells the device of a queue.
pub fn addresses(ring: &Ring) -> RingAddresses {
    RingAddresses {
        descriptor_table: GuestAddress(ring.descriptors),
        avail_ring: GuestAddress(ring.avail),
        used_ring: GuestAddress(ring.used),
    }
}

/// Fuzzed addresses may be anywhere: bytes outside of guest memory are not written.
pub fn poke(memory: &GuestMemoryMmap, at: u64, bytes: &[u8]) {
    let _ = memory.write(bytes, GuestAddress(at));
}
