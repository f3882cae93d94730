// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One keyslot: programmed and evicted on the control path, used on the I/O path, with no lock between the two.
//!
//! A slot has two cells, of which at most one is published. A command claims the slot, expands the new key into the
//! spare cell, publishes it, waits until no request in flight uses the old cell, and wipes that. So a request with a
//! [`KeyHandle`] keeps the key that the slot held when it came, and a command completes only when the old key is gone.
//!
//! Waiting is always a future and blocks no thread.

use std::cell::UnsafeCell;
use std::future::poll_fn;
use std::io;
use std::sync::PoisonError;
use std::task::{Poll, Waker};

// These decide the order of threads. The tests in `interleavings` replace them.
#[cfg(all(test, shuttle))]
use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};
#[cfg(not(all(test, shuttle)))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use super::KeyConfig;
use crate::secret::SecretBox;
use scattered_xts::{Implementation, KEY_BYTES, XtsKey};

/// The key in a programmed slot.
pub struct ProgrammedKey {
    /// The expanded key.
    pub xts: XtsKey,
    /// What the key was programmed for.
    pub config: KeyConfig,
}

/// A key and the number of requests in flight that use it.
struct Cell {
    /// Handles to the key, held by requests and by workers that keep it. Also, for a moment, requests that saw an older
    /// state and step back.
    users: AtomicU32,
    /// Blank unless the slot's state names this cell or its last users are not gone yet.
    key: UnsafeCell<ProgrammedKey>,
}

pub(super) struct Slot {
    /// 0: empty. Else `generation << 1 | index of the published cell`, the generation never repeating.
    state: AtomicU64,
    cells: SecretBox<[Cell; 2]>,
    /// A command has claimed the slot: commands are serialised. The I/O path never reads this.
    claimed: AtomicBool,
    /// Commands wait for the claim or for the last user of a key. Whoever changes either must wake them.
    waiting: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

// SAFETY: the cells' `UnsafeCell`s are written only by the holder of the claim, and only while no request can use the
// cell: before the state names it, and after the state has stopped naming it and `users` was seen as 0. A request
// counts itself in `users` and then checks that the state still names the cell (both sequentially consistent), so
// either it sees the new state and steps back, or the writer sees its count and waits.
unsafe impl Sync for Slot {}

/// Whether a command found a key in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicted {
    /// The slot held a key, which is wiped now.
    Key,
    /// The slot was empty.
    Nothing,
}

impl Slot {
    /// An empty slot in locked memory.
    pub(super) fn new(implementation: Implementation) -> io::Result<Self> {
        let blank = || ProgrammedKey {
            xts: XtsKey::blank(implementation),
            config: KeyConfig { data_unit_bits: 0, dun_bytes: 0 },
        };
        let cell = || Cell { users: AtomicU32::new(0), key: UnsafeCell::new(blank()) };
        Ok(Self {
            state: AtomicU64::new(0),
            cells: SecretBox::new([cell(), cell()])?,
            claimed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            wakers: Mutex::default(),
        })
    }

    /// Claims the slot. Waits for other commands.
    pub(super) async fn claim(&self) -> Claim<'_> {
        self.until(|| !self.claimed.swap(true, SeqCst)).await;
        let claim = Claim { slot: self, old: 0 };
        // A cancelled command has not waited for the users of the old key.
        let spare = self.cell(spare(self.state.load(SeqCst)));
        self.until(|| spare.users.load(SeqCst) == 0).await;
        claim
    }

    /// Waits until `condition` holds. [`Slot::wake`] makes it check again.
    async fn until(&self, mut condition: impl FnMut() -> bool) {
        poll_fn(|context| {
            if condition() {
                return Poll::Ready(());
            }
            {
                let mut wakers = lock(&self.wakers);
                if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    wakers.push(context.waker().clone());
                }
                self.waiting.store(true, SeqCst);
            }
            // Checks again: a change before `waiting` was set has woken nobody.
            if condition() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Makes waiting commands check again.
    fn wake(&self) {
        if self.waiting.load(SeqCst) {
            let wakers = {
                let mut wakers = lock(&self.wakers);
                self.waiting.store(false, SeqCst);
                std::mem::take(&mut *wakers)
            };
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// The key that the slot holds now, or `None` when it is empty.
    pub(super) fn acquire(&self) -> Option<KeyHandle<'_>> {
        loop {
            let state = self.state.load(SeqCst);
            if state == 0 {
                return None;
            }
            self.cell(state).users.fetch_add(1, SeqCst);
            // Dropping the handle decrements the count, even if the slot was reprogrammed meanwhile.
            let handle = KeyHandle { slot: self, state };
            if self.state.load(SeqCst) == state {
                return Some(handle);
            }
        }
    }

    /// Restores a [parked](KeyHandle::park) handle.
    pub(super) fn unpark(&self, parked: Parked) -> KeyHandle<'_> {
        KeyHandle { slot: self, state: parked.0 }
    }

    /// Whether anybody holds a key of the slot, current or old.
    #[cfg(test)]
    pub(super) fn is_in_use(&self) -> bool {
        self.cells.iter().any(|cell| cell.users.load(SeqCst) != 0)
    }

    /// Whether each cell holds a key. No command may be in progress.
    #[cfg(test)]
    pub(super) fn cells_in_use(&self) -> [bool; 2] {
        // SAFETY: nobody has the claim, so nobody writes.
        [0, 1].map(|index| !unsafe { &*self.cell(index).key.get() }.xts.is_blank())
    }

    fn cell(&self, state: u64) -> &Cell {
        let [first, second] = &*self.cells;
        if state & 1 == 0 { first } else { second }
    }

    fn release(&self, state: u64) {
        if self.cell(state).users.fetch_sub(1, SeqCst) == 1 {
            self.wake();
        }
    }
}

/// The cell that the state does not name.
fn spare(state: u64) -> u64 {
    if state == 0 { 0 } else { (state & 1) ^ 1 }
}

/// The exclusive right to change a slot, until dropped. One change, then [`Claim::drained`].
pub struct Claim<'s> {
    slot: &'s Slot,
    /// The state before the change.
    old: u64,
}

impl Claim<'_> {
    /// Puts a key into the slot, for requests that come from now on.
    pub fn publish(&mut self, generation: u64, key: &[u8; KEY_BYTES], config: KeyConfig) {
        let slot = self.slot;
        self.old = slot.state.load(SeqCst);
        let spare = spare(self.old);
        // SAFETY: the state does not name this cell, and its former users were waited for when the slot was claimed, so
        // nobody reads it (see the `Sync` impl of `Slot`); the claim keeps other writers out.
        let cell = unsafe { &mut *slot.cell(spare).key.get() };
        cell.xts.set(key);
        cell.config = config;
        slot.state.store(generation << 1 | spare, SeqCst);
    }

    /// Empties the slot, for requests that come from now on.
    pub fn empty(&mut self) {
        self.old = self.slot.state.swap(0, SeqCst);
    }

    /// Waits for the last user of the key that the slot held before the change, and wipes that key.
    pub async fn drained(self) -> Evicted {
        if self.old == 0 {
            return Evicted::Nothing;
        }
        let cell = self.slot.cell(self.old);
        self.slot.until(|| cell.users.load(SeqCst) == 0).await;
        // SAFETY: no state names the cell any more, and it has no users; so this is the only reference.
        unsafe { &mut *cell.key.get() }.xts.wipe();
        Evicted::Key
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.slot.claimed.store(false, SeqCst);
        self.slot.wake();
    }
}

/// A request's hold on the key that its slot had when the request came. Later changes of the slot do not affect it.
pub struct KeyHandle<'s> {
    slot: &'s Slot,
    state: u64,
}

/// A hold on a key without a reference to its slot. It lasts until it is unparked and that handle is dropped.
#[must_use = "the key stays in use"]
pub(super) struct Parked(u64);

impl KeyHandle<'_> {
    /// The key.
    pub fn key(&self) -> &ProgrammedKey {
        // SAFETY: the handle was given out with the state naming this cell after `users` was raised, so the cell stays
        // unchanged until the handle is dropped (see the `Sync` impl of `Slot`).
        unsafe { &*self.slot.cell(self.state).key.get() }
    }

    /// Whether it is the key that the slot holds now.
    pub fn is_current(&self) -> bool {
        self.slot.state.load(SeqCst) == self.state
    }

    /// Which programming of the slot this key is; rises with every program command of the device.
    pub fn generation(&self) -> u64 {
        self.state >> 1
    }

    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        std::ptr::eq(self.slot, slot)
    }

    /// Keeps the hold but not the reference. Only [`Slot::unpark`] of the same slot restores it.
    pub(super) fn park(self) -> Parked {
        Parked(std::mem::ManuallyDrop::new(self).state)
    }
}

impl std::fmt::Debug for KeyHandle<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHandle").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Drop for KeyHandle<'_> {
    fn drop(&mut self) {
        self.slot.release(self.state);
    }
}

/// The lock guards no data that a panic could leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
