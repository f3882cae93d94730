// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keyslots, and keys that come with requests. No guest memory, no virtio, no disk.

mod fingerprint;
mod recent;
mod request_key;
mod slot;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use scattered_xts::{Dun, Implementation};

pub use fingerprint::Fingerprints;
pub use recent::RecentKeys;
pub use request_key::{PLACES, Place, RequestKey, RequestKeys};
pub use slot::{Claim, Evicted, KeyHandle, ProgrammedKey};

/// What a key is programmed for; fixed until the slot is programmed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyConfig {
    /// Binary logarithm of the data unit size in bytes.
    pub data_unit_bits: u8,
    /// Bytes a DUN may have.
    pub dun_bytes: u8,
}

/// Why a key cannot serve a transfer.
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
        // The last DUN is the largest, so it is enough to check that it fits and does not wrap around.
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
    slots: Box<[slot::Slot]>,
    next_generation: AtomicU64,
    /// Whether requests may use the keys.
    usable: AtomicBool,
}

impl KeyslotTable {
    /// Creates empty keyslots, each in locked memory of its own, for keys of this implementation.
    ///
    /// # Errors
    /// When the memory cannot be allocated or locked.
    pub fn new(slots: u16, implementation: Implementation) -> io::Result<Self> {
        let slots = (0..slots).map(|_| slot::Slot::new(implementation)).collect::<io::Result<_>>()?;
        Ok(Self { slots, next_generation: AtomicU64::new(1), usable: AtomicBool::new(true) })
    }

    fn slot(&self, slot: u32) -> Result<&slot::Slot, NoSuchSlot> {
        usize::try_from(slot).ok().and_then(|slot| self.slots.get(slot)).ok_or(NoSuchSlot)
    }

    /// The key in a slot, or `None` if the slot is empty or keys are not usable.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub fn acquire(&self, slot: u32) -> Result<Option<KeyHandle<'_>>, NoSuchSlot> {
        let slot = self.slot(slot)?;
        Ok(if self.usable() { slot.acquire() } else { None })
    }

    /// The key in a slot for inspection, even if keys are not usable.
    pub fn peek(&self, slot: u32) -> Option<KeyHandle<'_>> {
        self.slot(slot).ok()?.acquire()
    }

    /// Whether requests may use the keys.
    pub fn usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    /// Sets whether requests may use the keys.
    pub fn set_usable(&self, usable: bool) {
        self.usable.store(usable, Ordering::Release);
    }

    /// The exclusive right to change a slot. Waits while another command has it.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub async fn claim(&self, slot: u32) -> Result<Claim<'_>, NoSuchSlot> {
        Ok(self.slot(slot)?.claim().await)
    }

    /// The generation of the next key, for [`Claim::publish`].
    pub fn next_generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Empties a slot. Completes when no request uses its key.
    ///
    /// # Errors
    /// [`NoSuchSlot`].
    pub async fn evict(&self, slot: u32) -> Result<Evicted, NoSuchSlot> {
        let mut claim = self.claim(slot).await?;
        claim.empty();
        Ok(claim.drained().await)
    }
}

#[cfg(test)]
impl KeyslotTable {
    /// Puts a key into a slot. Returns when no request uses the old one.
    pub(crate) fn program_now(
        &self,
        slot: u32,
        key: &[u8; scattered_xts::KEY_BYTES],
        config: KeyConfig,
    ) -> Result<Evicted, NoSuchSlot> {
        pollster::block_on(async {
            let mut claim = self.claim(slot).await?;
            claim.publish(self.next_generation(), key, config);
            Ok(claim.drained().await)
        })
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
#[cfg(all(test, not(shuttle)))]
mod tests;
