// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether the driver that goes on is the one that programmed the keys.
//!
//! A machine that is paused and one that is reset look the same at first: the frontend stops all queues, and later it sets the
//! same features again. Frontends that cannot say RESET_DEVICE say no more. What differs is where the queues begin: after a
//! pause where they were, after a reset at 0. A queue that was at 0 and begins there tells nothing.
//!
//! Until a queue tells, no request finds a key.

use std::sync::{MutexGuard, PoisonError};

use super::Device;
use crate::queue::Beginning;

/// What is known of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// The keys are its own, or there are none of a driver before.
    #[default]
    Running,
    /// All queues have been stopped, and none has told anything since.
    Stopped,
    /// The same, but a command came, and the keys are gone.
    Claimed,
    /// A queue goes on where it was. Others may tell otherwise.
    GoesOn,
}

impl Device {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        // A plain value.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begins_phase(&self, phase: Phase) {
        *self.phase() = phase;
    }

    /// Whether all queues have been stopped and it is not known yet what for.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(*self.phase(), Phase::Stopped | Phase::Claimed)
    }

    /// All queues have been stopped.
    pub(super) fn all_stopped(&self) {
        let mut phase = self.phase();
        if *phase == Phase::Stopped {
            // A driver has run meanwhile, and it never got known whether the keys are its own. Where its queues go on
            // from here says nothing of that.
            self.observer.count_lost(self.lose_keys());
        }
        *phase = Phase::Stopped;
        self.keyslots.set_usable(self.config.keep_keys_on_reset);
    }

    /// A queue is started.
    pub(super) fn begins(&self, beginning: Beginning) {
        let mut phase = self.phase();
        *phase = match (*phase, beginning) {
            (Phase::Stopped, Beginning::GoesOn) => {
                self.keyslots.set_usable(true);
                Phase::GoesOn
            }
            (Phase::Stopped | Phase::GoesOn, Beginning::Afresh) => {
                self.forget_choices();
                self.observer.count_reset(self.lose_keys());
                Phase::Running
            }
            (Phase::Claimed, Beginning::Afresh) => {
                // The keys that are there now are this driver's.
                self.forget_choices();
                self.observer.count_reset(0);
                Phase::Running
            }
            (phase, _) => phase,
        };
    }

    /// A command for a keyslot is going to be carried out. If it is not known whose keys there are, they go first: those of
    /// another driver must not stay beside its own.
    pub(super) fn claim_keyslots(&self) {
        if self.keyslots.usable() {
            return;
        }
        let mut phase = self.phase();
        if *phase == Phase::Stopped {
            self.observer.count_lost(self.lose_keys());
            *phase = Phase::Claimed;
        }
    }
}
