// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that continue at a certain time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::ratelimit::log_limited;
use crate::tasks::Token;

/// Not the token of a request: its time only wakes the worker.
pub(super) const NOBODY: Token = Token::MAX;

/// The maximum number of tokens that wait.
const MOST: usize = 256;

/// Tokens, each with a time.
pub(super) struct Timers {
    due: BinaryHeap<Reverse<(Instant, Token)>>,
    /// Readable when the first is due.
    timer: OwnedFd,
}

impl Timers {
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { due: BinaryHeap::new(), timer })
    }

    /// How many more may wait.
    pub(super) fn room(&self) -> usize {
        MOST.saturating_sub(self.due.len())
    }

    /// Whether requests wait.
    pub(super) fn has_requests(&self) -> bool {
        self.due.iter().any(|Reverse((_, token))| *token != NOBODY)
    }

    /// Lets the time of all requests come now. Returns whether there were any.
    pub(super) fn hurry(&mut self) -> bool {
        let now = Instant::now();
        let mut hurried = false;
        let due = std::mem::take(&mut self.due).into_iter().map(|Reverse((due, token))| {
            let wait = token != NOBODY && due > now;
            hurried |= wait;
            Reverse((if wait { now } else { due }, token))
        });
        self.due = due.collect();
        if hurried {
            self.set_alarm();
        }
        hurried
    }

    /// Reports `token` at the time `due`.
    pub(super) fn arm(&mut self, token: Token, due: Instant) {
        let before = self.due.len();
        if token == NOBODY {
            // While no request is in flight nobody polls, and the first expired entry of this kind would hide the new
            // one forever.
            let now = Instant::now();
            while self.due.peek().is_some_and(|Reverse((due, first))| *first == NOBODY && *due <= now) {
                self.due.pop();
            }
        }
        let has_come = self.due.len() < before;
        self.due.push(Reverse((due, token)));
        if has_come || self.due.peek().is_some_and(|Reverse((_, first))| *first == token) {
            self.set_alarm();
        }
    }

    /// Reports each token whose time has come.
    pub(super) fn poll(&mut self, mut name: impl FnMut(Token)) {
        if self.due.is_empty() {
            return;
        }
        let now = Instant::now();
        let before = self.due.len();
        while let Some(Reverse((due, token))) = self.due.peek().copied()
            && due <= now
        {
            self.due.pop();
            name(token);
        }
        if self.due.len() < before {
            // Setting the timer again also makes it unreadable.
            self.set_alarm();
        }
    }

    fn set_alarm(&mut self) {
        let left = self.due.peek().map(|Reverse((due, _))| due.saturating_duration_since(Instant::now()));
        // A time of 0 disarms the timer.
        let wait = left.map(|left| left.max(Duration::from_nanos(1))).unwrap_or_default();
        let value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = Itimerspec { it_interval: zero, it_value: value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times) {
            log_limited!(error, "cannot set a timer: {}", io::Error::from(error));
        }
    }
}

impl AsFd for Timers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ready_within(timers: &Timers, milliseconds: u64) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let time = Timespec::try_from(Duration::from_millis(milliseconds)).expect("a time");
        poll(&mut [PollFd::new(timers, PollFlags::IN)], Some(&time)).expect("poll") == 1
    }

    #[test]
    fn the_worker_is_woken_again_though_nobody_has_looked() {
        let mut timers = Timers::new().expect("timer");
        let after = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        timers.arm(NOBODY, after(1));
        timers.arm(7, after(60));
        assert!(is_ready_within(&timers, 50));
        timers.arm(NOBODY, after(80));
        assert!(!is_ready_within(&timers, 10), "nothing is due");
        assert!(is_ready_within(&timers, 200), "the request");
        let mut named = Vec::new();
        timers.poll(|token| named.push(token));
        assert!(named.starts_with(&[7]), "{named:?}");
        assert!(named.len() == 2 || is_ready_within(&timers, 200));
    }

    /// Only entries that nobody waits for are dropped.
    #[test]
    fn a_request_whose_time_has_come_is_not_forgotten() {
        let mut timers = Timers::new().expect("timer");
        let after = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        timers.arm(7, after(1));
        std::thread::sleep(Duration::from_millis(2));
        timers.arm(NOBODY, after(50));
        let mut named = Vec::new();
        timers.poll(|token| named.push(token));
        assert!(named.starts_with(&[7]), "{named:?}");
        let mut timers = Timers::new().expect("timer");
        timers.arm(NOBODY, after(1000));
        timers.arm(NOBODY, after(600_000));
        assert!(is_ready_within(&timers, 30_000), "the first still has its time");
    }

    #[test]
    fn requests_can_be_hurried() {
        let mut timers = Timers::new().expect("timer");
        assert!(!timers.has_requests() && !timers.hurry());
        let later = Instant::now() + Duration::from_secs(1000);
        timers.arm(NOBODY, later);
        assert!(!timers.has_requests() && !timers.hurry());
        timers.arm(7, later);
        assert!(timers.has_requests() && !is_ready_within(&timers, 1));
        assert!(timers.hurry() && is_ready_within(&timers, 200));
        let mut named = Vec::new();
        timers.poll(|token| named.push(token));
        assert_eq!(named, [7]);
        assert!(!timers.has_requests() && !is_ready_within(&timers, 1), "the other one still has its time");
        timers.arm(8, later);
        timers.arm(9, later);
        assert!(timers.hurry() && is_ready_within(&timers, 200));
        timers.poll(|token| named.push(token));
        assert_eq!(named, [7, 8, 9]);
    }
}
