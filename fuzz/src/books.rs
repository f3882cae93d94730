// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a driver knows of its own requests: each head that comes back was sent, once, and all come back from a queue that
//! goes on. They hold as long as nothing but the device writes into the used rings.

use std::collections::BTreeMap;

use crate::layout::Ring;

#[derive(Debug, Default)]
pub struct Books {
    queues: Vec<Queue>,
    /// The guest has written where it should not have.
    void: bool,
}

#[derive(Debug, Default, Clone)]
struct Queue {
    /// Heads in flight, and how often each was sent: a hostile driver sends one again.
    sent: BTreeMap<u32, u32>,
    /// Number of the next entry of the used ring.
    seen: u16,
    /// It was retired once: what it had not taken by then may never come back.
    was_broken: bool,
}

impl Books {
    pub fn new(queues: usize) -> Self {
        Self { queues: vec![Queue::default(); queues], void: false }
    }

    /// They do not count any more.
    pub fn void(&mut self) {
        self.void = true;
    }

    pub fn sent(&mut self, queue: usize, head: u16) {
        *self.queues[queue].sent.entry(head.into()).or_default() += 1;
    }

    /// The used ring begins here.
    #[cfg(test)]
    pub fn begins_at(&mut self, queue: usize, used: u16) {
        self.queues[queue].seen = used;
    }

    /// Takes what has come back.
    pub fn look_at(&mut self, queue: usize, ring: &Ring, is_broken: bool) {
        if self.void {
            return;
        }
        let books = &mut self.queues[queue];
        books.was_broken |= is_broken;
        let used = ring.used_index();
        let most: u32 = books.sent.values().sum();
        let came = used.wrapping_sub(books.seen);
        assert!(u32::from(came) <= most, "queue {queue}: {came} came back, {most} were sent");
        while books.seen != used {
            let (head, _) = ring.used_entry(books.seen);
            let left = books.sent.get_mut(&head).filter(|left| **left > 0);
            *left.unwrap_or_else(|| panic!("queue {queue}: head {head} has come back, and was not sent")) -= 1;
            books.seen = books.seen.wrapping_add(1);
        }
    }

    /// The device has nothing left to do.
    pub fn check_complete(&self) {
        for (queue, books) in self.queues.iter().enumerate() {
            if !self.void && !books.was_broken {
                let lost: Vec<_> = books.sent.iter().filter(|(_, left)| **left > 0).collect();
                assert!(lost.is_empty(), "queue {queue}: heads that have not come back, and how often: {lost:?}");
            }
        }
    }
}
