// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Emptying keyslots, with the copies of keys that faults need.

use super::Engine;
use crate::keyslot::{Claim, Evicted, NoSuchSlot};
use crate::request::NO_SLOT;

impl Engine {
    /// Empties a slot, and waits until no request uses its key.
    pub(super) async fn empty_slot(&self, slot: u32) -> Result<Evicted, NoSuchSlot> {
        Ok(self.empty(self.keyslots.claim(slot).await?, slot).await)
    }

    /// Empties a claimed slot.
    pub(super) async fn empty(&self, mut claim: Claim<'_>, slot: u32) -> Evicted {
        claim.empty();
        self.faults.kept.emptied(slot);
        claim.drained().await
    }

    /// Empties all slots. Returns how many held a key.
    pub(super) async fn empty_all_slots(&self) -> usize {
        // The copy of a request's key.
        self.faults.kept.emptied(NO_SLOT);
        let mut lost = 0;
        for slot in 0..self.config.keyslots {
            lost += usize::from(self.empty_slot(slot.into()).await == Ok(Evicted::Key));
        }
        lost
    }
}
