// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What one worker has of the device: a way to the disk, a clock for answers that must not come too early,
//! and a place to count.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::held::{Held, Hold, Let};
use crate::crypto;
use crate::disk::{self, Disk};
use crate::keyslot::RecentKeys;
use crate::observe;
use crate::soon::Soon;
use crate::vhost::{Lane, Progress, Token};

/// What a request waits for.
pub enum Answer {
    /// The disk has done what it was asked.
    Disk(disk::Answer),
    /// The time has come.
    Time,
    /// A fault does not hold it back any more.
    Held(Let),
    /// Others have had their turn.
    Turn,
}

/// One worker's part of the device.
pub struct DeviceLane {
    pub(super) disk: disk::Lane,
    pub(super) later: Later,
    held: Held,
    pub(super) observe: observe::Lane,
    /// Keys of requests that have been served.
    pub(super) keys: RecentKeys,
    /// Ciphertext has been stored past the caches, and other CPUs may not see it yet.
    pub(super) unsettled: bool,
    /// Bytes of the image that a request which was announced needs.
    pub(super) soon: Soon,
    from_disk: Vec<(Token, disk::Answer)>,
    /// Requests that wait until they are alone: no command may overtake them.
    pub(super) waiting_alone: usize,
    /// Long requests that let others have their turn.
    turns: Vec<Token>,
    /// Those that have not gone on yet. A buffer is left for each.
    let_others: usize,
}

impl DeviceLane {
    pub(super) fn new(disk: &Arc<Disk>, observe: observe::Lane) -> io::Result<Self> {
        let (disk, later, soon, from_disk) = (disk.lane()?, Later::new()?, Soon::default(), Vec::new());
        let (held, keys) = (Held::default(), RecentKeys::default());
        Ok(Self {
            disk,
            later,
            held,
            observe,
            keys,
            unsettled: false,
            soon,
            from_disk,
            waiting_alone: 0,
            turns: Vec::new(),
            let_others: 0,
        })
    }

    /// Holds a request back, for a fault.
    pub(super) fn hold(&mut self, token: Token, queue: usize, hold: Hold) {
        self.held.add(token, queue, hold);
        self.stay_awake();
    }

    /// Notes when a request waits until it is alone.
    pub(super) fn count_alone<J>(&mut self, progress: Progress<J>) -> Progress<J> {
        self.waiting_alone += usize::from(matches!(progress, Progress::Alone(_)));
        progress
    }

    /// A long request goes on when other chains and queues have been looked at.
    pub(super) fn let_others(&mut self, token: Token) {
        self.turns.push(token);
        self.let_others += 1;
    }

    /// It goes on.
    pub(super) fn has_turn(&mut self) {
        self.let_others = self.let_others.saturating_sub(1);
    }

    fn stay_awake(&mut self) {
        if let Some(wake) = self.held.next_wake() {
            self.later.at(NOBODY, wake);
        }
    }
}

impl Lane for DeviceLane {
    type Answer = Answer;

    fn room(&self) -> usize {
        self.disk.room().min(self.later.room()).saturating_sub(self.let_others)
    }

    fn submit(&mut self) {
        self.observe.all_taken();
        self.disk.submit();
    }

    fn answers(&mut self, answers: &mut Vec<(Token, Answer)>) {
        self.disk.answers(&mut self.from_disk);
        answers.extend(self.from_disk.drain(..).map(|(token, answer)| (token, Answer::Disk(answer))));
        self.later.take(answers);
        answers.extend(self.turns.drain(..).map(|token| (token, Answer::Turn)));
        if !self.held.is_empty() {
            self.held.take(|token, how| answers.push((token, Answer::Held(how))));
            self.stay_awake();
        }
    }

    fn let_go(&mut self) {
        self.keys.release();
        if std::mem::take(&mut self.unsettled) {
            crypto::settle();
        }
    }

    fn holds_back(&self) -> bool {
        !self.held.is_empty()
    }

    fn release(&mut self, queue: usize) -> bool {
        self.held.release(queue)
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        let mut events = self.disk.events();
        events.push(self.later.timer.as_fd());
        events
    }
}

/// Tokens that are answered at a time.
pub(super) struct Later {
    due: BinaryHeap<Reverse<(Instant, Token)>>,
    /// Readable when the first is due.
    timer: OwnedFd,
}

/// The token of no request: its time only wakes the worker.
const NOBODY: Token = Token::MAX;

/// The most tokens that wait for a time.
const MOST: usize = 256;

impl Later {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { due: BinaryHeap::new(), timer })
    }

    fn room(&self) -> usize {
        MOST.saturating_sub(self.due.len())
    }

    /// Answers `token` at the time `due`.
    pub(super) fn at(&mut self, token: Token, due: Instant) {
        self.due.push(Reverse((due, token)));
        if self.due.peek().is_some_and(|Reverse((_, first))| *first == token) {
            self.arm();
        }
    }

    fn take(&mut self, answers: &mut Vec<(Token, Answer)>) {
        if self.due.is_empty() {
            return;
        }
        let now = Instant::now();
        let before = answers.len();
        while let Some(Reverse((due, token))) = self.due.peek().copied()
            && due <= now
        {
            self.due.pop();
            answers.push((token, Answer::Time));
        }
        if answers.len() > before {
            // Setting the timer again makes it unreadable, too.
            self.arm();
        }
    }

    fn arm(&mut self) {
        let left = self.due.peek().map(|Reverse((due, _))| due.saturating_duration_since(Instant::now()));
        // A timer set to 0 never comes.
        let wait = left.map(|left| left.max(std::time::Duration::from_nanos(1))).unwrap_or_default();
        let value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = Itimerspec { it_interval: zero, it_value: value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times) {
            log::error!("a timer cannot be set: {}", io::Error::from(error));
        }
    }
}
