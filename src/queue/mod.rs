// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A virtqueue of a vhost-user device: heads, used lengths, notification. What the chains mean is not known here.
//!
//! Rules that hold whatever the driver does:
//! - every head that was taken is returned exactly once;
//! - a head that is made available again before it was returned, or any other break of the ring's rules, retires the
//!   queue: it is reported once and not looked at again until the frontend starts it anew;
//! - stopping a queue returns only when everything taken from it has been returned.
//!
//! A worker looks at guest memory only in a [`Turn`], and a turn lasts until all that was taken in it has been returned.
//! When a part of that memory turns out not to be there ([`sigbus`](crate::sigbus)), nothing that is in a ring is believed any
//! more: all queues are retired, and the session ends.
//!
//! With a [`QueueLog`] the queue goes on where a backend that was killed has left it: what that had taken and not returned
//! is given out first.

mod chain;
mod event;
mod heads;
mod inflight;
mod table;

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::Duration;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use crate::ratelimit::RateLimit;
use crate::sigbus;
pub use chain::{Chain, ChainError};
pub use event::{Event, check_eventfd, drain_event, signal};
use heads::HeadSet;
pub use inflight::{InflightRegion, QueueLog, RegionError, region_bytes};
use inflight::{Recovery, crash_point};
use table::Descriptors;

/// The most chains that a worker takes from a queue at a time.
pub const BATCH: usize = 32;

/// How long to wait for the end of a turn before the worker may hang in a write to the frontend's eventfds.
const STUCK: Duration = Duration::from_millis(100);

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

/// Where a queue begins, beside where it was when all queues had been stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Where it was.
    GoesOn,
    /// Somewhere else: the driver has set it up anew.
    Afresh,
    /// It was at 0 and begins at 0, or the queues had not all been stopped. That tells nothing.
    Unknown,
}

/// A worker's turn at a queue: until it is dropped the queue is not idle, so whoever stops the queue or changes the
/// guest's memory waits for it. Dropped also when the worker panics.
pub struct Turn<'v> {
    vring: &'v Vring,
}

/// Proof that a queue is idle and stays so: no worker can begin a turn while it lives.
#[must_use = "the queue runs again when this is dropped"]
pub struct Paused<'v> {
    vring: &'v Vring,
}

/// A virtqueue with its eventfds. Shared by the frontend's thread and the one worker that serves it.
pub struct Vring {
    index: usize,
    /// A hint for [`Vring::begin`], which looks at many queues that do not run.
    may_run: AtomicBool,
    state: Mutex<State>,
    idle: Condvar,
    /// An eventfd of ours that wakes the worker.
    wake: OnceLock<Arc<File>>,
}

struct State {
    queue: Queue,
    kick: Option<File>,
    /// Shared, because it is written to without the lock.
    call: Option<Arc<Event>>,
    err: Option<Arc<Event>>,
    /// The driver is to be interrupted at the worker's next look.
    interrupt_due: bool,
    /// SET_VRING_ENABLE.
    enabled: bool,
    /// The worker is at its turn.
    busy: bool,
    /// How many [`Paused`] there are.
    pauses: usize,
    /// The ring is in no memory, so the queue waits for that.
    lacks_memory: bool,
    /// Why the queue was retired.
    retired: Option<&'static str>,
    /// The retirement has not been counted yet.
    retirement_is_news: bool,
    in_flight: HeadSet,
    /// In-flight tracking.
    log: Option<QueueLog>,
    /// Heads that another backend had in flight, in the order in which they are given out.
    resubmit: VecDeque<u16>,
    /// The index of the next available chain when all queues had been stopped; until the queue is started again.
    left_at: Option<u16>,
}

impl Vring {
    /// A queue that is not set up yet.
    ///
    /// # Errors
    /// When `max_size` is not a power of two up to 32768.
    pub fn new(index: usize, max_size: u16) -> Result<Self, virtio_queue::Error> {
        let state = State {
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
            retirement_is_news: false,
            in_flight: HeadSet::new(max_size),
            log: None,
            resubmit: VecDeque::new(),
            left_at: None,
        };
        let (state, idle, wake) = (Mutex::new(state), Condvar::new(), OnceLock::new());
        Ok(Self { index, may_run: AtomicBool::new(false), state, idle, wake })
    }

    /// Names the eventfd that wakes the worker of this queue. It stays the first one.
    pub fn set_waker(&self, wake: &Arc<File>) {
        let _ = self.wake.set(Arc::clone(wake));
    }

    fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            signal(wake);
        }
    }

    /// The queue's number.
    pub fn index(&self) -> usize {
        self.index
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held could only come from a defect; the ring state is plain numbers either way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the number of descriptors: a power of two, at most the maximum. False when it is not.
    pub fn set_size(&self, size: u16) -> bool {
        self.lock().queue.try_set_size(size).is_ok()
    }

    /// Sets where the ring lies and takes the used index over from it, as a ring that goes on needs. False when an
    /// address is not aligned or not in guest memory.
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

    /// Sets the log of what is in flight, which counts from the next start on. False when the queue is started.
    pub fn set_log(&self, log: Option<QueueLog>) -> bool {
        let mut state = self.lock();
        let stopped = !state.queue.ready();
        if stopped {
            state.log = log;
        }
        stopped
    }

    /// Sets the eventfd that the driver notifies with and starts the queue where the frontend says, or where the log says
    /// that it was left. Returns the eventfd it had, and how it begins.
    pub fn set_kick(&self, kick: Option<File>) -> (Option<File>, Beginning) {
        self.lock().queue.set_ready(false);
        let mut state = self.wait_idle();
        state.queue.set_ready(kick.is_some());
        state.restart();
        let mut beginning = Beginning::Unknown;
        if kick.is_some() {
            // Frontend and log must agree that it goes on.
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

    /// All queues have been stopped: notes where this one is, which counts when it is started the next time.
    pub fn note_place(&self) {
        let mut state = self.lock();
        state.left_at = Some(state.queue.next_avail());
    }

    /// Sets the eventfd that interrupts the driver.
    pub fn set_call(&self, call: Option<Event>) {
        let mut state = self.lock();
        // Frontends may start and enable a queue before they hand over its interrupt (QEMU does). The driver may
        // be waiting for one that went nowhere; one too many is harmless.
        state.interrupt_due |= state.queue.ready();
        state.call = call.map(Arc::new);
        drop(state);
        self.wake();
    }

    /// Sets the eventfd that tells the frontend of a broken queue.
    pub fn set_err(&self, err: Option<Event>) {
        self.lock().err = err.map(Arc::new);
    }

    /// Enables or disables the queue. A disabled queue keeps its place.
    pub fn set_enabled(&self, enabled: bool) {
        let mut state = self.lock();
        state.enabled = enabled;
        self.may_run.store(state.may_run(), Ordering::Release);
    }

    /// The guest's memory has grown or been replaced: a ring that was in none may be in it now.
    pub fn memory_has_come(&self) {
        if std::mem::take(&mut self.lock().lacks_memory) {
            // As in dropping `Paused`.
            self.wake();
        }
    }

    /// Whether the queue has been started and not been stopped.
    pub fn started(&self) -> bool {
        self.lock().queue.ready()
    }

    /// Gives the notification eventfd to `action` when the queue is started and enabled.
    pub fn with_kick<R>(&self, action: impl FnOnce(&File) -> R) -> Option<R> {
        let state = self.lock();
        match &state.kick {
            Some(kick) if state.enabled && state.queue.ready() => Some(action(kick)),
            _ => None,
        }
    }

    /// Stops the queue, waits until the worker has returned all that it took, and tells the index of the next
    /// available chain. Gives back the notification eventfd, too. What is still to be given out anew stays in the log.
    pub fn stop(&self) -> (u16, Option<File>) {
        self.lock().queue.set_ready(false);
        let mut state = self.wait_idle();
        self.may_run.store(false, Ordering::Release);
        state.call = None;
        (state.queue.next_avail(), state.kick.take())
    }

    /// Waits until the worker has returned all that it took, and keeps it from taking more.
    pub fn pause(&self) -> Paused<'_> {
        self.lock().pauses += 1;
        let paused = Paused { vring: self };
        drop(self.wait_idle());
        paused
    }

    fn wait_idle(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.busy {
            // The worker may be asleep over requests of other queues.
            self.wake();
        }
        while state.busy {
            let waited = self.idle.wait_timeout(state, STUCK).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if state.busy && waited.1.timed_out() {
                // A frontend that fills its eventfds on purpose must not keep us here.
                [&state.call, &state.err].into_iter().flatten().for_each(|event| event.unblock());
            }
        }
        state
    }

    /// Begins a turn, if the queue runs. Only the one worker of the queue may do so, and only then may it look at the
    /// guest's memory: memory that it looked at before may be gone, unless it was at a turn all the time.
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

    /// Whether the queue has been retired since this was last asked. If so, the frontend is told.
    pub fn newly_retired(&self) -> bool {
        let mut state = self.lock();
        let news = std::mem::take(&mut state.retirement_is_news);
        let err = state.err.clone().filter(|_| news);
        drop(state);
        if let Some(err) = err {
            err.signal();
        }
        news
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let mut state = self.vring.lock();
        state.pauses -= 1;
        drop(state);
        // The worker may have seen a notification and found that the queue does not run.
        self.vring.wake();
    }
}

impl Turn<'_> {
    /// Takes up to `most` chains, [`BATCH`] at the most; none when the queue does not run any more. What was taken must
    /// be returned with [`Turn::give_back`], in any order.
    ///
    /// The driver may hold back its notifications after this: see [`Turn::arm`].
    pub fn take<'m>(&self, memory: &'m GuestMemoryMmap, most: usize, chains: &mut Vec<TakenChain<'m>>) {
        let mut guard = self.vring.lock();
        let state = &mut *guard;
        if !state.runs() || most == 0 {
            return;
        }
        if !state.ring_is_in(memory) {
            // Not the driver's doing: its addresses were in memory when the ring was set up. Frontends may take a region away
            // to give it back in another shape, and leave the queue running meanwhile (QEMU does).
            state.lacks_memory = true;
            warn(format_args!("queue {} waits: the frontend has taken away the memory of its ring", self.vring.index));
            return;
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
    }

    /// Walks a chain that has been taken once more: the memory has grown.
    pub fn walk<'m>(&self, memory: &'m GuestMemoryMmap, head: u16) -> Result<Chain<'m>, ChainError> {
        self.vring.lock().walk(memory, head)
    }

    /// Whether there may be more to take: not when somebody waits for the end of the turn, or the queue was retired.
    pub fn goes_on(&self) -> bool {
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
    pub fn give_back(&self, memory: &GuestMemoryMmap, completions: &[Completion]) {
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
fn interrupt(state: MutexGuard<'_, State>, wanted: bool) {
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

impl State {
    /// Also of a queue that is paused.
    fn may_run(&self) -> bool {
        self.enabled && self.queue.ready() && self.retired.is_none()
    }

    fn runs(&self) -> bool {
        self.may_run() && self.pauses == 0 && !self.lacks_memory
    }

    fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        most: usize,
        chains: &mut Vec<TakenChain<'m>>,
    ) -> Result<(), &'static str> {
        // Without EVENT_IDX this spares notifications while we look; with it, the call does nothing.
        self.queue.disable_notification(memory).map_err(|_| "the used ring cannot be written")?;
        let size = self.queue.size();
        let max_descriptors = self.queue.max_size();
        let again = most.min(self.resubmit.len());
        for _ in 0..again {
            let Some(head) = self.resubmit.pop_front() else { break };
            chains.push(TakenChain { head, chain: self.walk(memory, head) });
        }
        let available =
            self.queue.iter(memory).map_err(|_| "the available index runs ahead by more than the queue size")?;
        for descriptors in available.take(most - again) {
            let head = descriptors.head_index();
            if head >= size {
                return Err("an available head is not in the descriptor table");
            }
            if !self.in_flight.insert(head) {
                return Err("a head was made available that the device has not returned yet");
            }
            if let Some(log) = &mut self.log {
                log.taken(head);
            }
            // An indirect chain may be as long as the device's largest queue, which is what `seg_max` is made from,
            // also on a queue that the driver made smaller.
            chains.push(TakenChain { head, chain: Chain::walk(memory, descriptors, max_descriptors) });
        }
        Ok(())
    }

    /// Whether all of the ring is in this memory.
    fn ring_is_in(&self, memory: &GuestMemoryMmap) -> bool {
        let (queue, size) = (&self.queue, usize::from(self.queue.size()));
        // virtio 1.4, 2.7; without the notification indices, which not all drivers have.
        let parts = [
            (queue.desc_table(), 16 * size, Permissions::Read),
            (queue.avail_ring(), 4 + 2 * size, Permissions::Read),
            (queue.used_ring(), 4 + 8 * size, Permissions::Write),
        ];
        parts.into_iter().all(|(at, bytes, access)| memory.check_range(GuestAddress(at), bytes, access))
    }

    /// Walks a chain whose head need not be in the available ring.
    fn walk<'m>(&self, memory: &'m GuestMemoryMmap, head: u16) -> Result<Chain<'m>, ChainError> {
        let table = GuestAddress(self.queue.desc_table());
        let descriptors = Descriptors::new(memory, table, self.queue.size(), head);
        Chain::walk(memory, descriptors, self.queue.max_size())
    }

    /// Goes on without in-flight tracking when its region is gone.
    fn check_log(&mut self, index: usize) {
        if self.log.as_ref().is_some_and(QueueLog::is_lost) {
            self.log = None;
            warn(format_args!(
                "queue {index} goes on without in-flight tracking: the file of the in-flight region has been cut off; if this \
                 program is killed now, requests in flight are lost"
            ));
        }
    }

    fn retire(&mut self, index: usize, reason: &'static str) {
        if self.retired.is_none() {
            // A guest can break a ring, reset the device and do it again.
            static LIMIT: RateLimit = RateLimit::new();
            if let Some(suppressed) = LIMIT.allow() {
                log::error!(
                    "queue {index} is stopped: {reason}; it goes on when the driver resets the device ({suppressed} \
                     such lines left out before)"
                );
            }
            self.set_retired(reason);
        }
    }

    fn set_retired(&mut self, reason: &'static str) {
        self.retired = Some(reason);
        self.retirement_is_news = true;
    }

    fn restart(&mut self) {
        self.lacks_memory = false;
        self.retired = None;
        self.retirement_is_news = false;
        self.in_flight.clear();
        self.resubmit.clear();
    }

    /// Goes on where the log says that the queue was left.
    fn recover(&mut self, index: usize) -> Result<(), &'static str> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let used = self.queue.next_used();
        let size = self.queue.size();
        let recovery = log.recover(size, used)?;
        if log.is_lost() {
            return Err("the file of the in-flight region has been cut off, so nobody knows what is in flight");
        }
        let heads = match recovery {
            Recovery::Fresh => return Ok(()),
            Recovery::Resubmit(heads) => heads,
            Recovery::TooSmall => {
                // The one number only repeats the other: no reason to refuse the ring.
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    log::warn!(
                        "queue {index}: the frontend's in-flight region is for rings of {}, this ring has {size}: it is \
                         served without tracking, and what is in flight when this program is killed is lost. Give the \
                         frontend a queue size of {size} to have it tracked (said once)",
                        log.size()
                    );
                });
                self.log = None;
                return Ok(());
            }
        };
        if !heads.is_empty() {
            log::info!("queue {index}: {} requests were in flight and are served again", heads.len());
        }
        // All that was taken has either been returned or is in flight. At most as many as the ring has descriptors.
        self.queue.set_next_avail(used.wrapping_add(heads.len() as u16));
        for &head in &heads {
            self.in_flight.insert(head);
        }
        self.resubmit = heads.into();
        // The backend before this one may have returned chains without a word.
        self.interrupt_due = true;
        Ok(())
    }
}

/// Logs what a frontend does, which it may do again and again.
fn warn(message: std::fmt::Arguments<'_>) {
    static LIMIT: RateLimit = RateLimit::new();
    if let Some(suppressed) = LIMIT.allow() {
        log::warn!("{message} ({suppressed} such lines left out before)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every head of the smallest and largest queues, in and out of range.
    #[test]
    fn a_head_is_in_the_set_once() {
        for size in [1u16, 2, 64, 128, 1024, 32768] {
            let mut set = HeadSet::new(size);
            for head in 0..size {
                assert!(set.insert(head) && !set.insert(head), "{size} {head}");
            }
            // What is out of range is refused by the caller, and by the set from the next word on.
            (size.max(64)..=u16::MAX).for_each(|head| assert!(!set.insert(head), "{size} {head}"));
            for head in 0..size {
                set.remove(head);
                assert!(set.insert(head), "{size} {head}");
            }
            set.remove(u16::MAX);
            set.clear();
            assert!((0..size).all(|head| set.insert(head)));
        }
    }
}
