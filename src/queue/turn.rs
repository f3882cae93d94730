// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A worker's access to a queue: takes chains and returns them.

use std::sync::MutexGuard;

use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

use super::inflight::crash_point;
use super::state::VringState;
use super::{Chain, ChainError, Vring};
use crate::ratelimit::log_limited;
use crate::sigbus;

/// The maximum number of chains that a worker takes from a queue at a time.
pub const BATCH: usize = 32;

/// A chain and the head under which it is returned.
#[derive(Debug)]
pub struct TakenChain<'m> {
    /// Index of the first descriptor.
    pub head: u16,
    /// The bytes, or why the chain is broken.
    pub chain: Result<Chain<'m>, ChainError>,
}

/// A head that has been served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Index of the first descriptor.
    pub head: u16,
    /// Bytes written into the chain.
    pub written: u32,
}

/// A worker's turn at a queue. Until it is dropped the queue is not idle, so stopping the queue or changing the guest's
/// memory waits for it. A panic of the worker drops it, too.
pub struct Turn<'v> {
    pub(super) vring: &'v Vring,
}

impl Turn<'_> {
    /// Takes up to `most` chains, at most [`BATCH`], and no more once they have `most_bytes` bytes; none when the queue no longer runs.
    /// Each chain must be returned with [`Turn::complete`], in any order.
    ///
    /// The driver may suppress its notifications after this: see [`Turn::arm`].
    ///
    /// Returns false if the ring is not in this memory. The queue then waits for [`Vring::memory_added`]. That may have
    /// been called just before, so the caller must check for newer memory.
    pub fn pop<'m>(
        &self,
        memory: &'m GuestMemoryMmap,
        most: usize,
        most_bytes: u64,
        chains: &mut Vec<TakenChain<'m>>,
    ) -> bool {
        let mut guard = self.vring.lock();
        let state = &mut *guard;
        if !state.runs() || most == 0 {
            return true;
        }
        if !state.ring_is_in(memory) {
            // This is not the driver's fault: its addresses were in memory when the ring was set up. Frontends may
            // remove a region to add it in another shape, while the queue runs (QEMU does).
            state.lacks_memory = true;
            log_limited!(warn, "queue {} waits: the frontend has removed the memory of its ring", self.vring.index);
            return false;
        }
        state.check_log(self.vring.index);
        let popped = state.pop(memory, most.min(BATCH), most_bytes, chains);
        if !sigbus::guest_memory_is_sound() {
            // Missing memory is the cause, whatever the ring looked like. The session ends and reports it.
            state.set_retired("part of the guest's memory is missing");
        } else if let Err(reason) = popped {
            // Chains taken before are still served and returned.
            state.retire(self.vring.index, reason);
        }
        let due = std::mem::take(&mut state.interrupt_due);
        interrupt(guard, due);
        true
    }

    /// Walks a taken chain again, because memory was added.
    pub fn walk<'m>(&self, memory: &'m GuestMemoryMmap, head: u16) -> Result<Chain<'m>, ChainError> {
        self.vring.lock().walk(memory, head)
    }

    /// Whether there may be more to take: not when somebody waits for the end of the turn, or when the queue was
    /// retired.
    pub fn is_running(&self) -> bool {
        self.vring.lock().runs()
    }

    /// Asks the driver to notify. Returns true if it has made something available meanwhile, without a notification.
    pub fn arm(&self, memory: &GuestMemoryMmap) -> bool {
        let mut guard = self.vring.lock();
        let state = &mut *guard;
        if !state.runs() {
            return false;
        }
        let more = state.queue.enable_notification(memory).unwrap_or_else(|_| {
            state.retire(self.vring.index, "the ring cannot be accessed");
            // The next poll ends the turn and reports it.
            true
        });
        // If memory is missing, the next poll reports it.
        more || !state.resubmit.is_empty() || !sigbus::guest_memory_is_sound()
    }

    /// Returns chains to the driver and interrupts it if it wants that.
    pub fn complete(&self, memory: &GuestMemoryMmap, completions: &[Completion]) {
        let mut guard = self.vring.lock();
        let state = &mut *guard;
        for completion in completions {
            state.in_flight.remove(completion.head);
            if let Some(log) = &state.log {
                log.returning(completion.head);
            }
            if state.queue.add_used(memory, completion.head, completion.written).is_err() {
                state.retire(self.vring.index, "the used ring cannot be written");
                // It stays in flight in the log.
                continue;
            }
            if let Some(log) = &state.log {
                crash_point();
                if sigbus::guest_memory_is_sound() {
                    log.returned(completion.head, state.queue.next_used());
                }
                // Otherwise the write went nowhere. The next backend checks the used ring, as after a crash here.
            }
        }
        let wanted = !completions.is_empty() && state.queue.needs_notification(memory).unwrap_or(true);
        interrupt(guard, wanted);
    }
}

/// Interrupts the driver if wanted, without the lock: the eventfd is the frontend's.
fn interrupt(state: MutexGuard<'_, VringState>, wanted: bool) {
    let call = state.call.clone().filter(|_| wanted);
    drop(state);
    if let Some(call) = call {
        call.signal();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.vring.lock().busy = false;
        self.vring.idle.notify_all();
    }
}
