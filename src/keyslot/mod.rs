// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The keyslots: index to key. No guest memory, no virtio, no disk.

mod recent;
mod slot;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use recent::RecentKeys;
use scattered_xts::{Dun, Implementation, KEY_BYTES};
pub use slot::{Evicted, KeyHandle, ProgrammedKey};

/// What a key is programmed for; fixed until the slot is programmed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyConfig {
    /// Binary logarithm of the data unit size in bytes.
    pub data_unit_bits: u8,
    /// Bytes a DUN may have.
    pub dun_bytes: u8,
}

/// Why a transfer does not go with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Length 0 or not a multiple of the data unit size.
    #[error("the data is not a whole number of data units")]
    Length,
    /// A DUN of the request does not fit in the key's DUN size.
    #[error("a data unit number does not fit in the keyslot's DUN size")]
    Dun,
}

impl KeyConfig {
    /// Checks that `len` bytes starting with data unit `dun` can be encrypted or decrypted with such a key. Returns the
    /// number of data units.
    ///
    /// # Errors
    /// [`TransferError`], with nothing done.
    pub fn check(&self, dun: Dun, len: u64) -> Result<u64, TransferError> {
        let units = len >> self.data_unit_bits;
        if units == 0 || units << self.data_unit_bits != len {
            return Err(TransferError::Length);
        }
        // The last DUN is the largest, so it and the absence of a wrap-around are all there is to check.
        let last = dun.checked_add(units - 1).ok_or(TransferError::Dun)?;
        if last.fits(self.dun_bytes) { Ok(units) } else { Err(TransferError::Dun) }
    }
}

/// There is no such slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keyslot number is out of range")]
pub struct NoSuchSlot;

/// All keyslots of a device.
pub struct KeyslotTable {
    slots: Box<[Arc<slot::Slot>]>,
    next_generation: AtomicU64,
}

impl KeyslotTable {
    /// `slots` empty keyslots, each in locked memory of its own, for keys that `implementation` works with.
    ///
    /// # Errors
    /// When the memory cannot be had or not be locked.
    pub fn new(slots: u16, implementation: Implementation) -> io::Result<Self> {
        let slots = (0..slots).map(|_| slot::Slot::new(implementation).map(Arc::new)).collect::<io::Result<_>>()?;
        Ok(Self { slots, next_generation: AtomicU64::new(1) })
    }

    fn slot(&self, slot: u32) -> Result<&Arc<slot::Slot>, NoSuchSlot> {
        usize::try_from(slot).ok().and_then(|slot| self.slots.get(slot)).ok_or(NoSuchSlot)
    }

    /// The key in a slot, or `None` when the slot is empty.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub fn acquire(&self, slot: u32) -> Result<Option<KeyHandle>, NoSuchSlot> {
        Ok(self.slot(slot)?.acquire())
    }

    /// Whether programming or evicting a slot would wait: for requests that use its key, or for another command that waits
    /// for those which use an older one. A slot that does not exist is not in use.
    pub fn is_in_use(&self, slot: u32) -> bool {
        self.slot(slot).is_ok_and(|slot| slot.is_in_use())
    }

    /// Puts a key into a slot; returns, when no request uses the old key any more, whether there was one.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub fn program(&self, slot: u32, key: &[u8; KEY_BYTES], config: KeyConfig) -> Result<Evicted, NoSuchSlot> {
        let slot = self.slot(slot)?;
        Ok(slot.program(self.next_generation.fetch_add(1, Ordering::Relaxed), key, config))
    }

    /// Empties a slot; returns when no request uses its key any more.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub fn evict(&self, slot: u32) -> Result<Evicted, NoSuchSlot> {
        Ok(self.slot(slot)?.evict())
    }

    /// Empties all slots, as a reset does. Returns how many held a key.
    pub fn clear(&self) -> usize {
        self.slots.iter().filter(|slot| slot.evict() == Evicted::Key).count()
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
#[cfg(all(test, not(shuttle)))]
mod tests;
