// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A driver's record of its requests, and the check of completions: each completed head was sent, once, and a queue
//! that still works completes all. This holds as long as only the device writes to the used rings.

use std::collections::BTreeMap;

use crate::layout::Ring;

#[derive(Debug, Default)]
pub struct Books {
    queues: Vec<Queue>,
    /// The guest may have overwritten the ring.
    void: bool,
}

#[derive(Debug, Default, Clone)]
struct Queue {
    /// Heads in flight, and how often each was sent: a hostile driver sends one again.
    sent: BTreeMap<u32, u32>,
    /// Number of the next entry of the used ring.
    seen: u16,
    /// It was retired once: requests that it had not taken by then may never complete.
    was_broken: bool,
}

impl Books {
    pub fn new(queues: usize) -> Self {
        Self { queues: vec![Queue::default(); queues], void: false }
    }

    /// Ends the checks.
    pub fn void(&mut self) {
        self.void = true;
    }

    pub fn sent(&mut self, queue: usize, head: u16) {
        *self.queues[queue].sent.entry(head.into()).or_default() += 1;
    }

    /// The used ring starts at this index.
    #[cfg(test)]
    pub fn begins_at(&mut self, queue: usize, used: u16) {
        self.queues[queue].seen = used;
    }

    /// Takes completions.
    pub fn look_at(&mut self, queue: usize, ring: &Ring, is_broken: bool) {
        if self.void {
            return;
        }
        let books = &mut self.queues[queue];
        books.was_broken |= is_broken;
        let used = ring.used_index();
        let most: u32 = books.sent.values().sum();
        let came = used.wrapping_sub(books.seen);
        assert!(u32::from(came) <= most, "queue {queue}: {came} heads were completed, but {most} were sent");
        while books.seen != used {
            let (head, _) = ring.used_entry(books.seen);
            let left = books.sent.get_mut(&head).filter(|left| **left > 0);
            *left.unwrap_or_else(|| panic!("queue {queue}: head {head} was completed, but not sent")) -= 1;
            books.seen = books.seen.wrapping_add(1);
        }
    }

    /// Checks that nothing is lost, when the device has nothing left to do.
    pub fn check_complete(&self) {
        for (queue, books) in self.queues.iter().enumerate() {
            if !self.void && !books.was_broken {
                let lost: Vec<_> = books.sent.iter().filter(|(_, left)| **left > 0).collect();
                assert!(lost.is_empty(), "queue {queue}: heads that were not completed, and how often: {lost:?}");
            }
        }
    }
}
