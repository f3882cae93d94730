// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Statistics of the device: counters, latencies, traces. Numbers only; no data and no keys come here.
//!
//! A device has one [`Observer`]. Each worker has a [`WorkerStats`] and passes it a [`Record`] of every finished
//! request. Methods of the observer count everything else (commands, resets). [`Observer::stats`] adds it all up.
//!
//! The workers share no memory that they write: the counters of a queue and of a worker have one writer each. Clocks
//! are read only while somebody wants latencies or a trace.

#![forbid(unsafe_code)]

mod clock;
mod counters;
pub mod docs;
mod groups;
mod histogram;
pub mod prometheus;
mod record;
pub mod stats;
mod tally;
pub mod trace;
mod worker_stats;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::lock;
pub use clock::{Stage, Stopwatch};
use counters::{DeviceCounters, QueueCounters, SlotCounters};
pub use histogram::Distribution;
pub use record::{CryptoUse, Kind, Record};
pub use stats::Stats;
use trace::{TraceStatus, Tracer};
use worker_stats::WorkerCounters;
pub use worker_stats::WorkerStats;

/// Bit of [`Observer::wanted`]: latency histograms.
const LATENCY: u32 = 1 << 0;

/// Bit of [`Observer::wanted`]: a trace.
const TRACE: u32 = 1 << 1;

/// A device's counters, latencies and traces.
#[derive(Debug)]
pub struct Observer {
    /// What needs clocks; 0: nothing.
    wanted: AtomicU32,
    engine: &'static str,
    queues: Box<[QueueCounters]>,
    slots: Box<[SlotCounters]>,
    device: DeviceCounters,
    /// As many as there were workers at the same time.
    workers: Mutex<Vec<Arc<WorkerCounters>>>,
    tracer: Tracer,
    /// When the trace began, in ticks.
    epoch: AtomicU64,
}

/// The use of a keyslot. Never a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotUse {
    /// Successful program commands.
    pub programs: u64,
    /// Evict commands that found a key.
    pub evictions: u64,
    /// Encrypted requests that found a key here.
    pub hits: u64,
}

impl Observer {
    /// For a device with this many queues, the control virtqueue included, and keyslots. `engine` is the name of the
    /// crypto engine.
    pub fn new(queues: usize, slots: usize, engine: &'static str) -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicU32::new(0),
            engine,
            queues: (0..queues).map(|_| QueueCounters::default()).collect(),
            slots: (0..slots).map(|_| SlotCounters::default()).collect(),
            device: DeviceCounters::default(),
            workers: Mutex::new(Vec::new()),
            tracer: Tracer::default(),
            epoch: AtomicU64::new(0),
        })
    }

    /// The statistics of a new worker.
    pub fn worker_stats(self: &Arc<Self>) -> WorkerStats {
        let mut workers = self.lock_workers();
        let free = workers.iter().find(|state| !state.in_use.swap(true, Ordering::AcqRel)).cloned();
        let state = free.unwrap_or_else(|| {
            let number = u16::try_from(workers.len()).unwrap_or(u16::MAX);
            let state = Arc::new(WorkerCounters::new(number, self.slots.len()));
            workers.push(Arc::clone(&state));
            state
        });
        WorkerStats::new(Arc::clone(self), state)
    }

    fn lock_workers(&self) -> MutexGuard<'_, Vec<Arc<WorkerCounters>>> {
        lock(&self.workers)
    }

    /// Whether clocks must be read.
    fn timed(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// Turns latency histograms on or off. What was recorded stays.
    pub fn set_latency(&self, on: bool) {
        if on {
            clock::prepare();
            self.wanted.fetch_or(LATENCY, Ordering::Relaxed);
        } else {
            self.wanted.fetch_and(!LATENCY, Ordering::Relaxed);
        }
    }

    /// Whether latency histograms are on.
    pub fn latency(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) & LATENCY != 0
    }

    /// Opens the file for all later traces now, because no files can be opened later; `None`: there are no traces. Call
    /// it once.
    ///
    /// # Errors
    /// When the file cannot be created, or exists and is not a trace.
    pub fn only_trace_to(&self, file: Option<&Path>) -> io::Result<()> {
        self.tracer.only(file)
    }

    /// Starts a trace into a file, and ends the previous one.
    ///
    /// # Errors
    /// When the file cannot be created, exists and is not a trace, or is not that of [`Observer::only_trace_to`]; the
    /// previous trace then continues. Also when the file cannot be written, or is that one and no trace any more.
    pub fn start_trace(self: &Arc<Self>, file: &Path) -> io::Result<()> {
        let opened = self.tracer.open(file)?;
        self.wanted.fetch_and(!TRACE, Ordering::Relaxed);
        self.tracer.start(self, file, opened)?;
        clock::prepare();
        self.epoch.store(clock::ticks(), Ordering::Relaxed);
        self.wanted.fetch_or(TRACE, Ordering::Release);
        Ok(())
    }

    /// Ends the trace, and writes everything recorded to its file.
    pub fn stop_trace(&self) -> Option<TraceStatus> {
        self.wanted.fetch_and(!TRACE, Ordering::Relaxed);
        self.tracer.stop(self)
    }

    /// Writes everything recorded so far.
    pub fn sync_trace(&self) -> Option<TraceStatus> {
        self.tracer.sync(self)
    }

    /// The state of the trace, if there is one.
    pub fn trace_status(&self) -> Option<TraceStatus> {
        self.tracer.status()
    }

    /// When the trace began, in ticks; `None` if none is wanted.
    fn trace_epoch(&self) -> Option<u64> {
        let wanted = self.wanted.load(Ordering::Acquire) & TRACE != 0;
        wanted.then(|| self.epoch.load(Ordering::Relaxed))
    }

    /// All workers, including those not in use.
    fn workers(&self) -> Vec<Arc<WorkerCounters>> {
        self.lock_workers().clone()
    }

    /// The queues that are started and enabled.
    pub fn running_queues(&self) -> impl Iterator<Item = usize> {
        self.queues.iter().enumerate().filter(|(_, queue)| running(queue)).map(|(number, _)| number)
    }

    /// Whether a frontend is connected: workers exist as long as a connection does.
    pub fn connected(&self) -> bool {
        self.lock_workers().iter().any(|worker| worker.in_use.load(Ordering::Acquire))
    }

    /// A queue was started and enabled, or stopped.
    pub fn set_queue_running(&self, queue: usize, running: bool) {
        if let Some(queue) = self.queues.get(queue) {
            queue.running.store(running, Ordering::Relaxed);
        }
    }

    /// Counts a program command for a slot: `None` if it failed, else whether it replaced another key.
    pub fn count_program(&self, slot: u32, replaced: Option<bool>) {
        match replaced {
            None => self.device.program_failed.add(1),
            Some(replaced) => {
                self.device.program.add(1);
                self.device.replace.add(replaced.into());
                if let Some(slot) = self.slots.get(slot as usize) {
                    slot.programs.add(1);
                }
            }
        }
    }

    /// Counts an evict command for an existing slot, and whether there was a key.
    pub fn count_evict(&self, slot: u32, found: bool) {
        if !found {
            return self.device.evict_empty.add(1);
        }
        self.device.evict.add(1);
        if let Some(slot) = self.slots.get(slot as usize) {
            slot.evictions.add(1);
        }
    }

    /// Counts a key with two equal halves.
    pub fn count_equal_halves(&self) {
        self.device.equal_halves.add(1);
    }

    /// Counts a reset of the device, and lost keys.
    pub fn count_reset(&self, lost_keys: usize) {
        self.device.reset.add(1);
        self.count_lost(lost_keys);
    }

    /// Counts a reset of the engine alone, and lost keys.
    pub fn count_engine_reset(&self, lost_keys: usize) {
        self.device.engine_reset.add(1);
        self.count_lost(lost_keys);
    }

    /// Counts a flush of the image.
    pub fn count_flush(&self) {
        self.device.flush.add(1);
    }

    /// Counts a request that a fault has struck.
    pub fn count_fault(&self) {
        self.device.fault.add(1);
    }

    /// Counts lost keys.
    pub fn count_lost(&self, keys: usize) {
        self.device.lost.add(keys as u64); // usize to u64 loses nothing
    }

    /// Counts a retired queue.
    pub fn count_broken_queue(&self) {
        self.device.broken_queue.add(1);
    }

    /// The use of each keyslot.
    pub fn slots(&self) -> Vec<SlotUse> {
        let workers = self.lock_workers();
        let hits = |slot: usize| workers.iter().filter_map(|worker| worker.hits.get(slot)).map(tally::Tally::get).sum();
        let of = |(number, slot): (usize, &SlotCounters)| SlotUse {
            programs: slot.programs.get(),
            evictions: slot.evictions.get(),
            hits: hits(number),
        };
        self.slots.iter().enumerate().map(of).collect()
    }
}

fn running(queue: &QueueCounters) -> bool {
    AtomicBool::load(&queue.running, Ordering::Relaxed)
}
