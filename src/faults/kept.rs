// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Copies of keys for engines that use a wrong one. They exist only while there is such a fault, and only for slots
//! that are programmed then. The memory is allocated when such a fault is added: later there may be none that can be
//! locked.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::lock;
use crate::secret::SecretBox;
use scattered_xts::{Implementation, KEY_BYTES, XtsKey};
use zeroize::Zeroize;

/// The memory for the keys cannot be allocated or locked.
#[derive(Debug, thiserror::Error)]
#[error(
    "the keys of {slots} keyslots, which this fault needs, take {} KiB of locked memory: {error}; raise the limit (ulimit -l, \
     LimitMEMLOCK=), use fewer --keyslots, or name the fault with --fault when you start the device", bytes >> 10
)]
pub struct KeepError {
    slots: usize,
    bytes: usize,
    error: io::Error,
}

/// The copies for a slot, in locked memory.
pub(super) struct Keys {
    /// As programmed.
    raw: [u8; KEY_BYTES],
    /// With the halves swapped.
    pub(super) swapped: Option<XtsKey>,
    /// The previous key.
    pub(super) previous: Option<XtsKey>,
}

/// The keys of a slot at one generation.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) generation: u64,
    pub(super) keys: Arc<SecretBox<Keys>>,
}

/// Kept keys by slot.
pub struct KeptKeys {
    keeping: AtomicBool,
    /// How many keyslots the device has.
    most: usize,
    state: Mutex<KeptState>,
}

#[derive(Default)]
struct KeptState {
    slots: HashMap<u32, Kept>,
    /// Locked memory that is not used.
    spare: Vec<SecretBox<Keys>>,
}

impl Keys {
    const BLANK: Self = Self { raw: [0; KEY_BYTES], swapped: None, previous: None };
}

impl KeptState {
    /// Wipes the copies for a slot, and recycles their memory unless a request uses it.
    fn forget(&mut self, slot: u32) {
        if let Some(Kept { keys, .. }) = self.slots.remove(&slot) {
            self.spare.extend(Arc::into_inner(keys).map(blank));
        }
    }
}

fn blank(mut keys: SecretBox<Keys>) -> SecretBox<Keys> {
    keys.raw.zeroize();
    // Expanded keys wipe themselves.
    (keys.swapped, keys.previous) = (None, None);
    keys
}

impl KeptKeys {
    pub(super) fn new(most: u16) -> Self {
        // Without keyslots, the last key that came with a request is kept.
        Self { keeping: AtomicBool::new(false), most: most.max(1).into(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, KeptState> {
        lock(&self.state)
    }

    /// Starts to keep keys.
    ///
    /// # Errors
    /// [`KeepError`]; then nothing has changed.
    pub(super) fn keep(&self) -> Result<(), KeepError> {
        let mut state = self.state();
        if !self.keeping() {
            // One more, for the time in which a slot has both the old and the new copies.
            let spare = (0..=self.most).map(|_| SecretBox::new(Keys::BLANK)).collect::<io::Result<_>>();
            let bytes = (self.most + 1) * SecretBox::<Keys>::LOCKED;
            state.spare = spare.map_err(|error| KeepError { slots: self.most, bytes, error })?;
            self.keeping.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Wipes all copies and keeps no more keys.
    pub(super) fn keep_no_more(&self) {
        self.keeping.store(false, Ordering::Release);
        *self.state() = KeptState::default();
    }

    /// Whether keys are kept.
    pub fn keeping(&self) -> bool {
        self.keeping.load(Ordering::Acquire)
    }

    /// A slot has been programmed. The caller wipes the stack.
    ///
    /// # Errors
    /// [`KeepError`]: requests still use the old copies for many slots.
    pub fn programmed(
        &self,
        slot: u32,
        generation: u64,
        implementation: Implementation,
        key: &[u8; KEY_BYTES],
    ) -> Result<(), KeepError> {
        let mut state = self.state();
        let mut keys = match state.spare.pop() {
            Some(keys) => keys,
            None => SecretBox::new(Keys::BLANK).map_err(|error| KeepError {
                slots: 1,
                bytes: SecretBox::<Keys>::LOCKED,
                error,
            })?,
        };
        keys.raw.copy_from_slice(key);
        keys.raw.rotate_left(KEY_BYTES / 2);
        keys.swapped = Some(XtsKey::new(implementation, &keys.raw));
        keys.raw.rotate_left(KEY_BYTES / 2);
        keys.previous = state.slots.get(&slot).map(|before| XtsKey::new(implementation, &before.keys.raw));
        state.forget(slot);
        if self.keeping() {
            state.slots.insert(slot, Kept { generation, keys: Arc::new(keys) });
        }
        Ok(())
    }

    /// The generation of this key, if it was programmed last.
    pub fn generation_of(&self, slot: u32, key: &[u8; KEY_BYTES]) -> Option<u64> {
        self.state().slots.get(&slot).filter(|kept| kept.keys.raw == *key).map(|kept| kept.generation)
    }

    /// A slot has been emptied.
    pub fn emptied(&self, slot: u32) {
        self.state().forget(slot);
    }

    pub(super) fn get(&self, slot: u32) -> Option<Kept> {
        self.state().slots.get(&slot).cloned()
    }
}
