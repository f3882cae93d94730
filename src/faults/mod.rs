// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fault injection: what goes wrong, for which requests, and when. `docs/faults.md` has the grammar.
//!
//! This module decides and changes no request. `engine/faulty.rs` applies a [`Fate`], and [`BrokenEngine`] replaces the
//! healthy engine for a request that meets broken hardware. Without a fault, a request costs one relaxed load of an
//! atomic.

#![forbid(unsafe_code)]

mod broken;
mod condition;
mod fate;
mod kept;
mod kind;
mod spec;
mod words;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use serde::Serialize;

use crate::lock::lock;
pub use broken::BrokenEngine;
pub use condition::{Op, Subject};
pub use fate::{Breakage, Fate, Loss, WhichKey};
pub use kept::{KeepError, KeptKeys};
pub use kind::{ControllerFault, FaultKind, Short};
pub use spec::{Spec, SpecError};

/// All faults of a device; they can be added and cleared while it serves requests.
pub struct Faults {
    /// Whether there is any.
    armed: AtomicBool,
    /// How often faults have struck, including those that were cleared.
    struck: AtomicU64,
    table: Mutex<Table>,
    /// For engines that use a wrong key.
    pub kept: KeptKeys,
    /// The device is a UFS host controller.
    has_controller: bool,
}

#[derive(Default)]
struct Table {
    faults: Vec<Fault>,
    last_id: u64,
}

struct Fault {
    id: u64,
    spec: Spec,
    added: Instant,
    matched: u64,
    struck: u64,
}

/// A fault in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultStatus {
    /// Its number, which is not reused.
    pub id: u64,
    /// Its specification.
    pub spec: String,
    /// Requests that met its conditions, apart from `nth`, `count` and `probability`.
    pub matched: u64,
    /// Requests that it has struck.
    pub struck: u64,
}

/// No fault has this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {0}; `fault list` shows all")]
pub struct NoSuchFault(pub u64);

/// Why a fault is not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// What is wrong with the text.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It is a fault of another kind of device.
    #[error("{0}: this is for a UFS host controller; start the device with --ufs")]
    NoController(String),
    /// There is no memory for the keys that it needs.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

impl Faults {
    /// No faults yet, for a device with this many keyslots.
    pub fn new(keyslots: u16) -> Self {
        Self {
            armed: AtomicBool::new(false),
            struck: AtomicU64::new(0),
            table: Mutex::default(),
            kept: KeptKeys::new(keyslots),
            has_controller: false,
        }
    }

    /// Accepts also the faults of a UFS host controller.
    pub fn accept_controller_faults(&mut self) {
        self.has_controller = true;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Adds a fault for requests from now on. Returns its number.
    ///
    /// # Errors
    /// [`AddError`].
    pub fn add(&self, spec: &str) -> Result<u64, AddError> {
        self.insert(spec.parse()?)
    }

    /// Adds a fault that has been parsed.
    ///
    /// # Errors
    /// [`AddError`].
    pub fn insert(&self, spec: Spec) -> Result<u64, AddError> {
        if !self.has_controller && (spec.kind.needs_controller() || spec.condition.luns.is_some()) {
            return Err(AddError::NoController(spec.to_string()));
        }
        let mut table = self.table();
        if spec.kind.needs_kept_keys() {
            self.kept.keep()?;
        }
        table.last_id += 1;
        let id = table.last_id;
        log::info!("fault {id}: {spec}");
        table.faults.push(Fault { id, spec, added: Instant::now(), matched: 0, struck: 0 });
        self.armed.store(true, Ordering::Release);
        Ok(id)
    }

    /// All faults, the oldest first, including those whose `count` is used up.
    pub fn list(&self) -> Vec<FaultStatus> {
        self.table().faults.iter().map(Fault::status).collect()
    }

    /// Removes one fault, or all. Returns how many.
    ///
    /// # Errors
    /// [`NoSuchFault`].
    pub fn clear(&self, id: Option<u64>) -> Result<usize, NoSuchFault> {
        let mut table = self.table();
        let before = table.faults.len();
        table.faults.retain(|fault| id.is_some_and(|id| id != fault.id));
        let cleared = before - table.faults.len();
        if !table.faults.iter().any(|fault| fault.spec.kind.needs_kept_keys()) {
            self.kept.keep_no_more();
        }
        self.armed.store(!table.faults.is_empty(), Ordering::Release);
        match id {
            Some(id) if cleared == 0 => Err(NoSuchFault(id)),
            _ => {
                log::info!("{cleared} faults are cleared");
                Ok(cleared)
            }
        }
    }

    /// Whether there is any fault.
    #[inline]
    pub fn armed(&self) -> bool {
        // A request that comes while a fault is added may miss it.
        self.armed.load(Ordering::Relaxed)
    }

    /// Whether a fault still exists.
    pub fn has(&self, id: u64) -> bool {
        self.table().faults.iter().any(|fault| fault.id == id)
    }

    /// How often faults have struck requests since the device was created.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// The faults that strike a new request; `None`: none.
    pub fn strike(&self, subject: &Subject<'_>) -> Option<Box<Fate>> {
        let mut fate = None;
        for fault in &mut self.table().faults {
            if fault.strikes(subject) {
                self.struck.fetch_add(1, Ordering::Relaxed);
                log::debug!("fault {} ({}) strikes: {subject:?}", fault.id, fault.spec);
                fate.get_or_insert_with(|| Box::new(Fate::new(subject.queue))).add(fault.id, fault.spec.kind);
            }
        }
        fate
    }
}

impl Fault {
    fn status(&self) -> FaultStatus {
        FaultStatus { id: self.id, spec: self.spec.to_string(), matched: self.matched, struck: self.struck }
    }

    fn strikes(&mut self, subject: &Subject<'_>) -> bool {
        let condition = &self.spec.condition;
        if !condition.matches(subject) || self.added.elapsed() < condition.after {
            return false;
        }
        self.matched += 1;
        let strikes = condition.chosen(self.matched, self.struck);
        self.struck += u64::from(strikes);
        strikes
    }
}
