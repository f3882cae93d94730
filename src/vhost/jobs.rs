// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a worker has in hand: chains taken from its queues and not returned yet.
//!
//! A [`Hand`] lives for one stretch of work. All of it is seen in one state of the guest's memory, which stays as it is
//! because at least one queue is at a turn all the time.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;
use vm_memory::GuestMemoryMmap;

use super::{Lane, Progress, Token, VirtioDevice};
use crate::queue::{BATCH, ChainError, Completion, TakenChain, Turn, Vring};

/// Chains that are done are returned in portions of this many at the most: the driver works on the first ones while
/// the next ones are served. A sleeping driver is woken more often for that, which on idle cores pays.
const PORTION: usize = 8;

/// How many chains ahead the device is told which one comes.
const AHEAD: usize = 2;

/// Something that the device has looked at, or a chain that is broken.
type Accepted<'m, D> = Result<<D as VirtioDevice>::Accepted<'m>, ChainError>;
type Answer<D> = <<D as VirtioDevice>::Lane as Lane>::Answer;

/// A worker's queues in one stretch of work, and the chains in flight.
pub struct Hand<'w, 'm, D: VirtioDevice> {
    device: &'w D,
    lane: &'w mut D::Lane,
    memory: &'m GuestMemoryMmap,
    queues: Vec<QueueInHand<'w>>,
    /// Queues at a turn.
    turns: usize,
    /// Place of the queue that is looked at first.
    first: usize,
    jobs: Slab<InFlight<D::Job<'m>>>,
    /// Jobs that wait until nothing else is in hand, in the order in which they came.
    alone: VecDeque<Token>,
    chains: Vec<TakenChain<'m>>,
    /// What the device has made of them, by head.
    accepted: Vec<(u16, Accepted<'m, D>)>,
    answers: Vec<(Token, Answer<D>)>,
}

struct QueueInHand<'w> {
    vring: &'w Vring,
    turn: Option<Turn<'w>>,
    in_flight: usize,
    done: Vec<Completion>,
}

/// A chain in flight. Its entry exists before the device has made a job of it: the token is the entry's.
struct InFlight<J> {
    /// Place in [`Hand::queues`].
    place: usize,
    head: u16,
    job: Option<J>,
}

/// The turns at all queues that run; to be taken before the guest's memory is looked at.
pub fn begin(vrings: &[Arc<Vring>]) -> Option<Vec<Option<Turn<'_>>>> {
    let turns: Vec<_> = vrings.iter().map(|vring| vring.begin()).collect();
    turns.iter().any(Option::is_some).then_some(turns)
}

impl<'w, 'm, D: VirtioDevice> Hand<'w, 'm, D> {
    /// A hand with nothing in it. `memory` must have been looked up after the turns began.
    pub fn new(
        device: &'w D,
        lane: &'w mut D::Lane,
        memory: &'m GuestMemoryMmap,
        vrings: &'w [Arc<Vring>],
        turns: Vec<Option<Turn<'w>>>,
    ) -> Self {
        let at_turn = turns.iter().flatten().count();
        let queues = vrings
            .iter()
            .zip(turns)
            .map(|(vring, turn)| QueueInHand { vring, turn, in_flight: 0, done: Vec::new() })
            .collect();
        let (chains, accepted) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let (alone, answers, jobs) = (VecDeque::new(), Vec::new(), Slab::new());
        Self { device, lane, memory, queues, turns: at_turn, first: 0, jobs, alone, chains, accepted, answers }
    }

    /// Whether every chain has been returned.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether no queue is at a turn any more. Then the memory may change, and this hand must go.
    pub fn is_over(&self) -> bool {
        self.turns == 0
    }

    /// Takes what is available, at most a batch from each queue, and goes on with what the disk has answered. Returns
    /// whether there was anything.
    pub fn step(&mut self) -> bool {
        let mut progress = false;
        let count = self.queues.len();
        for place in (self.first..count).chain(0..self.first) {
            if self.take(place) {
                progress = true;
                if !self.may_take() {
                    // The others have had to go without. They are looked at before this one when there is room again.
                    self.first = (place + 1) % count;
                }
            }
        }
        self.lane.submit();
        progress |= self.answers();
        self.lane.let_go();
        progress | self.leave()
    }

    /// Asks the drivers to notify. True when one has something already.
    pub fn arm(&mut self) -> bool {
        if !self.may_take() {
            return false;
        }
        let memory = self.memory;
        // All of them, also after the first that has something.
        self.queues.iter().filter_map(|queue| queue.turn.as_ref()).fold(false, |more, turn| turn.arm(memory) | more)
    }

    fn may_take(&self) -> bool {
        self.alone.is_empty() && self.lane.room() > 0
    }

    fn take(&mut self, place: usize) -> bool {
        if !self.may_take() {
            return false;
        }
        let room = self.lane.room();
        let Some(queue) = self.queues.get_mut(place) else { return false };
        if queue.turn.is_none() && self.turns > 0 {
            // It has been started or resumed meanwhile. The memory is the same as long as another turn goes on.
            queue.turn = queue.vring.begin();
            self.turns += usize::from(queue.turn.is_some());
        }
        let Some(turn) = &queue.turn else { return false };
        turn.take(self.memory, room, &mut self.chains);
        let index = queue.vring.index();
        let mut accepted = std::mem::take(&mut self.accepted);
        for TakenChain { head, chain } in self.chains.drain(..) {
            accepted.push((head, chain.map(|chain| self.device.accept(self.lane, index, head, chain))));
        }
        let progress = !accepted.is_empty();
        for (_, soon) in accepted.iter().take(AHEAD) {
            self.announce(soon);
        }
        let mut rest = accepted.drain(..);
        while let Some((head, next)) = rest.next() {
            if let Some((_, soon)) = rest.as_slice().get(AHEAD - 1) {
                self.announce(soon);
            }
            self.start(place, head, next);
        }
        drop(rest);
        self.accepted = accepted;
        self.give_back(place);
        progress
    }

    fn announce(&mut self, accepted: &Accepted<'m, D>) {
        if let Ok(accepted) = accepted {
            self.device.announce(self.lane, accepted);
        }
    }

    fn start(&mut self, place: usize, head: u16, accepted: Accepted<'m, D>) {
        let Some(queue) = self.queues.get_mut(place) else { return };
        queue.in_flight += 1;
        let entry = self.jobs.vacant_entry();
        let token = entry.key();
        entry.insert(InFlight { place, head, job: None });
        let progress = match accepted {
            Ok(accepted) => self.device.start(self.lane, token, accepted),
            Err(error) => {
                log::debug!("queue {}: head {head}: {error}", queue.vring.index());
                queue.vring.retire("a descriptor chain is broken");
                Progress::Done(0)
            }
        };
        self.went(token, progress);
    }

    /// Notes how far a chain has come.
    fn went(&mut self, token: Token, progress: Progress<D::Job<'m>>) {
        match progress {
            Progress::Done(written) => {
                let Some(InFlight { place, head, .. }) = self.jobs.try_remove(token) else { return };
                let Some(queue) = self.queues.get_mut(place) else { return };
                queue.in_flight -= 1;
                queue.done.push(Completion { head, written });
                if queue.done.len() >= PORTION {
                    self.give_back(place);
                }
            }
            Progress::Waiting(job) => self.keep(token, job),
            Progress::Alone(job) => {
                self.keep(token, job);
                self.alone.push_back(token);
                self.resume_alone();
            }
        }
    }

    fn keep(&mut self, token: Token, job: D::Job<'m>) {
        if let Some(entry) = self.jobs.get_mut(token) {
            entry.job = Some(job);
        }
    }

    fn resume(&mut self, token: Token, answer: Option<Answer<D>>) {
        let Some(job) = self.jobs.get_mut(token).and_then(|entry| entry.job.take()) else { return };
        let progress = self.device.resume(self.lane, token, job, answer);
        self.went(token, progress);
    }

    /// Resumes what waits to be alone, one after the other, as soon as all else is done.
    fn resume_alone(&mut self) {
        while self.alone.len() == self.jobs.len()
            && let Some(token) = self.alone.pop_front()
        {
            self.resume(token, None);
        }
    }

    fn answers(&mut self) -> bool {
        if self.jobs.is_empty() {
            return false;
        }
        let mut answers = std::mem::take(&mut self.answers);
        self.lane.answers(&mut answers);
        let progress = !answers.is_empty();
        for (token, answer) in answers.drain(..) {
            self.resume(token, Some(answer));
        }
        self.answers = answers;
        if progress {
            // What a resumed job asks for.
            self.lane.submit();
            self.resume_alone();
            for place in 0..self.queues.len() {
                self.give_back(place);
            }
        }
        progress
    }

    fn give_back(&mut self, place: usize) {
        if let Some(queue) = self.queues.get_mut(place)
            && let Some(turn) = &queue.turn
            && !queue.done.is_empty()
        {
            self.lane.let_go();
            turn.give_back(self.memory, &queue.done);
            queue.done.clear();
        }
    }

    /// Ends the turns at queues that do not run any more. Returns whether there was one.
    fn leave(&mut self) -> bool {
        let mut left = false;
        for queue in &mut self.queues {
            // Asking a queue takes its lock; one with chains that nobody holds back goes on until they are done.
            if queue.in_flight > 0 && !self.lane.holds_back() || queue.turn.as_ref().is_none_or(Turn::goes_on) {
                continue;
            }
            if queue.in_flight > 0 {
                left |= self.lane.release(queue.vring.index());
                continue;
            }
            queue.turn = None;
            self.turns -= 1;
            left = true;
            if queue.vring.newly_retired() {
                self.device.queue_broken(queue.vring.index());
            }
        }
        left
    }
}
