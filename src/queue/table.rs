// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The descriptors of a chain whose head is known (virtio 1.4, 2.7.5).
//!
//! `virtio-queue` makes chains only from heads in the available ring. The head of a request that the previous backend
//! had in flight may be gone: the driver may have overwritten it.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const DESCRIPTOR_BYTES: u64 = size_of::<Descriptor>() as u64;

/// An iterator like `virtio_queue::DescriptorChain`: it ends after the last descriptor, or at one that breaks a rule.
pub struct Descriptors<'m> {
    memory: &'m GuestMemoryMmap,
    table: GuestAddress,
    size: u16,
    next: Option<u16>,
    /// Descriptors that may still follow; a loop has more than the table.
    left: u16,
    bytes: u32,
    indirect: bool,
}

impl<'m> Descriptors<'m> {
    /// The chain that starts at `head` in a descriptor table of `size` entries.
    pub fn new(memory: &'m GuestMemoryMmap, table: GuestAddress, size: u16, head: u16) -> Self {
        Self { memory, table, size, next: Some(head), left: size, bytes: 0, indirect: false }
    }

    fn read(&mut self) -> Option<Descriptor> {
        let index = self.next.take().filter(|&index| index < self.size)?;
        self.left = self.left.checked_sub(1)?;
        let address = self.table.0.checked_add(u64::from(index) * DESCRIPTOR_BYTES)?;
        self.memory.read_obj(GuestAddress(address)).ok()
    }
}

impl Iterator for Descriptors<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        let mut descriptor = self.read()?;
        if descriptor.refers_to_indirect_table() {
            let entries = u64::from(descriptor.len()) / DESCRIPTOR_BYTES;
            if self.indirect || !u64::from(descriptor.len()).is_multiple_of(DESCRIPTOR_BYTES) {
                return None;
            }
            self.size = u16::try_from(entries).ok()?;
            (self.table, self.left, self.next, self.indirect) = (descriptor.addr(), self.size, Some(0), true);
            descriptor = self.read()?;
            if descriptor.refers_to_indirect_table() {
                return None;
            }
        }
        self.bytes = self.bytes.checked_add(descriptor.len())?;
        self.next = descriptor.has_next().then(|| descriptor.next());
        Some(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use virtio_queue::{Queue, QueueOwnedT, QueueT};

    const AVAIL: u64 = 0x4000;
    const USED: u64 = 0x5000;
    const INDIRECT: u64 = 0x6000;

    fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
        let addr = prop_oneof![Just(INDIRECT), Just(0x7ff0u64), any::<u64>()];
        let len = prop_oneof![(0u32..9).prop_map(|n| n * 16), 0u32..40, any::<u32>()];
        (
            addr,
            len,
            prop_oneof![4 => 0u16..4, 1 => 0u16..8, 1 => any::<u16>()],
            prop_oneof![8 => 0u16..9, 1 => any::<u16>()],
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Whatever the table holds, the same descriptors as virtio-queue's iterator.
        #[test]
        fn finds_what_virtio_queue_finds(
            table in proptest::collection::vec(descriptor(), 8),
            indirect in proptest::collection::vec(descriptor(), 8),
            head in 0u16..9,
        ) {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x8000)]).expect("memory");
            for (start, entries) in [(0, table), (INDIRECT, indirect)] {
                for (index, (addr, len, flags, next)) in entries.into_iter().enumerate() {
                    let at = GuestAddress(start + 16 * index as u64);
                    memory.write_obj(Descriptor::new(addr, len, flags, next), at).expect("memory");
                }
            }
            let mut queue = Queue::new(8).expect("queue");
            queue.try_set_desc_table_address(GuestAddress(0)).expect("address");
            queue.try_set_avail_ring_address(GuestAddress(AVAIL)).expect("address");
            queue.try_set_used_ring_address(GuestAddress(USED)).expect("address");
            queue.set_ready(true);
            memory.write_obj(head, GuestAddress(AVAIL + 4)).expect("memory");
            memory.write_obj(1u16, GuestAddress(AVAIL + 2)).expect("memory");
            let chain = queue.iter(&memory).expect("ring").next().expect("a head");
            let facts = |d: Descriptor| (d.addr().0, d.len(), d.flags(), d.next());
            let theirs: Vec<_> = chain.map(facts).collect();
            let ours: Vec<_> = Descriptors::new(&memory, GuestAddress(0), 8, head).map(facts).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
