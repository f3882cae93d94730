// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The keys that a worker has used last.
//!
//! Taking and releasing a key are atomic operations. They wait until all earlier stores of the CPU are done, such as
//! those of a page of ciphertext. A worker that keeps the key for a few more requests pays for that once.

#![forbid(unsafe_code)]

use std::sync::Arc;

use smallvec::SmallVec;

use super::slot::Parked;
use super::{KeyHandle, KeyslotTable, NoSuchSlot};

/// The maximum number of kept keys.
const MOST: usize = 8;

/// One worker's keys, by slot. A command for the slot of such a key completes only after [`RecentKeys::release_all`].
pub struct RecentKeys {
    table: Arc<KeyslotTable>,
    keys: SmallVec<[(u32, Parked); MOST]>,
}

impl RecentKeys {
    /// Keeps keys of this table.
    pub fn new(table: Arc<KeyslotTable>) -> Self {
        Self { table, keys: SmallVec::new() }
    }

    /// The current key of the slot, from the kept ones if possible. `table` must be the one that the keys are from.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub fn acquire<'t>(&mut self, table: &'t KeyslotTable, slot: u32) -> Result<Option<KeyHandle<'t>>, NoSuchSlot> {
        if let Some(place) = self.keys.iter().position(|(of, _)| *of == slot)
            && std::ptr::eq(table, &*self.table)
        {
            let (_, parked) = self.keys.swap_remove(place);
            let key = table.slot(slot)?.unpark(parked);
            if key.is_current() {
                return Ok(Some(key));
            }
        }
        table.acquire(slot)
    }

    /// Keeps a key for the next request that uses the slot.
    pub fn keep(&mut self, slot: u32, key: KeyHandle<'_>) {
        if self.keys.len() == MOST {
            self.release_all();
        }
        if self.table.slot(slot).is_ok_and(|of| key.is_of(of)) {
            self.keys.push((slot, key.park()));
        }
    }

    /// Releases all keys. Call it before the worker rests.
    pub fn release_all(&mut self) {
        for (slot, parked) in self.keys.drain(..) {
            if let Ok(slot) = self.table.slot(slot) {
                drop(slot.unpark(parked));
            }
        }
    }
}

impl Drop for RecentKeys {
    fn drop(&mut self) {
        self.release_all();
    }
}
