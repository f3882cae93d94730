// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device: the order of the stages, and the one place where errors become statuses.
//!
//! queue -> **parse** ([`request`](crate::request)) -> **execute** ([`engine`](crate::engine)) -> status -> queue
#![forbid(unsafe_code)]

mod config_space;
mod pause;
mod record;
mod resize;
mod status;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::disk::Disk;
use crate::engine::{Ahead, Engine, EngineConfig, Failure, Io, Worker, check_guest_memory};
use crate::faults::Faults;
use crate::observe::{Observer, Stats};
use crate::protocol::{AES_256_XTS_KEY_BYTES, Status, feature};
use crate::queue::{Beginning, Chain, wait_for_workers};
use crate::request::{ControlCommand, CryptoAccess, Limits, Refusal, Request, StatusByte, parse};
use crate::tasks::Token;
use crate::vhost::{Notifier, VirtioDevice};
use crate::wrapped::Wrapping;

pub use config_space::seg_max;
use pause::Phase;
use resize::ResizeNotifier;
pub use resize::{FrontendKnows, Resized};
pub use status::{DeviceStatus, EngineStatus, FeatureStatus, ImageStatus, KeyStatus, KeyslotStatus, QueueStatus};

const _: () = assert!(AES_256_XTS_KEY_BYTES == scattered_xts::KEY_BYTES);

/// Configuration of a device, fixed while it lives.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeviceConfig {
    /// The engine.
    #[serde(flatten)]
    pub engine: EngineConfig,
    /// Request queues.
    pub num_queues: u16,
    /// The maximum queue size, a power of two.
    pub queue_size: u16,
    /// The maximum number of data segments per request, as told to the driver. They must fit in its rings, which the
    /// driver sets up later: see [`seg_max`].
    pub seg_max: u16,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Completed writes may be in the cache until a flush. The driver can change it.
    pub writeback: bool,
    /// Keep keys on a reset and on new features. A disconnect always clears them: the next frontend may belong to
    /// another guest.
    pub keep_keys_on_reset: bool,
    /// A driver that negotiated neither the control virtqueue nor inline encryption may use keyslots in-band: it sends
    /// the commands on its request queues.
    pub in_band: bool,
    /// The driver must use its platform's DMA API.
    pub access_platform: bool,
    /// It is a UFS host controller, and each disk is a logical unit.
    pub ufs: bool,
}

/// A block device with inline encryption.
pub struct Device {
    config: DeviceConfig,
    engine: Engine,
    features: AtomicU64,
    writeback: AtomicBool,
    /// A driver wrote it before its queues began.
    chosen_early: AtomicBool,
    resize_notifier: ResizeNotifier,
    /// Whether the current driver programmed the keys.
    phase: Mutex<Phase>,
    /// The highest queue started since all were stopped or the device was reset.
    last_queue: AtomicUsize,
}

/// Maps errors to statuses. No other code does.
pub(crate) fn status(failure: &Failure) -> Status {
    match failure {
        Failure::Unsupported => Status::Unsupp,
        // The file system or disk below the image does not support the operation after all.
        Failure::Disk(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Status::Unsupp,
        Failure::NoKey => Status::NoKey,
        Failure::Malformed
        | Failure::NoMemory
        | Failure::NoSuchSlot(_)
        | Failure::Transfer(_)
        | Failure::Wrap(_)
        | Failure::Keep(_)
        | Failure::Fault
        | Failure::Controller(_)
        | Failure::GuestMemory
        | Failure::Disk(_) => Status::IoErr,
    }
}

/// A chain that has been parsed.
pub struct PendingRequest<'m> {
    io: Io<'m>,
    request: Result<Request<'m>, Refusal>,
    status: StatusByte<'m>,
}

impl Device {
    /// Makes a device with empty keyslots. With `wrapping` it offers hardware-wrapped keys.
    ///
    /// # Errors
    /// When the memory for the keys cannot be allocated or locked.
    pub fn new(config: DeviceConfig, wrapping: Option<Wrapping>, disk: Disk) -> io::Result<Self> {
        let (queues, slots) = (usize::from(config.num_queues) + 1, config.engine.keyslots.into());
        let observer = Observer::new(queues, slots, config.engine.crypto_engine.name());
        let mut engine = Engine::new(config.engine.clone(), wrapping, disk, observer)?;
        if config.ufs {
            engine.accept_controller_faults();
        }
        let (features, writeback) = (AtomicU64::new(0), AtomicBool::new(config.writeback));
        let (resize_notifier, phase, last_queue) = (ResizeNotifier::default(), Mutex::default(), AtomicUsize::new(0));
        let chosen_early = AtomicBool::new(false);
        Ok(Self { config, engine, features, writeback, chosen_early, resize_notifier, phase, last_queue })
    }

    /// Adds a disk, which is another logical unit of a UFS host controller.
    pub fn add_disk(&mut self, disk: Disk) {
        self.engine.add_disk(disk);
    }

    /// Its configuration.
    pub fn settings(&self) -> &DeviceConfig {
        &self.config
    }

    /// The engine that executes its requests.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The counters since the device was created.
    pub fn stats(&self) -> Stats {
        self.observer().stats()
    }

    /// Counts requests, and records latencies and traces on demand.
    pub fn observer(&self) -> &Arc<Observer> {
        self.engine.observer()
    }

    /// The device's faults, which may change at any time.
    pub fn faults(&self) -> &Faults {
        self.engine.faults()
    }

    /// Creates what this many workers need from the system, before the sandbox starts: see [`Disk::prepare`].
    ///
    /// # Errors
    /// Those of [`Disk::prepare`].
    pub fn prepare(&self, workers: usize) -> io::Result<()> {
        self.engine.disks().try_for_each(|disk| disk.prepare(workers))
    }

    /// Makes everything durable that the guest has written.
    ///
    /// # Errors
    /// Those of the system. After a failure it always fails.
    pub fn flush(&self) -> io::Result<()> {
        self.engine.flush()
    }

    /// Loses all keys, as in a reset of the engine. Returns their number, when no request uses them any more.
    pub fn reset_engine(&self) -> usize {
        let lost = wait_for_workers(self.engine.lose_keys_in_use());
        self.observer().count_engine_reset(lost);
        lost
    }

    /// Starts a trace into a file, and ends the previous one.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn start_trace(&self, file: &Path) -> io::Result<()> {
        if self.engine.disks().any(|disk| disk.image().is_at(file)) {
            return Err(io::Error::other("it is an image; name another file"));
        }
        self.observer().start_trace(file)
    }

    /// The disk of a device with virtqueues.
    fn disk(&self) -> &Disk {
        self.engine.disk()
    }

    fn negotiated(&self, feature: u64) -> bool {
        self.features.load(Ordering::Acquire) & feature != 0
    }

    fn limits(&self) -> Limits {
        Limits {
            capacity: self.disk().image().len(),
            logical_block_size: self.config.engine.logical_block_size,
            read_only: self.disk().image().read_only(),
            features: self.features.load(Ordering::Acquire),
            crypto: self.crypto_access(),
        }
    }

    fn crypto_access(&self) -> CryptoAccess {
        if self.negotiated(feature::INLINE_ENCRYPTION) {
            CryptoAccess::ControlQueue
        } else if self.config.in_band && !self.negotiated(feature::CTRL_VQ) {
            CryptoAccess::InBand
        } else {
            CryptoAccess::None
        }
    }

    /// Whether a write must be durable before it completes: the driver cannot flush, or chose write-through.
    fn write_through(&self) -> bool {
        !self.negotiated(feature::FLUSH) || !self.writeback.load(Ordering::Acquire)
    }

    /// Loses the keys after a reset by the driver, unless they are kept. Returns how many were lost.
    fn lose_keys(&self) -> usize {
        let lost = if self.config.keep_keys_on_reset { 0 } else { self.engine.lose_keys() };
        self.engine.keyslots().set_usable(true);
        lost
    }
}

impl VirtioDevice for Device {
    type Worker = Worker;
    type PendingRequest<'m> = PendingRequest<'m>;
    type Prefetch = Option<Ahead>;

    fn features(&self) -> u64 {
        self.offered_features()
    }

    fn queue_count(&self) -> usize {
        usize::from(self.config.num_queues) + 1
    }

    fn queue_size(&self) -> u16 {
        self.config.queue_size
    }

    fn set_features(&self, mut features: u64) {
        if features & feature::CTRL_VQ == 0 {
            // Without it, keys could not be programmed.
            features &= !feature::INLINE_ENCRYPTION;
        }
        if self.is_stopped() && features == self.features.load(Ordering::Acquire) {
            // A machine that resumes after a pause does this, too.
            return;
        }
        let chosen = self.chosen_early.load(Ordering::Acquire).then(|| self.writeback.load(Ordering::Acquire));
        self.reset();
        self.negotiate(features);
        if let Some(writeback) = chosen.filter(|_| self.negotiated(feature::CONFIG_WCE)) {
            self.writeback.store(writeback, Ordering::Release);
        }
    }

    fn config(&self) -> Vec<u8> {
        self.config_bytes()
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        self.write_config_bytes(offset, data);
    }

    fn connected(&self) {
        self.resize_notifier.set_connected(true);
    }

    fn set_notifier(&self, notifier: Notifier) {
        self.resize_notifier.set_notifier(notifier);
    }

    fn hung_up(&self) {
        self.resize_notifier.set_connected(false);
    }

    fn reset(&self) {
        self.forget_driver();
        self.observer().count_reset(self.lose_keys());
    }

    fn disconnected(&self) {
        self.forget_driver();
        self.observer().count_reset(self.engine.lose_keys());
        self.engine.keyslots().set_usable(true);
    }

    fn stopped(&self) {
        self.all_stopped();
    }

    fn queue_begins(&self, queue: usize, beginning: Beginning) {
        self.begins(queue, beginning);
    }

    fn worker(&self) -> io::Result<Worker> {
        self.engine.worker()
    }

    fn parse<'m>(&self, worker: &'m Worker, queue: usize, head: u16, chain: Chain<'m>) -> PendingRequest<'m> {
        let crate::request::ParsedChain { mut request, room, status } = parse(chain, self.role(queue), &self.limits());
        if let Err(failure) = check_guest_memory() {
            failure.report();
            // Zeroes in place of missing memory may have been parsed.
            request = Err(Refusal { request_type: None, status: self::status(&failure), malformed: false });
        }
        PendingRequest { io: Io::new(worker, queue, head, self.write_through(), room), request, status }
    }

    fn bytes(&self, parsed: &PendingRequest<'_>) -> u64 {
        parsed.request.as_ref().map_or(0, Request::bytes)
    }

    fn to_prefetch(&self, parsed: &PendingRequest<'_>) -> Option<Ahead> {
        parsed.request.as_ref().ok().and_then(Ahead::of)
    }

    fn prefetch(&self, worker: &Worker, what: Option<Ahead>) {
        if let Some(what) = what {
            self.engine.prefetch(worker, what);
        }
    }

    /// Executes a request. Every request ends here.
    fn serve<'m>(&'m self, token: Token, mut parsed: PendingRequest<'m>) -> impl Future<Output = u32> {
        parsed.io.token = token;
        // By reference, so that the future holds the request once.
        async move {
            let PendingRequest { io, request, status: status_byte } = &mut parsed;
            let written = match request {
                Ok(request) => {
                    io.record.describe(request);
                    if let Request::Control(ControlCommand::Program(_) | ControlCommand::Evict { .. }) = request {
                        self.claim_keyslots();
                    }
                    // If guest memory is missing, the data may be lost.
                    let served = self.engine.serve(io, request).await.and_then(|()| check_guest_memory());
                    let status = match served {
                        Ok(()) => Status::Ok,
                        Err(failure) => {
                            failure.report();
                            status(&failure)
                        }
                    };
                    io.record.finish(status);
                    status_byte.finish(status, &io.room)
                }
                Err(refusal) => {
                    log::debug!("a request is refused: {refusal:?}");
                    io.record.describe_refusal(refusal);
                    let Refusal { status, malformed, .. } = refusal;
                    if *malformed {
                        status_byte.finish_malformed(*status)
                    } else {
                        status_byte.finish(*status, &io.room)
                    }
                }
            };
            io.finished();
            written
        }
    }

    fn queue_running(&self, queue: usize, running: bool) {
        self.observer().set_queue_running(queue, running);
        if running {
            self.resize_notifier.queue_started();
        }
    }

    fn queue_broken(&self, queue: usize) {
        self.observer().set_queue_running(queue, false);
        self.observer().count_broken_queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_image_cannot_do_is_no_error_of_the_disk() {
        let of = |code| status(&Failure::Disk(std::io::Error::from_raw_os_error(code)));
        assert_eq!((of(libc::EOPNOTSUPP), of(libc::EIO)), (Status::Unsupp, Status::IoErr));
    }
}
