// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that a fault holds back: until a time, until others are held back too, or until the fault is gone.
//!
//! Stopping a queue does not wait for them, nor does aborting a request: see [`Held::drain`] and [`Held::release_one`].

use std::time::{Duration, Instant};

use crate::tasks::Token;

/// How often to check whether somebody has cleared a fault or stops a queue.
const TICK: Duration = Duration::from_millis(20);
/// How long to hold completions back for reordering when no more come.
const GATHERING: Duration = Duration::from_millis(10);

/// Until when a request is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Until this time.
    Until(Instant),
    /// Until this many of its queue are held back; then the last one goes first. There is a time limit.
    Reorder(usize),
    /// Forever, but it checks now and then.
    Stuck,
}

/// Why a request is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Released {
    /// Its wait is over, or it must check again.
    Due,
    /// Somebody waits until its queue is drained.
    Drained,
}

struct HeldRequest {
    token: Token,
    queue: usize,
    hold: Hold,
    since: Instant,
}

/// The requests that a worker holds back.
#[derive(Default)]
pub(super) struct Held {
    entries: Vec<HeldRequest>,
    ready: Vec<(Token, Released)>,
    /// When the worker will be awake and check.
    wake: Option<Instant>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.ready.is_empty()
    }

    pub(super) fn add(&mut self, token: Token, queue: usize, hold: Hold) {
        self.entries.push(HeldRequest { token, queue, hold, since: Instant::now() });
        if let Hold::Reorder(window) = hold {
            let gathered = |entry: &HeldRequest| entry.queue == queue && matches!(entry.hold, Hold::Reorder(_));
            if self.entries.iter().filter(|entry| gathered(entry)).count() >= window {
                self.release(Released::Due, gathered);
            }
        }
    }

    /// Releases all requests of a queue. Returns whether there were any.
    pub(super) fn drain(&mut self, queue: usize) -> bool {
        self.release(Released::Drained, |entry| entry.queue == queue)
    }

    /// Releases a request. Returns whether it was held back.
    pub(super) fn release_one(&mut self, token: Token) -> bool {
        self.release(Released::Drained, |entry| entry.token == token)
    }

    /// Releases the last one first.
    fn release(&mut self, how: Released, which: impl Fn(&HeldRequest) -> bool) -> bool {
        let before = self.ready.len();
        self.ready.extend(self.entries.iter().rev().filter(|entry| which(entry)).map(|entry| (entry.token, how)));
        self.entries.retain(|entry| !which(entry));
        self.ready.len() > before
    }

    /// Reports each released request.
    pub(super) fn poll(&mut self, mut name: impl FnMut(Token, Released)) {
        if !self.entries.is_empty() {
            let now = Instant::now();
            // Requests that wait for a time, the earliest first.
            let due = |entry: &HeldRequest| matches!(entry.hold, Hold::Until(due) if due <= now);
            let mut times: Vec<_> = self.entries.iter().filter(|entry| due(entry)).collect();
            times.sort_by_key(|entry| match entry.hold {
                Hold::Until(due) => due,
                _ => now,
            });
            self.ready.extend(times.iter().map(|entry| (entry.token, Released::Due)));
            self.entries.retain(|entry| !due(entry));
            self.release(Released::Due, |entry| match entry.hold {
                Hold::Until(_) => false,
                Hold::Stuck => now >= entry.since + TICK,
                Hold::Reorder(_) => now >= entry.since + GATHERING,
            });
        }
        self.ready.drain(..).for_each(|(token, how)| name(token, how));
    }

    /// When the worker must check again, unless it will be awake then.
    pub(super) fn next_wake(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let times = self.entries.iter().map(|entry| match entry.hold {
            Hold::Until(due) => due,
            Hold::Reorder(_) => entry.since + GATHERING,
            Hold::Stuck => now + TICK,
        });
        let next = times.min()?.min(now + TICK);
        if self.wake.is_some_and(|wake| wake > now && wake <= next) {
            return None;
        }
        self.wake = Some(next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(held: &mut Held) -> Vec<(Token, Released)> {
        let mut taken = Vec::new();
        held.poll(|token, how| taken.push((token, how)));
        taken
    }

    #[test]
    fn a_full_window_goes_in_reverse_and_others_stay() {
        let mut held = Held::default();
        for token in 0..3 {
            held.add(token, 0, Hold::Reorder(3));
            held.add(10 + token, 1, Hold::Reorder(4));
        }
        assert_eq!(taken(&mut held), [(2, Released::Due), (1, Released::Due), (0, Released::Due)]);
        assert!(held.release_one(11) && !held.release_one(11));
        assert!(held.drain(1) && !held.drain(1));
        assert_eq!(taken(&mut held), [(11, Released::Drained), (12, Released::Drained), (10, Released::Drained)]);
        assert!(held.is_empty());
    }

    #[test]
    fn a_window_that_does_not_fill_goes_after_a_while() {
        let mut held = Held::default();
        held.add(1, 0, Hold::Reorder(64));
        assert_eq!(taken(&mut held), []);
        let wake = held.next_wake().expect("a time");
        assert_eq!(held.next_wake(), None, "the worker will be awake");
        std::thread::sleep(wake - Instant::now() + Duration::from_millis(1));
        assert_eq!(taken(&mut held), [(1, Released::Due)]);
        assert_eq!(held.next_wake(), None);
    }

    /// The fault may have been cleared meanwhile.
    #[test]
    fn a_stuck_request_is_looked_at_now_and_then() {
        let mut held = Held::default();
        let begin = Instant::now();
        held.add(1, 0, Hold::Stuck);
        let early = taken(&mut held);
        if begin.elapsed() < TICK {
            assert_eq!(early, []);
            let before = Instant::now();
            let wake = held.next_wake().expect("a time");
            assert!(wake >= before + TICK);
            std::thread::sleep(wake.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
            assert_eq!(taken(&mut held), [(1, Released::Due)]);
        }
    }

    #[test]
    fn times_come_in_their_order() {
        let mut held = Held::default();
        let now = Instant::now();
        held.add(1, 0, Hold::Until(now + Duration::from_millis(3)));
        held.add(2, 0, Hold::Until(now + Duration::from_millis(1)));
        held.add(3, 0, Hold::Until(now + Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(4));
        assert_eq!(taken(&mut held), [(2, Released::Due), (1, Released::Due)]);
        assert!(held.drain(0));
        assert_eq!(taken(&mut held), [(3, Released::Drained)]);
    }
}
