// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether the current driver is the one that programmed the keys.
//!
//! A pause and a reset of the machine look the same at first: the frontend stops all queues, and later sets the same
//! features again. Frontends without RESET_DEVICE send nothing else. The difference is where the queues begin: after a
//! pause where they were, after a reset at 0. A queue that was at 0 and begins there tells nothing.
//!
//! Until a queue tells, no request finds a key.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::Device;
use crate::lock::lock;
use crate::protocol::feature;
use crate::queue::Beginning;
use crate::request::QueueRole;

/// What is known about the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// No driver has negotiated features since the last reset.
    #[default]
    New,
    /// The keys belong to this driver, or a previous one left none.
    Running,
    /// All queues have been stopped, and none has shown why.
    Stopped,
    /// The same, but a command came, and the old keys are gone.
    Claimed,
    /// One queue continues where it was. Others may show otherwise.
    GoesOn,
}

impl Device {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        // A plain value.
        lock(&self.phase)
    }

    /// Forgets what the driver has negotiated and chosen.
    pub(super) fn forget_driver(&self) {
        *self.phase() = Phase::New;
        self.features.store(0, Ordering::Release);
        self.last_queue.store(0, Ordering::Release);
        self.engine.forget_unwrapped();
        self.engine.forget_backlog();
        self.forget_choices();
    }

    fn forget_choices(&self) {
        self.chosen_early.store(false, Ordering::Release);
        self.writeback.store(self.config.writeback, Ordering::Release);
    }

    /// Forgets the choices of the previous driver, but not those of the new one before its queues began.
    fn forget_old_choices(&self) {
        if !self.chosen_early.swap(false, Ordering::AcqRel) {
            self.forget_choices();
        }
    }

    pub(super) fn negotiate(&self, features: u64) {
        self.features.store(features, Ordering::Release);
        *self.phase() = Phase::Running;
    }

    /// Whether the driver may change the cache mode. Before the queues run, the frontend need not have sent the
    /// features.
    pub(super) fn may_choose_cache_mode(&self) -> bool {
        self.negotiated(feature::CONFIG_WCE) || *self.phase() == Phase::New
    }

    /// Whether a driver that chooses something now is about to start its queues.
    pub(super) fn awaits_driver(&self) -> bool {
        *self.phase() == Phase::New || self.is_stopped()
    }

    /// Whether all queues have been stopped, and it is not known yet why.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(*self.phase(), Phase::Stopped | Phase::Claimed)
    }

    /// All queues have been stopped.
    pub(super) fn all_stopped(&self) {
        let mut phase = self.phase();
        if *phase == Phase::Stopped {
            // A driver has run meanwhile, but no queue showed whether the keys are its own. The next start will not
            // show it either.
            self.observer().count_lost(self.lose_keys());
        }
        *phase = Phase::Stopped;
        self.chosen_early.store(false, Ordering::Release);
        self.last_queue.store(0, Ordering::Release);
        self.engine.forget_unwrapped();
        self.engine.forget_backlog();
        self.engine.keyslots().set_usable(self.config.keep_keys_on_reset);
    }

    /// A queue is started.
    pub(super) fn begins(&self, queue: usize, beginning: Beginning) {
        self.last_queue.fetch_max(queue, Ordering::AcqRel);
        let mut phase = self.phase();
        *phase = match (*phase, beginning) {
            (Phase::Stopped, Beginning::GoesOn) => {
                self.engine.keyslots().set_usable(true);
                Phase::GoesOn
            }
            (Phase::Stopped | Phase::GoesOn, Beginning::Afresh) => {
                self.forget_old_choices();
                self.observer().count_reset(self.lose_keys());
                Phase::Running
            }
            (Phase::Claimed, Beginning::Afresh) => {
                // The current keys are this driver's.
                self.forget_old_choices();
                self.observer().count_reset(0);
                Phase::Running
            }
            (phase, _) => phase,
        };
    }

    /// The role of a queue.
    ///
    /// In the specification, the control virtqueue comes after all request queues that the device offers. Drivers that
    /// use fewer put it after those that they use. So the last queue that has been started may be either, unless it is
    /// where the specification has the control virtqueue. Until then it is not known which queue will be the last.
    pub(super) fn role(&self, queue: usize) -> QueueRole {
        let features = self.features.load(Ordering::Acquire);
        let multiqueue = features & feature::MQ != 0;
        let specified = if multiqueue { self.config.num_queues.into() } else { 1 };
        if features & feature::CTRL_VQ == 0 {
            QueueRole::Request
        } else if queue == specified {
            QueueRole::Control
        } else if multiqueue && queue > 0 && queue == self.last_queue.load(Ordering::Acquire) {
            QueueRole::Either
        } else {
            QueueRole::Request
        }
    }

    /// A command is about to change a keyslot. If the owner of the keys is not known, they are wiped first: keys of two
    /// drivers must not mix. This does not wait for requests: while keys are not usable, no request has one.
    pub(super) fn claim_keyslots(&self) {
        if self.engine.keyslots().usable() {
            return;
        }
        let mut phase = self.phase();
        if *phase == Phase::Stopped {
            self.observer().count_lost(self.lose_keys());
            *phase = Phase::Claimed;
        }
    }
}
