// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A set of heads.

/// Heads taken and not returned, a bit each.
pub struct HeadSet(Box<[u64]>);

impl HeadSet {
    /// No head of a ring of at most so many descriptors.
    pub fn new(queue_size: u16) -> Self {
        Self(vec![0; usize::from(queue_size).div_ceil(64)].into())
    }

    /// Puts a head in. False when it is there already, or is out of range.
    pub fn insert(&mut self, head: u16) -> bool {
        let bit = 1 << (head % 64);
        self.0.get_mut(usize::from(head / 64)).is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    /// Takes a head out.
    pub fn remove(&mut self, head: u16) {
        if let Some(word) = self.0.get_mut(usize::from(head / 64)) {
            *word &= !(1 << (head % 64));
        }
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }
}
