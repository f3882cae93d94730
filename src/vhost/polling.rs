// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How long to poll for work before sleeping.
//!
//! Sleeping and waking up costs several times as much as a small request. So a worker polls for a while and learns
//! whether that pays, like QEMU's `poll-max-ns` and KVM's halt polling: the time grows when work comes soon after the
//! worker has gone to sleep, and shrinks when polling finds nothing.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Polls between two reads of the clock, which costs about as much as ten polls.
const LOOKS_PER_CLOCK: u32 = 32;

/// The smallest time; below it the worker does not poll.
const FIRST: Duration = Duration::from_micros(4);

/// The adaptive time limit of one worker.
#[derive(Debug)]
pub struct Polling {
    most: Duration,
    now: Duration,
    slept_at: Option<Instant>,
}

impl Polling {
    /// Polls for at most `most` at a time; 0: never.
    pub fn new(most: Duration) -> Self {
        Self { most, now: most, slept_at: None }
    }

    /// Calls `look` until it finds something or the time is over. Returns whether it found something.
    pub fn poll(&mut self, mut look: impl FnMut() -> bool) -> bool {
        if self.now.is_zero() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if look() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= self.now {
                self.now = if self.now <= FIRST { Duration::ZERO } else { self.now / 2 };
                return false;
            }
        }
    }

    /// The worker goes to sleep without work.
    pub fn sleeps(&mut self) {
        self.slept_at = (!self.most.is_zero()).then(Instant::now);
    }

    /// The worker has been woken.
    pub fn wakes(&mut self) {
        if self.slept_at.take().is_some_and(|at| at.elapsed() <= self.most) {
            self.now = (self.now * 2).clamp(FIRST.min(self.most), self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_looks_when_told_so() {
        let mut polling = Polling::new(Duration::ZERO);
        assert!(!polling.poll(|| panic!("looked")));
        polling.sleeps();
        polling.wakes();
        assert!(!polling.poll(|| panic!("looked")));
    }

    #[test]
    fn shrinks_to_nothing_when_idle_and_grows_when_work_comes_soon() {
        let most = Duration::from_micros(50);
        let mut polling = Polling::new(most);
        for _ in 0..10 {
            polling.poll(|| false);
        }
        assert_eq!(polling.now, Duration::ZERO);
        polling.slept_at = Some(Instant::now());
        // Repeats the round in case the machine stalls just here.
        for _ in 0..100 {
            polling.slept_at = Some(Instant::now());
            polling.wakes();
        }
        assert_eq!(polling.now, most);
        assert!(polling.poll(|| true));
        assert_eq!(polling.now, most);
        polling.slept_at = Some(Instant::now() - Duration::from_secs(1));
        let before = polling.now;
        polling.wakes();
        assert_eq!(polling.now, before);
    }
}
