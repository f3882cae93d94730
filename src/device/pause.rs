// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether the driver that goes on is the one that programmed the keys.
//!
//! A machine that is paused and one that is reset look the same at first: the frontend stops all queues, and later it sets the
//! same features again. Frontends that cannot say RESET_DEVICE say no more. What differs is where the queues begin: after a
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

/// What is known of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Nobody has said since the last reset which features a driver takes.
    #[default]
    New,
    /// The keys are its own, or there are none of a driver before.
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
        lock(&self.phase)
    }

    /// What the driver has negotiated and chosen counts no more.
    pub(super) fn forget_driver(&self) {
        *self.phase() = Phase::New;
        self.features.store(0, Ordering::Release);
        self.last_queue.store(0, Ordering::Release);
        self.engine.forget_unwrapped();
        self.forget_choices();
    }

    fn forget_choices(&self) {
        self.chosen_early.store(false, Ordering::Release);
        self.writeback.store(self.config.writeback, Ordering::Release);
    }

    /// What the driver before has chosen is forgotten; not what the new one has chosen before its queues began.
    fn forget_old_choices(&self) {
        if !self.chosen_early.swap(false, Ordering::AcqRel) {
            self.forget_choices();
        }
    }

    /// What a driver takes of the features.
    pub(super) fn negotiate(&self, features: u64) {
        self.features.store(features, Ordering::Release);
        *self.phase() = Phase::Running;
    }

    /// Whether the driver may change the cache mode. Before the queues run the frontend need not have told us what is negotiated.
    pub(super) fn may_choose_cache_mode(&self) -> bool {
        self.negotiated(feature::CONFIG_WCE) || *self.phase() == Phase::New
    }

    /// Whether whoever chooses something now is about to start its queues.
    pub(super) fn awaits_driver(&self) -> bool {
        *self.phase() == Phase::New || self.is_stopped()
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
            self.observer().count_lost(self.lose_keys());
        }
        *phase = Phase::Stopped;
        self.chosen_early.store(false, Ordering::Release);
        self.last_queue.store(0, Ordering::Release);
        self.engine.forget_unwrapped();
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
                // The keys that are there now are this driver's.
                self.forget_old_choices();
                self.observer().count_reset(0);
                Phase::Running
            }
            (phase, _) => phase,
        };
    }

    /// What a queue is for.
    ///
    /// The control virtqueue comes after all request queues on offer, says the specification. Drivers that use fewer put it
    /// after those that they use. So the last queue that has been started may be either, unless it is where the
    /// specification has the control virtqueue; and until then it is not known which queue will be the last.
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

    /// A command for a keyslot is going to be carried out. If it is not known whose keys there are, they go first: those of
    /// another driver must not stay beside its own. This does not wait for requests: while keys are not usable nobody has one.
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
