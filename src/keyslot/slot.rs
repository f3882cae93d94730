// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One keyslot: programmed and evicted on the control path, used on the I/O path, with no lock between the two.
//!
//! A slot has two cells, of which at most one is published. Programming expands the new key into the other cell,
//! publishes it, waits until no request in flight uses the old cell, and wipes that. So a request that holds a
//! [`KeyHandle`] keeps the key that the slot held when it came, and programming returns only when the old key is gone.

use std::cell::UnsafeCell;
use std::io;
use std::sync::{Arc, PoisonError};

// What decides in which order threads go on; the tests in `interleavings` take that into their own hands.
#[cfg(all(test, shuttle))]
use shuttle::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};
#[cfg(not(all(test, shuttle)))]
use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use super::KeyConfig;
use crate::secret::SecretBox;
use scattered_xts::{Implementation, KEY_BYTES, XtsKey};

/// What a programmed slot holds.
pub struct ProgrammedKey {
    /// The expanded key.
    pub xts: XtsKey,
    /// What the key was programmed for.
    pub config: KeyConfig,
}

/// A key and the number of requests in flight that use it.
struct Cell {
    /// Handles to the key: of requests that use it, and of workers that keep it. Besides, for a moment, requests that
    /// looked at an older state and step back.
    users: AtomicU32,
    /// Blank unless the slot's state names this cell, or its last users have not gone yet.
    key: UnsafeCell<ProgrammedKey>,
}

/// A keyslot.
pub(super) struct Slot {
    /// 0: empty. Else `generation << 1 | index of the published cell`, the generation never repeating.
    state: AtomicU64,
    cells: SecretBox<[Cell; 2]>,
    /// Held while the slot is programmed or evicted: those are serialised. Never taken on the I/O path.
    control: Mutex<()>,
    /// A programming thread waits for users to go: the last one has to wake it.
    draining: AtomicBool,
    drained: Condvar,
    drain_lock: Mutex<()>,
}

// SAFETY: the cells' `UnsafeCell`s are written only by the holder of `control`, and only while no request can use the
// cell: before the state names it, and after the state has stopped naming it and `users` was seen as 0. A request
// counts itself in `users` and then checks that the state still names the cell (both sequentially consistent), so
// either it sees the new state and steps back, or the writer sees its count and waits.
unsafe impl Sync for Slot {}

/// Whether an eviction found something.
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
            control: Mutex::new(()),
            draining: AtomicBool::new(false),
            drained: Condvar::new(),
            drain_lock: Mutex::new(()),
        })
    }

    /// Puts a key into the slot. Returns whether it replaced one, after the old key's last request has gone.
    pub(super) fn program(&self, generation: u64, key: &[u8; KEY_BYTES], config: KeyConfig) -> Evicted {
        let _control = lock(&self.control);
        let old = self.state.load(SeqCst);
        let spare = if old == 0 { 0 } else { (old & 1) ^ 1 };
        // SAFETY: the state does not name this cell, and its former users were waited for when it was retired, so
        // nobody reads it (see the `Sync` impl); `control` keeps other writers out.
        let cell = unsafe { &mut *self.cell(spare).key.get() };
        cell.xts.set(key);
        cell.config = config;
        self.state.store(generation << 1 | spare, SeqCst);
        self.retire(old)
    }

    /// Empties the slot. Returns after the last request that used the key has gone.
    pub(super) fn evict(&self) -> Evicted {
        let _control = lock(&self.control);
        let old = self.state.swap(0, SeqCst);
        self.retire(old)
    }

    /// Waits for the users of the cell that `old` names and wipes it. The state must have stopped naming it.
    fn retire(&self, old: u64) -> Evicted {
        if old == 0 {
            return Evicted::Nothing;
        }
        let cell = self.cell(old);
        if cell.users.load(SeqCst) != 0 {
            let mut guard = lock(&self.drain_lock);
            self.draining.store(true, SeqCst);
            while cell.users.load(SeqCst) != 0 {
                guard = self.drained.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.draining.store(false, SeqCst);
        }
        // SAFETY: no state names the cell any more, and it has no users; so this is the only reference.
        unsafe { &mut *cell.key.get() }.xts.wipe();
        Evicted::Key
    }

    /// The key that the slot holds now, or `None` when it is empty.
    pub(super) fn acquire(self: &Arc<Self>) -> Option<KeyHandle> {
        loop {
            let state = self.state.load(SeqCst);
            if state == 0 {
                return None;
            }
            self.cell(state).users.fetch_add(1, SeqCst);
            // The handle counts down again when dropped, also when the slot was reprogrammed in between.
            let handle = KeyHandle { slot: Arc::clone(self), state };
            if self.state.load(SeqCst) == state {
                return Some(handle);
            }
        }
    }

    /// Whether requests use the key that the slot holds now, or one that it held before: somebody else may be waiting for
    /// them, with `control` locked.
    pub(super) fn is_in_use(&self) -> bool {
        self.cells.iter().any(|cell| cell.users.load(SeqCst) != 0)
    }

    /// Whether there is a key in each cell.
    #[cfg(test)]
    pub(super) fn cells_in_use(&self) -> [bool; 2] {
        let _control = lock(&self.control);
        // SAFETY: `control` keeps others from writing.
        [0, 1].map(|index| !unsafe { &*self.cell(index).key.get() }.xts.is_blank())
    }

    fn cell(&self, state: u64) -> &Cell {
        let [first, second] = &*self.cells;
        if state & 1 == 0 { first } else { second }
    }

    fn release(&self, state: u64) {
        if self.cell(state).users.fetch_sub(1, SeqCst) == 1 && self.draining.load(SeqCst) {
            let _guard = lock(&self.drain_lock);
            self.drained.notify_all();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // No handle is left: each holds an `Arc` to the slot.
        self.evict();
    }
}

/// A request's hold on the key that its slot had when the request was taken. Not tied to the slot's later contents.
pub struct KeyHandle {
    slot: Arc<Slot>,
    state: u64,
}

impl KeyHandle {
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
}

impl std::fmt::Debug for KeyHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHandle").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Drop for KeyHandle {
    fn drop(&mut self) {
        self.slot.release(self.state);
    }
}

/// The locks here guard no data that a panic could leave half-changed.
fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
