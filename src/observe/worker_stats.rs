// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A worker's access to the observer: no lock, and no memory that another worker writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::Observer;
use super::clock::{self, Stage, Stopwatch, Times};
use super::histogram::Histogram;
use super::record::Record;
use super::tally::Tally;
use super::trace::{TraceRing, encode};

/// A worker's counters. Others read them; a later worker reuses them.
#[derive(Debug)]
pub(super) struct WorkerCounters {
    pub number: u16,
    pub in_use: AtomicBool,
    /// Encrypted requests by keyslot.
    pub hits: Box<[Tally]>,
    pub request_keys: RequestKeyCounters,
    /// Allocated when the first latency is recorded.
    pub latency: OnceLock<Latencies>,
    /// Allocated when the first record of a trace comes.
    pub ring: OnceLock<TraceRing>,
}

/// Keys that came with requests: see [`RequestKeys`](super::stats::RequestKeys).
#[derive(Debug, Default)]
pub(super) struct RequestKeyCounters {
    pub requests: Tally,
    pub expanded: Tally,
    pub unwrapped: Tally,
    pub cached: Tally,
}

#[derive(Debug, Default)]
pub(super) struct Latencies {
    pub program: Histogram,
    pub crypto: Histogram,
    pub disk: Histogram,
    pub request: Histogram,
}

impl WorkerCounters {
    pub(super) fn new(number: u16, slots: usize) -> Self {
        Self {
            number,
            in_use: AtomicBool::new(true),
            hits: (0..slots).map(|_| Tally::default()).collect(),
            request_keys: RequestKeyCounters::default(),
            latency: OnceLock::new(),
            ring: OnceLock::new(),
        }
    }
}

/// One worker's statistics, made by [`Observer::worker_stats`]. Only that worker uses it, and serves its queues alone.
#[derive(Debug)]
pub struct WorkerStats {
    observer: Arc<Observer>,
    state: Arc<WorkerCounters>,
    /// When the current batch of requests was taken from its queue, in ticks.
    taken: Option<u64>,
}

impl WorkerStats {
    pub(super) fn new(observer: Arc<Observer>, state: Arc<WorkerCounters>) -> Self {
        Self { observer, state, taken: None }
    }

    /// The stopwatch of a new request. It runs and reads clocks only while latencies or a trace are wanted. Requests
    /// that are taken together share one read of the clock: see [`WorkerStats::end_batch`].
    #[inline]
    pub fn stopwatch(&mut self) -> Stopwatch {
        if self.observer.timed() {
            Stopwatch::running_since(*self.taken.get_or_insert_with(clock::ticks))
        } else {
            Stopwatch::default()
        }
    }

    /// Whether a trace is recorded.
    pub fn traces(&self) -> bool {
        self.observer.timed() && self.observer.trace_epoch().is_some()
    }

    /// Counts a key that came with a request, and whether it had to be expanded.
    pub fn count_request_key(&self, expanded: bool) {
        let keys = &self.state.request_keys;
        keys.requests.add(1);
        keys.expanded.add(expanded.into());
    }

    /// Counts a wrapped key that came with a request, and whether it was cached.
    pub fn count_wrapped(&self, known: bool) {
        let keys = &self.state.request_keys;
        if known { &keys.cached } else { &keys.unwrapped }.add(1);
    }

    /// Ends a batch: later requests were taken later.
    #[inline]
    pub fn end_batch(&mut self) {
        self.taken = None;
    }

    /// Counts a finished request, before its head is returned.
    pub fn finished(&mut self, record: &Record) {
        if let Some(queue) = self.observer.queues.get(usize::from(record.queue)) {
            queue.count(record);
        }
        if let Some(crypto) = record.crypto
            && let Some(hits) = crypto.slot.and_then(|slot| self.state.hits.get(slot as usize))
        {
            hits.add(1);
        }
        if let Some(times) = record.watch.stop() {
            self.finished_timed(record, &times);
        }
    }

    fn finished_timed(&mut self, record: &Record, times: &Times) {
        if let Some(epoch) = self.observer.trace_epoch() {
            self.state.ring.get_or_init(TraceRing::default).push(&encode(record, times, epoch));
        }
        if !self.observer.latency() {
            return;
        }
        let latency = self.state.latency.get_or_init(Latencies::default);
        latency.request.record(times.total);
        for (stage, histogram) in
            [(Stage::Program, &latency.program), (Stage::Crypto, &latency.crypto), (Stage::Disk, &latency.disk)]
        {
            // 0: the request did not pass this stage.
            match times.of(stage) {
                0 => {}
                nanos => histogram.record(nanos),
            }
        }
    }
}

impl Drop for WorkerStats {
    fn drop(&mut self) {
        // The next owner of the state sees what was written here.
        self.state.in_use.store(false, Ordering::Release);
    }
}
