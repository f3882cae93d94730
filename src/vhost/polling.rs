// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How long to poll for work before sleeping.
//!
//! Sleeping and waking up costs several times as much as a small request. So a worker polls for a while and learns
//! whether that pays, like QEMU's `poll-max-ns` and KVM's halt polling. Each wait, from its first poll to the event that ends its
//! sleep, teaches one thing: if polling for the longest time would have seen it to its end, the time grows, otherwise it shrinks.
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
    /// How long the worker has polled in vain before it went to sleep.
    polled: Duration,
    slept_at: Option<Instant>,
}

impl Polling {
    /// Polls for at most `most` at a time; 0: never.
    pub fn new(most: Duration) -> Self {
        Self { most, now: most, polled: Duration::ZERO, slept_at: None }
    }

    /// Calls `look` until it finds something or the time is over. Returns whether it found something.
    pub fn poll(&mut self, mut look: impl FnMut() -> bool) -> bool {
        self.polled = Duration::ZERO;
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
            let polled = start.elapsed();
            if polled >= self.now {
                self.polled = polled;
                return false;
            }
        }
    }

    /// The worker goes to sleep: it waits for the driver or for the disk.
    pub fn sleeps(&mut self) {
        self.slept_at = (!self.most.is_zero()).then(Instant::now);
    }

    /// The worker has been woken.
    pub fn wakes(&mut self) {
        if let Some(at) = self.slept_at.take() {
            let polled = std::mem::take(&mut self.polled);
            self.learn(polled.saturating_add(at.elapsed()));
        }
    }

    /// Work came after the worker had waited for `waited`.
    fn learn(&mut self, waited: Duration) {
        self.now = if waited <= self.most {
            (self.now * 2).clamp(FIRST.min(self.most), self.most)
        } else if self.now <= FIRST {
            Duration::ZERO
        } else {
            self.now / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

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
        let mut polling = Polling::new(MOST);
        for _ in 0..10 {
            polling.poll(|| false);
            polling.slept_at = Some(Instant::now() - Duration::from_secs(1));
            polling.wakes();
        }
        assert_eq!(polling.now, Duration::ZERO);
        for _ in 0..10 {
            polling.learn(MOST);
        }
        assert_eq!(polling.now, MOST);
        assert!(polling.poll(|| true));
        assert_eq!(polling.now, MOST);
        polling.learn(MOST + Duration::from_nanos(1));
        assert_eq!(polling.now, MOST / 2);
    }

    /// Each wait is longer than the time at first, so each poll fails at first.
    #[test]
    fn finds_back_to_a_time_that_is_long_enough() {
        let mut polling = Polling { now: Duration::ZERO, ..Polling::new(Duration::from_secs(3600)) };
        let mut fails = 0;
        while polling.now < Duration::from_millis(1) {
            assert!(!polling.poll(|| false));
            polling.sleeps();
            polling.wakes();
            fails += 1;
        }
        assert!(fails <= 10, "{fails} waits");
    }

    #[test]
    fn counts_the_time_before_the_sleep() {
        let mut polling = Polling::new(MOST);
        assert!(!polling.poll(|| false));
        polling.sleeps();
        // Longer than this by the time of the poll.
        polling.wakes();
        assert!(polling.now < MOST, "{:?}", polling.now);
    }
}
