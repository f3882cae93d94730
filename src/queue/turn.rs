// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a worker does with a queue: takes chains, returns them.

use std::sync::MutexGuard;

use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

use super::inflight::crash_point;
use super::state::{VringState, warn};
use super::{Chain, ChainError, Vring};
use crate::sigbus;

/// The most chains that a worker takes from a queue at a time.
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

/// A worker's turn at a queue: until it is dropped the queue is not idle, so whoever stops the queue or changes the
/// guest's memory waits for it. Dropped also when the worker panics.
pub struct Turn<'v> {
    pub(super) vring: &'v Vring,
}

impl Turn<'_> {
    /// Takes up to `most` chains, [`BATCH`] at the most; none when the queue does not run any more. What was taken must
    /// be returned with [`Turn::complete`], in any order.
    ///
    /// The driver may hold back its notifications after this: see [`Turn::arm`].
    ///
    /// False: the ring is not in this memory. The queue waits for [`Vring::memory_added`], which may have been called just
    /// before: so the caller must look whether there is newer memory.
    pub fn pop<'m>(&self, memory: &'m GuestMemoryMmap, most: usize, chains: &mut Vec<TakenChain<'m>>) -> bool {
        let mut guard = self.vring.lock();
        let state = &mut *guard;
        if !state.runs() || most == 0 {
            return true;
        }
        if !state.ring_is_in(memory) {
            // Not the driver's doing: its addresses were in memory when the ring was set up. Frontends may take a region away
            // to give it back in another shape, and leave the queue running meanwhile (QEMU does).
            state.lacks_memory = true;
            warn(format_args!("queue {} waits: the frontend has taken away the memory of its ring", self.vring.index));
            return false;
        }
        state.check_log(self.vring.index);
        let popped = state.pop(memory, most.min(BATCH), chains);
        if !sigbus::guest_memory_is_sound() {
            // Whatever it looked like. The session ends, and says why.
            state.set_retired("a part of the guest's memory is not there");
        } else if let Err(reason) = popped {
            // What was taken before is still served and returned.
            state.retire(self.vring.index, reason);
        }
        let due = std::mem::take(&mut state.interrupt_due);
        interrupt(guard, due);
        true
    }

    /// Walks a chain that has been taken once more: the memory has grown.
    pub fn walk<'m>(&self, memory: &'m GuestMemoryMmap, head: u16) -> Result<Chain<'m>, ChainError> {
        self.vring.lock().walk(memory, head)
    }

    /// Whether there may be more to take: not when somebody waits for the end of the turn, or the queue was retired.
    pub fn is_running(&self) -> bool {
        self.vring.lock().runs()
    }

    /// Asks the driver to notify. True when it has made something available in the meantime, which it did not notify of.
    pub fn arm(&self, memory: &GuestMemoryMmap) -> bool {
        let mut guard = self.vring.lock();
        let state = &mut *guard;
        if !state.runs() {
            return false;
        }
        let more = state.queue.enable_notification(memory).unwrap_or_else(|_| {
            state.retire(self.vring.index, "the ring cannot be accessed");
            false
        });
        // If memory is missing, the next look says so.
        more || !state.resubmit.is_empty() || !sigbus::guest_memory_is_sound()
    }

    /// Returns chains to the driver and interrupts it when it wants that.
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
                // In the log it stays in flight.
                continue;
            }
            if let Some(log) = &state.log {
                crash_point();
                if sigbus::guest_memory_is_sound() {
                    log.returned(completion.head, state.queue.next_used());
                }
                // Else nobody knows where that went. The next backend looks at the used ring, as after a crash here.
            }
        }
        let wanted = !completions.is_empty() && state.queue.needs_notification(memory).unwrap_or(true);
        interrupt(guard, wanted);
    }
}

/// Interrupts the driver if that is wanted, without the lock: the eventfd is the frontend's.
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
