// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The state of a queue, and how chains are taken from its ring.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::heads::HeadSet;
use super::inflight::{QueueLog, Recovery};
use super::table::Descriptors;
use super::turn::TakenChain;
use super::{Chain, ChainError, Event};
use crate::ratelimit::log_limited;

/// The queue's lock protects all of this.
pub(super) struct VringState {
    pub(super) queue: Queue,
    pub(super) kick: Option<File>,
    /// Shared, because it is written to without the lock.
    pub(super) call: Option<Arc<Event>>,
    pub(super) err: Option<Arc<Event>>,
    /// Interrupt the driver at the worker's next check.
    pub(super) interrupt_due: bool,
    /// SET_VRING_ENABLE.
    pub(super) enabled: bool,
    /// The worker is in a turn.
    pub(super) busy: bool,
    /// How many [`Paused`] exist.
    pub(super) pauses: usize,
    /// The ring is outside the memory, so the queue waits for memory.
    pub(super) lacks_memory: bool,
    /// Why the queue was retired.
    pub(super) retired: Option<&'static str>,
    /// The frontend has not been told of the retirement yet.
    pub(super) err_due: bool,
    /// The retirement has not been counted yet.
    pub(super) retirement_is_news: bool,
    pub(super) in_flight: HeadSet,
    pub(super) log: Option<QueueLog>,
    /// Heads that another backend had in flight, in the order of resubmission.
    pub(super) resubmit: VecDeque<u16>,
    /// The index of the next available chain when all queues had been stopped. Valid until the next start.
    pub(super) left_at: Option<u16>,
}

impl VringState {
    /// Whether the queue runs when it is not paused.
    pub(super) fn may_run(&self) -> bool {
        self.enabled && self.queue.ready() && self.retired.is_none()
    }

    pub(super) fn runs(&self) -> bool {
        self.may_run() && self.pauses == 0 && !self.lacks_memory
    }

    /// Takes at most `most` chains, and no more once they have `most_bytes` bytes, or after a broken one: with newer memory it may be any
    /// length.
    pub(super) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        most: usize,
        most_bytes: u64,
        chains: &mut Vec<TakenChain<'m>>,
    ) -> Result<(), &'static str> {
        // Without EVENT_IDX this avoids notifications while we poll; with it, the call does nothing.
        self.queue.disable_notification(memory).map_err(|_| "the used ring cannot be written")?;
        let size = self.queue.size();
        let max_descriptors = self.queue.max_size();
        let mut bytes = 0u64;
        while chains.len() < most && bytes < most_bytes {
            let Some(head) = self.resubmit.pop_front() else { break };
            let chain = self.walk(memory, head);
            bytes = bytes.saturating_add(chain.as_ref().map_or(u64::MAX, Chain::bytes));
            chains.push(TakenChain { head, chain });
        }
        let rest = if bytes < most_bytes { most - chains.len() } else { 0 };
        let before = self.queue.next_avail();
        let available =
            self.queue.iter(memory).map_err(|_| "the available index runs ahead by more than the queue size")?;
        for descriptors in available.take(rest) {
            let head = descriptors.head_index();
            if head >= size {
                return Err("an available head is not in the descriptor table");
            }
            if !self.in_flight.insert(head) {
                return Err("a head was made available that the device has not returned yet");
            }
            if let Some(log) = &mut self.log {
                log.taken(head);
            }
            // An indirect chain may be as long as the device's largest queue, from which `seg_max` is derived, even if
            // the driver made this queue smaller.
            let chain = Chain::walk(memory, descriptors, max_descriptors);
            bytes = bytes.saturating_add(chain.as_ref().map_or(u64::MAX, Chain::bytes));
            chains.push(TakenChain { head, chain });
            if bytes >= most_bytes {
                break;
            }
        }
        // The iterator ends where it can read no entry, as if there were none.
        if self.queue.next_avail() == before && !self.next_entry_is_readable(memory) {
            return Err("the available ring cannot be read: a region of guest memory ends within an entry");
        }
        Ok(())
    }

    fn next_entry_is_readable(&self, memory: &GuestMemoryMmap) -> bool {
        let entry = u64::from(self.queue.next_avail() % self.queue.size().max(1));
        let at = GuestAddress(self.queue.avail_ring()).checked_add(4 + 2 * entry); // virtio 1.4, 2.7.6
        at.is_some_and(|at| memory.load::<u16>(at, Ordering::Relaxed).is_ok())
    }

    /// Whether the whole ring is in this memory.
    pub(super) fn ring_is_in(&self, memory: &GuestMemoryMmap) -> bool {
        let (queue, size) = (&self.queue, usize::from(self.queue.size()));
        // virtio 1.4, 2.7; without the notification indices, which not all drivers use.
        let parts = [
            (queue.desc_table(), 16 * size, Permissions::Read),
            (queue.avail_ring(), 4 + 2 * size, Permissions::Read),
            (queue.used_ring(), 4 + 8 * size, Permissions::Write),
        ];
        parts.into_iter().all(|(at, bytes, access)| memory.check_range(GuestAddress(at), bytes, access))
    }

    /// Walks a chain whose head need not be in the available ring.
    pub(super) fn walk<'m>(&self, memory: &'m GuestMemoryMmap, head: u16) -> Result<Chain<'m>, ChainError> {
        let table = GuestAddress(self.queue.desc_table());
        let descriptors = Descriptors::new(memory, table, self.queue.size(), head);
        Chain::walk(memory, descriptors, self.queue.max_size())
    }

    /// Continues without in-flight tracking if the region is lost.
    pub(super) fn check_log(&mut self, index: usize) {
        if self.log.as_ref().is_some_and(QueueLog::is_lost) {
            self.log = None;
            log_limited!(
                warn,
                "queue {index} continues without in-flight tracking: the file of the in-flight region was truncated; if this \
                 program is killed now, requests in flight are lost"
            );
        }
    }

    pub(super) fn retire(&mut self, index: usize, reason: &'static str) {
        if self.retired.is_none() {
            // A guest can break a ring, reset the device, and repeat that.
            log_limited!(error, "queue {index} is stopped: {reason}; it goes on when the driver resets the device");
            self.set_retired(reason);
        }
    }

    pub(super) fn set_retired(&mut self, reason: &'static str) {
        self.retired = Some(reason);
        self.retirement_is_news = true;
        self.err_due = true;
    }

    pub(super) fn restart(&mut self) {
        self.lacks_memory = false;
        self.retired = None;
        self.retirement_is_news = false;
        self.err_due = false;
        self.in_flight.clear();
        self.resubmit.clear();
    }

    /// Continues where the log says that the queue was left.
    pub(super) fn recover(&mut self, index: usize) -> Result<(), &'static str> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let used = self.queue.next_used();
        let size = self.queue.size();
        let recovery = log.recover(size, used)?;
        if log.is_lost() {
            return Err("the file of the in-flight region was truncated, so the requests in flight are not known");
        }
        let heads = match recovery {
            Recovery::Fresh => return Ok(()),
            Recovery::Resubmit(heads) => heads,
            Recovery::TooSmall => {
                // One number only repeats the other, so a difference is no reason to refuse the ring.
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    log::warn!(
                        "queue {index}: the frontend's in-flight region is for rings of {}, and this ring has {size}. It is \
                         served without tracking: if this program is killed, requests in flight are lost. Give the \
                         frontend a queue size of {size} to have it tracked (said once)",
                        log.size()
                    );
                });
                self.log = None;
                return Ok(());
            }
        };
        if !heads.is_empty() {
            log_limited!(info, "queue {index}: {} requests were in flight and are served again", heads.len());
        }
        // Every chain taken was either returned or is in flight; the ring has descriptors for at most that many.
        self.queue.set_next_avail(used.wrapping_add(heads.len() as u16));
        for &head in &heads {
            self.in_flight.insert(head);
        }
        self.resubmit = heads.into();
        // The previous backend may have returned chains without an interrupt.
        self.interrupt_due = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RingAddresses, Vring};
    use super::*;

    /// virtio 1.4, 2.7: 16 bytes for each descriptor; flags and index, then 2 bytes, or 8, for each entry.
    #[test]
    fn a_ring_is_in_memory_with_its_last_byte() {
        const SIZE: u16 = 8;
        let places = [(0x1000, 128), (0x2000, 20), (0x3000, 68)];
        let [descriptor_table, avail_ring, used_ring] = places.map(|(at, _)| GuestAddress(at));
        let all = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
        let vring = Vring::new(0, SIZE).expect("queue");
        assert!(vring.set_size(SIZE));
        assert!(vring.set_addresses(&all, RingAddresses { descriptor_table, avail_ring, used_ring }));
        for short in 0..=places.len() {
            let ranges: Vec<_> =
                (0..).zip(places).map(|(n, (at, bytes))| (GuestAddress(at), bytes - usize::from(n == short))).collect();
            let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
            assert_eq!(vring.lock().ring_is_in(&memory), short == places.len(), "{short}");
        }
    }

    /// Two regions meet within an entry of the available ring, which nobody can load at once.
    #[test]
    fn an_entry_that_two_regions_share_ends_the_queue() {
        let places = [0x1000, 0x2000, 0x3000].map(GuestAddress);
        let [descriptor_table, avail_ring, used_ring] = places;
        for (middle, readable) in [(0x2004, true), (0x2005, false)] {
            let ranges = [(0, middle), (middle, 0x3000), (0x3000, 0x10000)];
            let ranges = ranges.map(|(start, end)| (GuestAddress(start), (end - start) as usize));
            let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
            let vring = Vring::new(0, 8).expect("queue");
            assert!(vring.set_size(8));
            assert!(vring.set_addresses(&memory, RingAddresses { descriptor_table, avail_ring, used_ring }));
            memory.write_obj(1u16, GuestAddress(0x2002)).expect("ring");
            let mut chains = Vec::new();
            let mut state = vring.lock();
            state.queue.set_ready(true);
            assert!(state.ring_is_in(&memory));
            assert_eq!(state.pop(&memory, 4, u64::MAX, &mut chains).is_ok(), readable, "{middle:#x}");
            assert_eq!(chains.len(), usize::from(readable));
        }
    }

    /// Every head of the smallest and largest queues, in and out of range.
    #[test]
    pub(super) fn a_head_is_in_the_set_once() {
        for size in [1u16, 2, 64, 128, 1024, 32768] {
            let mut set = HeadSet::new(size);
            for head in 0..size {
                assert!(set.insert(head) && !set.insert(head), "{size} {head}");
            }
            // The caller refuses heads that are out of range; the set refuses them from the next word on.
            (size.max(64)..=u16::MAX).for_each(|head| assert!(!set.insert(head), "{size} {head}"));
            for head in 0..size {
                set.remove(head);
                assert!(set.insert(head), "{size} {head}");
            }
            set.remove(u16::MAX);
            set.clear();
            assert!((0..size).all(|head| set.insert(head)));
        }
    }
}
