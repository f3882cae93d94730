// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A virtqueue of a vhost-user device: heads, used lengths, notification. It does not know what the chains mean.
//!
//! Rules that hold whatever the driver does:
//! - every head that was taken is returned exactly once;
//! - a head that is made available again before it was returned, or any other violation of the ring's rules, retires
//!   the queue: it is reported once and not used again until the frontend restarts it;
//! - stopping a queue returns only when everything taken from it has been returned.
//!
//! A worker accesses guest memory only during a [`Turn`], and a turn lasts until all chains taken in it have been
//! returned. If part of that memory turns out to be missing ([`sigbus`](crate::sigbus)), no ring can be trusted: all
//! queues are retired, and the session ends.
//!
//! With a [`QueueLog`] the queue continues where a killed backend left it: chains that were taken and not returned come
//! first.
#![forbid(unsafe_code)]

mod chain;
mod event;
mod heads;
mod inflight;
mod state;
mod table;
mod turn;

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::lock::lock;
use crate::{eventfd, sigbus};
pub use chain::{Chain, ChainError, MOST_REGIONS};
pub use event::{Event, check_eventfd, wait_for_workers};
use heads::HeadSet;
pub use inflight::{InflightRegion, QueueLog, RegionError, region_bytes};
use state::VringState;
pub use turn::{BATCH, Completion, TakenChain, Turn};

/// How long to wait for the end of a turn before assuming that the worker hangs in a write to an eventfd.
pub const STUCK: Duration = Duration::from_millis(100);

/// Where a ring lies, in guest physical addresses.
#[derive(Debug, Clone, Copy)]
pub struct RingAddresses {
    /// Descriptor table.
    pub descriptor_table: GuestAddress,
    /// Available ring.
    pub avail_ring: GuestAddress,
    /// Used ring.
    pub used_ring: GuestAddress,
}

/// Where a queue begins, compared with its position when all queues had been stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// At the same index.
    GoesOn,
    /// At another index: the driver has set the queue up anew.
    Afresh,
    /// The queue was at 0 and begins at 0, or not all queues had been stopped. This tells nothing.
    Unknown,
}

/// Proof that a queue is idle: no worker can begin a turn while this lives.
#[must_use = "the queue runs again when this is dropped"]
pub struct Paused<'v> {
    vring: &'v Vring,
}

/// A virtqueue with its eventfds. Shared by the frontend's thread and the one worker that serves it.
pub struct Vring {
    index: usize,
    /// A hint for [`Vring::begin`], which checks many queues that do not run.
    may_run: AtomicBool,
    state: Mutex<VringState>,
    idle: Condvar,
    /// An eventfd of ours that wakes the worker.
    wake: OnceLock<Arc<File>>,
}

impl Vring {
    /// A queue that is not set up yet.
    ///
    /// # Errors
    /// When `max_size` is not a power of two up to 32768.
    pub fn new(index: usize, max_size: u16) -> Result<Self, virtio_queue::Error> {
        let state = VringState {
            queue: Queue::new(max_size)?,
            kick: None,
            call: None,
            err: None,
            interrupt_due: false,
            enabled: false,
            busy: false,
            pauses: 0,
            lacks_memory: false,
            retired: None,
            err_due: false,
            retirement_is_news: false,
            in_flight: HeadSet::new(max_size),
            log: None,
            resubmit: VecDeque::new(),
            left_at: None,
        };
        let (state, idle, wake) = (Mutex::new(state), Condvar::new(), OnceLock::new());
        Ok(Self { index, may_run: AtomicBool::new(false), state, idle, wake })
    }

    /// Sets the eventfd that wakes the worker of this queue. Only the first call has an effect.
    pub fn set_waker(&self, wake: &Arc<File>) {
        let _ = self.wake.set(Arc::clone(wake));
    }

    /// Makes the worker check the queue.
    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            eventfd::signal(wake);
        }
    }

    /// The queue's number.
    pub fn index(&self) -> usize {
        self.index
    }

    fn lock(&self) -> MutexGuard<'_, VringState> {
        // A panic while the lock is held could only come from a defect; the ring state is plain numbers either way.
        lock(&self.state)
    }

    /// Sets the number of descriptors: a power of two, at most the maximum. Returns false if it is not.
    pub fn set_size(&self, size: u16) -> bool {
        self.lock().queue.try_set_size(size).is_ok()
    }

    /// Sets the addresses of the ring and takes the used index from it, which a ring that continues needs. Returns
    /// false if an address is not aligned or not in guest memory.
    pub fn set_addresses(&self, memory: &GuestMemoryMmap, addresses: RingAddresses) -> bool {
        let mut state = self.lock();
        let queue = &mut state.queue;
        let set = queue.try_set_desc_table_address(addresses.descriptor_table).is_ok()
            && queue.try_set_avail_ring_address(addresses.avail_ring).is_ok()
            && queue.try_set_used_ring_address(addresses.used_ring).is_ok();
        match queue.used_idx(memory, std::sync::atomic::Ordering::Acquire) {
            Ok(used) if set && sigbus::guest_memory_is_sound() => {
                queue.set_next_used(used.0);
                true
            }
            _ => false,
        }
    }

    /// Sets the index of the next available chain.
    pub fn set_next_avail(&self, index: u16) {
        self.lock().queue.set_next_avail(index);
    }

    /// Whether the driver and the device suppress notifications by index (`VIRTIO_F_EVENT_IDX`).
    pub fn set_event_idx(&self, on: bool) {
        self.lock().queue.set_event_idx(on);
    }

    /// Sets the in-flight log, which is used from the next start on. Returns false if the queue is started.
    pub fn set_log(&self, log: Option<QueueLog>) -> bool {
        let mut state = self.lock();
        let stopped = !state.queue.ready();
        if stopped {
            state.log = log;
        }
        stopped
    }

    /// Sets the eventfd with which the driver notifies, and starts the queue where the frontend says, or where the log
    /// says that it was left. Returns the previous eventfd, and how the queue begins.
    pub fn set_kick(&self, kick: Option<File>) -> (Option<File>, Beginning) {
        self.lock().queue.set_ready(false);
        let mut state = self.wait_idle();
        state.queue.set_ready(kick.is_some());
        state.restart();
        let mut beginning = Beginning::Unknown;
        if kick.is_some() {
            // Frontend and log must agree that the queue continues.
            let asked = state.queue.next_avail();
            if let Err(reason) = state.recover(self.index) {
                state.retire(self.index, reason);
            }
            beginning = match (state.left_at.take(), [asked, state.queue.next_avail()]) {
                (None, _) | (Some(0), [0, 0]) => Beginning::Unknown,
                (Some(left_at), places) if places == [left_at; 2] => Beginning::GoesOn,
                _ => Beginning::Afresh,
            };
        }
        self.may_run.store(state.may_run(), Ordering::Release);
        (std::mem::replace(&mut state.kick, kick), beginning)
    }

    /// All queues have been stopped: saves the position of this one for its next start.
    pub fn save_position(&self) {
        let mut state = self.lock();
        state.left_at = Some(state.queue.next_avail());
    }

    /// Sets the eventfd that interrupts the driver.
    pub fn set_call(&self, call: Option<Arc<Event>>) {
        let mut state = self.lock();
        // Frontends may start and enable a queue before they pass its interrupt (QEMU does). The driver may wait for an
        // interrupt that went nowhere; a spurious one is harmless.
        state.interrupt_due |= state.queue.ready();
        state.call = call;
        drop(state);
        self.wake();
    }

    /// Sets the eventfd that tells the frontend of a broken queue.
    pub fn set_err(&self, err: Option<Arc<Event>>) {
        self.lock().err = err;
    }

    /// Enables or disables the queue. A disabled queue keeps its position.
    pub fn set_enabled(&self, enabled: bool) {
        let mut state = self.lock();
        state.enabled = enabled;
        self.may_run.store(state.may_run(), Ordering::Release);
    }

    /// The guest's memory has grown or been replaced, so it may contain the ring now.
    pub fn memory_added(&self) {
        if std::mem::take(&mut self.lock().lacks_memory) {
            // As when a `Paused` is dropped.
            self.wake();
        }
    }

    /// Whether the queue has been started and not been stopped.
    pub fn started(&self) -> bool {
        self.lock().queue.ready()
    }

    /// The driver has reset the device, so nothing that the log has is to be served again.
    pub fn forget_in_flight(&self) {
        if let Some(log) = &self.lock().log {
            log.forget();
        }
    }

    /// Passes the notification eventfd to `action` if the queue is started and enabled.
    pub fn with_kick<R>(&self, action: impl FnOnce(&File) -> R) -> Option<R> {
        let state = self.lock();
        match &state.kick {
            Some(kick) if state.enabled && state.queue.ready() => Some(action(kick)),
            _ => None,
        }
    }

    /// Stops the queue and waits until the worker has returned all chains. Returns the index of the next available
    /// chain, and the notification eventfd. Chains that are still to be resubmitted stay in the log.
    pub fn stop(&self) -> (u16, Option<File>) {
        self.lock().queue.set_ready(false);
        let mut state = self.wait_idle();
        self.may_run.store(false, Ordering::Release);
        state.call = None;
        (state.queue.next_avail(), state.kick.take())
    }

    /// Waits until the worker has returned all chains, and keeps it from taking more.
    pub fn pause(&self) -> Paused<'_> {
        self.lock().pauses += 1;
        let paused = Paused { vring: self };
        drop(self.wait_idle());
        paused
    }

    fn wait_idle(&self) -> MutexGuard<'_, VringState> {
        let mut state = self.lock();
        if state.busy {
            // The worker may sleep while requests of other queues are in flight.
            self.wake();
        }
        while state.busy {
            let waited = self.idle.wait_timeout(state, STUCK).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if state.busy && waited.1.timed_out() {
                // A frontend that fills its eventfds on purpose must not block us.
                drop(state);
                Event::unblock_all();
                state = self.lock();
            }
        }
        state
    }

    /// Begins a turn, if the queue runs. Only the queue's worker may do so, and it may access guest memory only in a
    /// turn: between turns, memory may be removed.
    pub fn begin(&self) -> Option<Turn<'_>> {
        if !self.may_run.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        if !state.runs() {
            return None;
        }
        state.busy = true;
        Some(Turn { vring: self })
    }

    /// Retires the queue for a reason found in a chain.
    pub fn retire(&self, reason: &'static str) {
        self.lock().retire(self.index, reason);
    }

    /// Whether the queue has been retired since the last call.
    pub fn take_retirement(&self) -> bool {
        std::mem::take(&mut self.lock().retirement_is_news)
    }

    /// Tells the frontend if the queue has been retired since it was last told. Only for the worker: see
    /// [`Event::signal`].
    pub fn signal_error(&self) {
        let mut state = self.lock();
        let due = std::mem::take(&mut state.err_due);
        let err = state.err.clone().filter(|_| due);
        drop(state);
        if let Some(err) = err {
            err.signal();
        }
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let mut state = self.vring.lock();
        state.pauses -= 1;
        drop(state);
        // The worker may have ignored a notification while the queue did not run.
        self.vring.wake();
    }
}
