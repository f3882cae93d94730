// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A set of heads.

/// Heads taken and not returned, one bit each.
pub struct HeadSet(Box<[u64]>);

impl HeadSet {
    /// An empty set for a ring of at most `queue_size` descriptors.
    pub fn new(queue_size: u16) -> Self {
        Self(vec![0; usize::from(queue_size).div_ceil(64)].into())
    }

    /// Adds a head. Returns false if it is there already or out of range.
    pub fn insert(&mut self, head: u16) -> bool {
        let bit = 1 << (head % 64);
        self.0.get_mut(usize::from(head / 64)).is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    /// Removes a head.
    pub fn remove(&mut self, head: u16) {
        if let Some(word) = self.0.get_mut(usize::from(head / 64)) {
            *word &= !(1 << (head % 64));
        }
    }

    /// Removes all heads.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }
}
