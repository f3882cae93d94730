// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A worker polls its queues for chains, and the device for those that can go on.
//!
//! A [`Poller`] lives for one stretch of work. At least one queue is at a turn all the time, so nothing of the guest's memory
//! goes away meanwhile. It may grow, which is found out where it matters: at chains that do not make sense without.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{View, VirtioDevice};
use crate::queue::{BATCH, Completion, TakenChain, Turn, Vring};
use crate::reactor::Reactor;
use crate::tasks::{Tasks, Token};

/// Chains that are done are returned in portions of this many at the most: the driver works on the first ones while
/// the next ones are served. A sleeping driver is woken more often for that, which on idle cores pays.
const PORTION: usize = 8;

/// How many chains ahead the device is told which one comes.
const AHEAD: usize = 2;

/// A worker's queues in one stretch of work, and the chains in flight. `F` is what `S` makes of a request: its service.
pub struct Poller<'m, D: VirtioDevice, S, F> {
    device: &'m D,
    worker: &'m D::Worker,
    view: &'m View,
    serve: S,
    queues: Vec<PolledQueue<'m>>,
    /// Queues at a turn.
    turns: usize,
    /// Place of the queue that is looked at first.
    first: usize,
    tasks: Tasks<F>,
    /// Where the chains in flight came from, by token.
    origins: Vec<Origin>,
    chains: Vec<TakenChain<'m>>,
    /// Requests that have been made of them and not been polled, and what to prefetch for them.
    batch: Vec<(Token, D::Prefetch)>,
    tokens: Vec<Token>,
}

struct PolledQueue<'m> {
    vring: &'m Vring,
    turn: Option<Turn<'m>>,
    in_flight: usize,
    done: Vec<Completion>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Origin {
    /// Place in [`Poller::queues`].
    place: usize,
    head: u16,
}

/// The turns at all queues that run; to be taken before the guest's memory is looked at.
pub fn begin(vrings: &[Arc<Vring>]) -> Option<Vec<Option<Turn<'_>>>> {
    let turns: Vec<_> = vrings.iter().map(|vring| vring.begin()).collect();
    turns.iter().any(Option::is_some).then_some(turns)
}

impl<'m, D, S, F> Poller<'m, D, S, F>
where
    D: VirtioDevice,
    S: Fn(Token, D::PendingRequest<'m>) -> F,
    F: Future<Output = u32>,
{
    /// With nothing in flight. The `view` must have been made after the turns began. `serve` is [`VirtioDevice::serve`].
    pub fn new(
        device: &'m D,
        worker: &'m D::Worker,
        view: &'m View,
        vrings: &'m [Arc<Vring>],
        turns: Vec<Option<Turn<'m>>>,
        serve: S,
    ) -> Self {
        let at_turn = turns.iter().flatten().count();
        let queues = vrings
            .iter()
            .zip(turns)
            .map(|(vring, turn)| PolledQueue { vring, turn, in_flight: 0, done: Vec::new() })
            .collect();
        Self {
            device,
            worker,
            view,
            serve,
            queues,
            turns: at_turn,
            first: 0,
            tasks: Tasks::default(),
            origins: Vec::new(),
            chains: Vec::with_capacity(BATCH),
            batch: Vec::with_capacity(BATCH),
            tokens: Vec::new(),
        }
    }

    /// Whether every chain has been returned.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether no queue is at a turn any more. Then the memory may change, and this poller must go.
    pub fn is_over(&self) -> bool {
        self.turns == 0
    }

    /// Takes what is available, at most a batch from each queue, and goes on with what can go on. Returns whether there was
    /// anything.
    pub fn poll(&mut self) -> bool {
        let mut progress = false;
        let count = self.queues.len();
        for place in (self.first..count).chain(0..self.first) {
            if self.pop_chains(place) {
                progress = true;
                if self.worker.room() == 0 {
                    // The others have had to go without. They are looked at before this one when there is room again.
                    self.first = (place + 1) % count;
                }
            }
        }
        self.worker.submit();
        progress |= self.poll_completions();
        self.worker.before_completion();
        progress | self.end_turns()
    }

    /// Asks the drivers to notify. True when one has something already.
    pub fn arm(&mut self) -> bool {
        if self.worker.room() == 0 {
            return false;
        }
        let memory = self.view.memory();
        // All of them, also after the first that has something.
        self.queues.iter().filter_map(|queue| queue.turn.as_ref()).fold(false, |more, turn| turn.arm(memory) | more)
    }

    fn pop_chains(&mut self, place: usize) -> bool {
        let room = self.worker.room();
        if room == 0 {
            return false;
        }
        let Some(queue) = self.queues.get_mut(place) else { return false };
        if queue.turn.is_none() && self.turns > 0 {
            // It has been started or resumed meanwhile. The memory only grows as long as another turn goes on; the ring may
            // lie in what is new.
            queue.turn = queue.vring.begin();
            if queue.turn.is_some() {
                self.turns += 1;
                self.view = self.view.newest();
            }
        }
        let Some(turn) = &queue.turn else { return false };
        let seen = self.view;
        if !turn.pop(seen.memory(), room, &mut self.chains) {
            // It may have been given back between our look at the memory and now.
            self.view = seen.newest();
            if !std::ptr::eq(self.view, seen) {
                queue.vring.memory_added();
                return true;
            }
        }
        let index = queue.vring.index();
        let progress = !self.chains.is_empty();
        for TakenChain { head, mut chain } in self.chains.drain(..) {
            if chain.is_err() {
                // It may lie in memory that was added meanwhile. The driver has it longer than we look for it: the frontend
                // tells nobody of memory that we have not confirmed.
                self.view = self.view.newest();
                if !std::ptr::eq(self.view, seen) {
                    chain = turn.walk(self.view.memory(), head);
                }
            }
            queue.in_flight += 1;
            match chain {
                Ok(chain) => {
                    let request = self.device.parse(self.worker, index, head, chain);
                    let prefetch = self.device.to_prefetch(&request);
                    let token = self.tasks.insert(|token| (self.serve)(token, request));
                    let origin = Origin { place, head };
                    match self.origins.get_mut(token) {
                        Some(place) => *place = origin,
                        // Tokens are given out in order.
                        None => self.origins.push(origin),
                    }
                    self.batch.push((token, prefetch));
                }
                Err(error) => {
                    log::debug!("queue {index}: head {head}: {error}");
                    queue.vring.retire("a descriptor chain is broken");
                    queue.in_flight -= 1;
                    queue.done.push(Completion { head, written: 0 });
                }
            }
        }
        let mut batch = std::mem::take(&mut self.batch);
        for (_, next) in batch.iter().take(AHEAD) {
            self.device.prefetch(self.worker, *next);
        }
        for (i, (token, _)) in batch.iter().enumerate() {
            if let Some((_, next)) = batch.get(i + AHEAD) {
                self.device.prefetch(self.worker, *next);
            }
            self.poll_task(*token);
        }
        batch.clear();
        self.batch = batch;
        self.complete(place);
        progress
    }

    /// Serves a chain as far as it goes.
    fn poll_task(&mut self, token: Token) {
        let mut context = Context::from_waker(self.worker.waker());
        if let Poll::Ready(written) = self.tasks.poll(token, &mut context)
            && let Some(&origin) = self.origins.get(token)
        {
            self.done(origin, written);
        }
    }

    fn done(&mut self, Origin { place, head }: Origin, written: u32) {
        let Some(queue) = self.queues.get_mut(place) else { return };
        queue.in_flight -= 1;
        queue.done.push(Completion { head, written });
        if queue.done.len() >= PORTION {
            self.complete(place);
        }
    }

    fn poll_completions(&mut self) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut tokens = std::mem::take(&mut self.tokens);
        self.worker.poll_completions(&mut tokens);
        let progress = !tokens.is_empty();
        for token in tokens.drain(..) {
            self.poll_task(token);
        }
        self.tokens = tokens;
        if progress {
            // What they ask for.
            self.worker.submit();
            for place in 0..self.queues.len() {
                self.complete(place);
            }
        }
        progress
    }

    fn complete(&mut self, place: usize) {
        if let Some(queue) = self.queues.get_mut(place)
            && let Some(turn) = &queue.turn
            && !queue.done.is_empty()
        {
            self.worker.before_completion();
            turn.complete(self.view.memory(), &queue.done);
            queue.done.clear();
        }
    }

    /// Ends the turns at queues that do not run any more. Returns whether there was one.
    fn end_turns(&mut self) -> bool {
        let mut left = false;
        for queue in &mut self.queues {
            // Asking a queue takes its lock; one with chains that nobody holds back goes on until they are done.
            if queue.in_flight > 0 && !self.worker.has_held_requests()
                || queue.turn.as_ref().is_none_or(Turn::is_running)
            {
                continue;
            }
            if queue.in_flight > 0 {
                left |= self.worker.drain(queue.vring.index());
                continue;
            }
            // Still at the turn: whoever waits for its end looks after writes that hang.
            if queue.vring.take_retirement() {
                self.device.queue_broken(queue.vring.index());
            }
            queue.vring.signal_error();
            queue.turn = None;
            self.turns -= 1;
            left = true;
        }
        left
    }
}
