// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Numbers that only rise.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter that one thread at a time writes and any thread reads.
///
/// Adding is a load and a store without a locked instruction. Two writers at once would lose counts, but nothing worse.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds. Only for the one writer.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Raises to at least `value`. Only for the one writer.
    pub fn raise(&self, value: u64) {
        if value > self.0.load(Relaxed) {
            self.0.store(value, Relaxed);
        }
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter for rare events that any thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
