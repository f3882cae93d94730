// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The keys that a worker has used last.
//!
//! To take a key and to let go of it are atomic operations that wait until all earlier stores of the CPU are done, those of
//! a page of ciphertext among them. A worker that keeps the key until it has served a few more requests pays for that
//! once.

#![forbid(unsafe_code)]

use smallvec::SmallVec;

use super::{KeyHandle, KeyslotTable, NoSuchSlot};

/// Keys that are kept at a time.
const MOST: usize = 8;

/// One worker's keys, by slot. While a key is in here its slot is in use: programming and evicting wait.
#[derive(Debug, Default)]
pub struct RecentKeys {
    keys: SmallVec<[(u32, KeyHandle); MOST]>,
}

impl RecentKeys {
    /// The key that the slot holds now: the one that was kept, if that is still it.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub fn acquire(&mut self, table: &KeyslotTable, slot: u32) -> Result<Option<KeyHandle>, NoSuchSlot> {
        if let Some(place) = self.keys.iter().position(|(of, _)| *of == slot) {
            let (_, key) = self.keys.swap_remove(place);
            if key.is_current() {
                return Ok(Some(key));
            }
        }
        table.acquire(slot)
    }

    /// Keeps a key for the next request that uses the slot.
    pub fn keep(&mut self, slot: u32, key: KeyHandle) {
        if self.keys.len() == MOST {
            self.keys.clear();
        }
        self.keys.push((slot, key));
    }

    /// Lets go of all keys. To be called before anything that may wait for a slot, and before the worker rests.
    pub fn release(&mut self) {
        self.keys.clear();
    }
}
