// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys for engines that use a wrong one. Only while there is such a fault, and only of slots that are programmed then.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::secret::SecretBox;
use scattered_xts::{Implementation, KEY_BYTES, XtsKey};

/// The memory for a key cannot be had or not be locked.
#[derive(Debug, thiserror::Error)]
#[error("no locked memory for a key that a fault needs: {0}")]
pub struct KeepError(#[from] io::Error);

/// What is kept for a slot, in locked memory.
pub(super) struct Keys {
    /// As programmed.
    raw: [u8; KEY_BYTES],
    /// With the halves swapped.
    pub(super) swapped: Option<XtsKey>,
    /// What was programmed before.
    pub(super) previous: Option<XtsKey>,
}

/// The keys of a slot, as of one programming.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) generation: u64,
    pub(super) keys: Arc<SecretBox<Keys>>,
}

/// Kept keys by slot.
pub struct KeptKeys {
    keeping: AtomicBool,
    slots: Mutex<HashMap<u32, Kept>>,
}

impl KeptKeys {
    pub(super) fn new() -> Self {
        Self { keeping: AtomicBool::new(false), slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<u32, Kept>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to keep keys, or forgets them all.
    pub(super) fn keep(&self, keeping: bool) {
        self.keeping.store(keeping, Ordering::Release);
        if !keeping {
            self.slots().clear();
        }
    }

    /// Whether keys are kept.
    pub fn keeping(&self) -> bool {
        self.keeping.load(Ordering::Acquire)
    }

    /// A slot has been programmed. To be called where the stack is wiped afterwards.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn programmed(
        &self,
        slot: u32,
        generation: u64,
        implementation: Implementation,
        key: &[u8; KEY_BYTES],
    ) -> Result<(), KeepError> {
        let mut keys = SecretBox::new(Keys { raw: [0; KEY_BYTES], swapped: None, previous: None })?;
        let mut slots = self.slots();
        keys.raw.copy_from_slice(key);
        keys.raw.rotate_left(KEY_BYTES / 2);
        keys.swapped = Some(XtsKey::new(implementation, &keys.raw));
        keys.raw.rotate_left(KEY_BYTES / 2);
        keys.previous = slots.get(&slot).map(|before| XtsKey::new(implementation, &before.keys.raw));
        if self.keeping() {
            slots.insert(slot, Kept { generation, keys: Arc::new(keys) });
        }
        Ok(())
    }

    /// A slot has been emptied.
    pub fn emptied(&self, slot: u32) {
        self.slots().remove(&slot);
    }

    /// All slots have been emptied.
    pub fn all_emptied(&self) {
        self.slots().clear();
    }

    pub(super) fn get(&self, slot: u32) -> Option<Kept> {
        self.slots().get(&slot).cloned()
    }
}
