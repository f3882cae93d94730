// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A worker polls its queues for chains, and the device for requests that can continue.
//!
//! A [`Poller`] lives for one stretch of work. At least one queue is in a turn all the time, so no guest memory is
//! removed meanwhile. Memory may be added. The poller checks for that when a ring or a chain is outside the memory that
//! it knows.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{View, VirtioDevice};
use crate::queue::{BATCH, Completion, TakenChain, Turn, Vring};
use crate::reactor::Reactor;
use crate::tasks::{Tasks, Token};

/// The maximum number of chains that are returned at once: the driver works on the first ones while the next ones are
/// served. This wakes a sleeping driver more often, which pays on idle cores.
const PORTION: usize = 8;

/// The most requests in flight, whatever they wait for: as many as there are bounce buffers and places with helpers. A long request that
/// gives way to others needs neither meanwhile.
const MOST_IN_FLIGHT: usize = 352;

/// No chain is taken while those in flight move as many bytes of the disk: somebody may wait for all of them. So many are 256 requests of
/// 1 MiB.
const MOST_BYTES_IN_FLIGHT: u64 = 256 << 20;

/// A longer request counts as one of this length, to leave room for those of other queues.
const MOST_COUNTED: u64 = MOST_BYTES_IN_FLIGHT / 2;

/// How many requests ahead to prefetch.
const AHEAD: usize = 2;

/// A worker's queues in one stretch of work, and the chains in flight. `F` is the future that `S` makes of a request.
pub struct Poller<'m, D: VirtioDevice, S, F> {
    device: &'m D,
    worker: &'m D::Worker,
    view: &'m View,
    serve: S,
    queues: Vec<PolledQueue<'m>>,
    turns: usize,
    /// Index of the queue to poll first.
    first: usize,
    tasks: Tasks<F>,
    /// Bytes of the disk that the chains in flight move.
    bytes: u64,
    /// Where the chains in flight came from, by token.
    origins: Vec<Origin>,
    chains: Vec<TakenChain<'m>>,
    /// Requests that have not been polled yet, and what to prefetch for them.
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
    /// Index in [`Poller::queues`].
    place: usize,
    head: u16,
    bytes: u64,
}

/// Begins a turn at each queue that runs. Must come before any access to guest memory.
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
    /// Nothing is in flight. The `view` must be newer than the turns. `serve` is [`VirtioDevice::serve`].
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
            bytes: 0,
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

    /// Whether no queue is in a turn. The memory may then change, so this poller must go.
    pub fn is_over(&self) -> bool {
        self.turns == 0
    }

    /// Takes available chains, at most a batch from each queue, and continues requests. Returns whether there was work.
    pub fn poll(&mut self) -> bool {
        let mut progress = false;
        let count = self.queues.len();
        for place in (self.first..count).chain(0..self.first) {
            if self.pop_chains(place) {
                progress = true;
                if self.room() == 0 {
                    // The remaining queues got no room. They come first when there is room again.
                    self.first = (place + 1) % count;
                }
            }
        }
        self.worker.submit();
        progress |= self.poll_completions();
        self.worker.before_completion();
        progress | self.end_turns()
    }

    /// Asks the drivers to notify. Returns true if one has made something available already.
    pub fn arm(&mut self) -> bool {
        if self.room() == 0 {
            return false;
        }
        let memory = self.view.memory();
        // All queues, even after one that has something.
        self.queues.iter().filter_map(|queue| queue.turn.as_ref()).fold(false, |more, turn| turn.arm(memory) | more)
    }

    /// How many more requests may start.
    fn room(&self) -> usize {
        if self.bytes >= MOST_BYTES_IN_FLIGHT {
            return 0;
        }
        self.worker.room().min(MOST_IN_FLIGHT.saturating_sub(self.tasks.len()))
    }

    fn pop_chains(&mut self, place: usize) -> bool {
        let room = self.room();
        if room == 0 {
            return false;
        }
        let Some(queue) = self.queues.get_mut(place) else { return false };
        if queue.turn.is_none() && self.turns > 0 {
            // The queue has been started or resumed meanwhile. The memory only grows while another turn lasts, and the
            // ring may be in the new part.
            queue.turn = queue.vring.begin();
            if queue.turn.is_some() {
                self.turns += 1;
                self.view = self.view.newest();
            }
        }
        let Some(turn) = &queue.turn else { return false };
        let seen = self.view;
        let most_bytes = MOST_BYTES_IN_FLIGHT - self.bytes; // there is room
        if !turn.pop(seen.memory(), room, most_bytes, &mut self.chains) {
            // The frontend may have added the ring's memory since this view was made.
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
                // The chain may be in memory that was added meanwhile. The newest view has it: the frontend announces
                // memory only after we have confirmed it.
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
                    let bytes = self.device.bytes(&request).min(MOST_COUNTED);
                    self.bytes += bytes; // of at most 352 requests
                    let token = self.tasks.insert(|token| (self.serve)(token, request));
                    let origin = Origin { place, head, bytes };
                    match self.origins.get_mut(token) {
                        Some(place) => *place = origin,
                        // Tokens are given out in order.
                        None => self.origins.push(origin),
                    }
                    self.batch.push((token, prefetch));
                }
                Err(error) => {
                    log::debug!("queue {index}: head {head}: {error}");
                    queue.vring.retire(error.reason());
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

    /// Continues a request as far as possible.
    fn poll_task(&mut self, token: Token) {
        let mut context = Context::from_waker(self.worker.waker());
        if let Poll::Ready(written) = self.tasks.poll(token, &mut context)
            && let Some(&origin) = self.origins.get(token)
        {
            self.done(origin, written);
        }
    }

    fn done(&mut self, Origin { place, head, bytes }: Origin, written: u32) {
        self.bytes -= bytes;
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
            // Submits the requests' disk operations.
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

    /// Ends the turns at queues that no longer run. Returns whether there was one.
    fn end_turns(&mut self) -> bool {
        let mut left = false;
        for queue in &mut self.queues {
            // The check takes the queue's lock. Chains in flight finish first, unless a fault holds them back.
            if queue.in_flight > 0 && !self.worker.has_held_requests()
                || queue.turn.as_ref().is_none_or(Turn::is_running)
            {
                continue;
            }
            if queue.in_flight > 0 {
                left |= self.worker.drain(queue.vring.index());
                continue;
            }
            // Before the turn ends: whoever waits for its end unblocks writes that hang.
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
