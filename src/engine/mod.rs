// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The emulated crypto engine and the disks behind it: executes requests.
//!
//! A request comes validated, with its pieces of guest memory, and ends with `Ok` or a [`Failure`]. This layer does not
//! know virtqueues, feature bits or status bytes, so another host controller can use it.
//!
//! Each request is one `async fn`: [`Engine::read`], [`Engine::write`], [`Engine::command`], and [`Engine::change`] for
//! requests without data. It waits at each `await` and blocks no thread: see [`Worker`].
#![forbid(unsafe_code)]

mod change;
mod channel;
mod command;
mod digested;
mod failure;
mod faulty;
mod held;
mod inline;
mod io;
mod key;
mod order;
mod pace;
mod read;
mod slots;
mod timers;
mod wait_queue;
mod worker;
mod write;

use std::sync::Arc;

use crate::digest::DigestAlgorithm;
use crate::disk::Disk;
use crate::faults::{Fate, Faults};
use crate::keyslot::{Fingerprints, KeyslotTable, PLACES, RequestKeys};
use crate::observe::Observer;
use crate::request::Request;
use crate::wrapped::{UnwrappedKeys, Wrapping};

pub use digested::MOST_REQUEST_DIGEST_BYTES;
pub use failure::{Failure, check_guest_memory};
pub use inline::Ahead;
pub use io::Io;
use pace::Pace;
pub use pace::Timing;
pub use worker::Worker;

/// The maximum number of bytes that a request moves before the worker serves others: a request may have 1 GiB. A
/// multiple of every data unit size and of the bounce buffer sizes.
const TURN: u64 = 1 << 20;

/// The maximum length of a serial number.
pub const SERIAL_BYTES: usize = 20;

/// Configuration of an engine, fixed while it lives.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EngineConfig {
    /// Number of keyslots; 0: each encrypted request brings its key along.
    pub keyslots: u16,
    /// Cache unwrapped keys that come with requests.
    pub cache_unwrapped: bool,
    /// The AES-XTS implementation.
    pub crypto_engine: scattered_xts::Implementation,
    /// Accept raw keys.
    pub raw_keys: bool,
    /// Bit i: data units of 2^i bytes.
    pub data_unit_mask: u32,
    /// The maximum number of bytes of a DUN.
    pub max_dun_bytes: u8,
    /// Digests of the ciphertext that requests may ask for.
    pub digests: Vec<DigestAlgorithm>,
    /// Bytes of a logical block, a power of two.
    pub logical_block_size: u32,
    /// Serial number, at most [`SERIAL_BYTES`].
    pub serial: String,
    /// The emulated times.
    pub timing: Timing,
}

/// An engine with its keyslots and its disks. All workers share it.
pub struct Engine {
    config: EngineConfig,
    disk: Arc<Disk>,
    /// Beside the first one, which an engine always has.
    more_disks: Vec<Arc<Disk>>,
    keyslots: Arc<KeyslotTable>,
    /// Hardware-wrapped keys, if they are offered.
    wrapping: Option<Wrapping>,
    /// Keys from requests that were unwrapped recently.
    unwrapped: Option<Arc<UnwrappedKeys>>,
    /// Fingerprints of keys from requests.
    fingerprints: Option<Fingerprints>,
    /// The engine's clock, if it is slow.
    pace: Option<Pace>,
    faults: Faults,
    observer: Arc<Observer>,
}

impl Engine {
    /// Creates an engine with empty keyslots. With `wrapping` it accepts hardware-wrapped keys. `observer` counts.
    ///
    /// # Errors
    /// When the memory for the keys cannot be allocated or locked.
    pub fn new(
        config: EngineConfig,
        wrapping: Option<Wrapping>,
        disk: Disk,
        observer: Arc<Observer>,
    ) -> std::io::Result<Self> {
        let keyslots = Arc::new(KeyslotTable::new(config.keyslots, config.crypto_engine)?);
        let pace = Pace::new(&config.timing);
        let without_slots = config.keyslots == 0;
        let caches = without_slots && config.cache_unwrapped && wrapping.is_some();
        let unwrapped = if caches { Some(Arc::new(UnwrappedKeys::new()?)) } else { None };
        Ok(Self {
            disk: Arc::new(disk),
            more_disks: Vec::new(),
            keyslots,
            wrapping,
            unwrapped,
            fingerprints: if without_slots { Some(Fingerprints::new()?) } else { None },
            pace,
            faults: Faults::new(config.keyslots),
            observer,
            config,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Puts another disk behind the engine: see [`Io::on_disk`]. All disks share its keyslots.
    pub fn add_disk(&mut self, disk: Disk) {
        self.more_disks.push(Arc::new(disk));
    }

    /// The disk, or the first one of several.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// All disks. There is at least one.
    pub fn disks(&self) -> impl Iterator<Item = &Arc<Disk>> {
        std::iter::once(&self.disk).chain(&self.more_disks)
    }

    /// The keyslots.
    pub fn keyslots(&self) -> &KeyslotTable {
        &self.keyslots
    }

    /// Whether encrypted requests bring their keys along, and there are no keyslots.
    pub fn has_keys_in_requests(&self) -> bool {
        self.config.keyslots == 0
    }

    /// Whether it accepts hardware-wrapped keys.
    pub fn takes_wrapped_keys(&self) -> bool {
        self.wrapping.is_some()
    }

    /// Accepts also the faults of a UFS host controller. That ends requests with [`Failure::Controller`].
    pub fn accept_controller_faults(&mut self) {
        self.faults.accept_controller_faults();
    }

    /// The faults, which may change at any time.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Its statistics.
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Checks that this many workers can lock the memory that they need.
    ///
    /// # Errors
    /// Those of the system.
    pub fn check_locked_memory(&self, workers: usize) -> std::io::Result<()> {
        self.request_keys(workers).map(drop)
    }

    /// Places for the keys that come with the requests of this many workers.
    fn request_keys(&self, workers: usize) -> std::io::Result<RequestKeys> {
        let places = if self.has_keys_in_requests() { PLACES.saturating_mul(workers) } else { 0 };
        RequestKeys::new(places, self.config.crypto_engine)
    }

    /// Creates the state of a worker.
    ///
    /// # Errors
    /// When there is no memory, or no access to the disk.
    pub fn worker(&self) -> std::io::Result<Worker> {
        Worker::new(self)
    }

    /// Wipes cached unwrapped keys.
    pub fn forget_unwrapped(&self) {
        if let Some(unwrapped) = &self.unwrapped {
            unwrapped.clear();
        }
    }

    /// The emulated engine has nothing to do. No request is in flight, and some have ended earlier than it would have ended them.
    pub fn forget_backlog(&self) {
        if let Some(pace) = &self.pace {
            pace.clear();
        }
    }

    /// Loses all keys, as in a reset. Waits for requests that use them, so a worker must not call it. Returns the
    /// number of keys.
    pub fn lose_keys(&self) -> usize {
        pollster::block_on(self.lose_keys_in_use())
    }

    /// The same, with an end that is the caller's to wait for.
    pub async fn lose_keys_in_use(&self) -> usize {
        self.forget_unwrapped();
        self.empty_all_slots().await
    }

    /// Makes everything durable that was written, and waits for it.
    ///
    /// # Errors
    /// Those of the system. After a failure it always fails.
    pub fn flush(&self) -> std::io::Result<()> {
        let mut result = Ok(());
        for disk in self.disks() {
            let flushed = disk.image().flush();
            if flushed.is_ok() {
                self.observer.count_flush();
            }
            result = result.and(flushed);
        }
        result
    }

    /// Executes a request.
    ///
    /// # Errors
    /// Why it failed, or was done only in part.
    pub async fn serve<'e>(&'e self, io: &mut Io<'e>, request: &mut Request<'_>) -> Result<(), Failure> {
        let fate = if self.faults.armed() { self.fate(io, request) } else { None };
        match fate {
            Some(fate) => Box::pin(self.serve_faulty(io, request, fate)).await?,
            None => self.execute(io, request, None).await?,
        }
        io.write_digests()
    }

    async fn execute<'e>(
        &'e self,
        io: &mut Io<'e>,
        request: &mut Request<'_>,
        fate: Option<&Fate>,
    ) -> Result<(), Failure> {
        match request {
            Request::Read { extent, crypto, payload } => self.read(io, *extent, crypto.as_ref(), payload, fate).await,
            Request::Write { extent, crypto, payload } => self.write(io, *extent, crypto.as_ref(), payload, fate).await,
            Request::Control(command) => self.command(io, command, fate).await,
            request => self.change(io, request).await,
        }
    }
}
