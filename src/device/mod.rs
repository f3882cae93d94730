// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device: the order of the stages, and the one place where errors become statuses.
//!
//! queue -> **parse** ([`request`](crate::request)) -> **key** ([`keyslot`](crate::keyslot)) -> **crypto**
//! ([`crypto`](crate::crypto)) -> **disk** ([`disk`](crate::disk)) -> reply -> queue. A request that waits for the disk is
//! a [`Job`] meanwhile.

mod accept;
mod config_space;
mod control;
mod controlled;
mod faulty;
mod held;
mod job;
mod lane;
mod pace;
mod record;
mod resize;
mod transfer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::crypto::Engine;
use crate::disk::{self, Disk, ZeroMode};
use crate::faults::{Fate, Faults, KeepError};
use crate::keyslot::KeyslotTable;
use crate::observe::{Observer, Record, Stats};
use crate::protocol::{ID_BYTES, Status, feature};
use crate::queue::Chain;
use crate::ratelimit::RateLimit;
use crate::request::{CryptoAccess, Limits, QueueRole, Refusal, Reply, Request};
use crate::vhost::{Notifier, Progress, Token, VirtioDevice};
use crate::wrapped::{WrapError, Wrapping};

pub use accept::Accepted;
pub use held::Let;
pub use job::Job;
use job::{Next, Work};
pub use lane::{Answer, DeviceLane};
use pace::Pace;
pub use pace::Timing;
use resize::Audience;

/// What a device is; fixed while it lives.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeviceConfig {
    /// Number of keyslots.
    pub keyslots: u16,
    /// What encrypts and decrypts.
    pub crypto_engine: Engine,
    /// Raw keys can be programmed.
    pub raw_keys: bool,
    /// Bit i: data units of 2^i bytes.
    pub data_unit_mask: u32,
    /// The most bytes a DUN may have.
    pub max_dun_bytes: u8,
    /// Request queues.
    pub num_queues: u16,
    /// Descriptors per queue, a power of two.
    pub queue_size: u16,
    /// Serial number, at most 20 bytes.
    pub serial: String,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Completed writes may be in the cache until a flush. The driver can change it.
    pub writeback: bool,
    /// How slow the engine is.
    pub timing: Timing,
    /// Keys outlive a reset, new features and a stop of all queues. A frontend that goes takes them with it all the same:
    /// the next one may be another guest's.
    pub keep_keys_on_reset: bool,
    /// A driver that negotiated neither the control virtqueue nor inline encryption may use keyslots in-band: it sends
    /// the commands on its request queues.
    pub in_band: bool,
}

/// A block device with inline encryption.
pub struct Device {
    config: DeviceConfig,
    disk: Arc<Disk>,
    keyslots: KeyslotTable,
    /// Hardware-wrapped keys, when they are offered.
    wrapping: Option<Wrapping>,
    /// The engine's clock, when it is slow.
    pace: Option<Pace>,
    /// What is to go wrong.
    faults: Faults,
    observer: Arc<Observer>,
    /// Negotiated feature bits.
    features: AtomicU64,
    /// The `writeback` field of the configuration space.
    writeback: AtomicBool,
    /// Who is told of a new size.
    audience: Audience,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the device does not offer this")]
    Unsupported,
    #[error("the request is malformed")]
    Malformed,
    #[error("the keyslot is empty")]
    NoKey,
    #[error("there is no memory for a buffer")]
    NoMemory,
    #[error(transparent)]
    NoSuchSlot(#[from] crate::keyslot::NoSuchSlot),
    #[error(transparent)]
    Transfer(#[from] crate::keyslot::TransferError),
    #[error(transparent)]
    Wrap(#[from] WrapError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error("a fault has been asked for")]
    Fault,
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Failure {
    /// The one mapping from errors to statuses.
    fn status(&self) -> Status {
        match self {
            Self::Unsupported => Status::Unsupp,
            // The image cannot do what the file system or disk below it does not offer after all.
            Self::Disk(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Status::Unsupp,
            Self::NoKey => Status::NoKey,
            Self::Malformed
            | Self::NoMemory
            | Self::NoSuchSlot(_)
            | Self::Transfer(_)
            | Self::Wrap(_)
            | Self::Keep(_)
            | Self::Fault
            | Self::Disk(_) => Status::IoErr,
        }
    }
}

/// The guest's mistakes are its own business; trouble of the host's is the user's.
fn report(failure: &Failure) {
    static LIMIT: RateLimit = RateLimit::new();
    match failure {
        Failure::Disk(error) => {
            if let Some(suppressed) = LIMIT.allow() {
                log::warn!("the image fails: {error} ({suppressed} such lines left out before)");
            }
        }
        _ => log::debug!("a request fails with {:?}: {failure}", failure.status()),
    }
}

impl Device {
    /// Makes a device with empty keyslots. With `wrapping` it offers hardware-wrapped keys.
    ///
    /// # Errors
    /// When the memory for the keys cannot be had or not be locked.
    pub fn new(config: DeviceConfig, wrapping: Option<Wrapping>, disk: Disk) -> io::Result<Self> {
        let keyslots = KeyslotTable::new(config.keyslots, config.crypto_engine)?;
        let writeback = AtomicBool::new(config.writeback);
        let (queues, slots) = (usize::from(config.num_queues) + 1, config.keyslots.into());
        let observer = Observer::new(queues, slots, config.crypto_engine.name());
        let disk = Arc::new(disk);
        let pace = Pace::new(&config.timing);
        let features = AtomicU64::new(0);
        let (faults, audience) = (Faults::new(config.keyslots), Audience::default());
        Ok(Self { config, disk, keyslots, wrapping, pace, faults, observer, features, writeback, audience })
    }

    /// What it was made from.
    pub fn settings(&self) -> &DeviceConfig {
        &self.config
    }

    /// What the device has counted since it was made.
    pub fn stats(&self) -> Stats {
        self.observer.stats()
    }

    /// What counts, and can be told to record latencies and traces.
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// How data is moved to the disk.
    pub fn aio(&self) -> disk::Aio {
        self.disk.aio()
    }

    /// Makes what so many workers need of the system, before there is a sandbox: see [`Disk::prepare`].
    ///
    /// # Errors
    /// As that.
    pub fn prepare(&self, workers: usize) -> io::Result<()> {
        self.disk.prepare(workers)
    }

    /// Makes everything durable that the guest has written.
    ///
    /// # Errors
    /// The system's; once it has failed, always.
    pub fn flush(&self) -> io::Result<()> {
        self.disk.image().flush()?;
        self.observer.count_flush();
        Ok(())
    }

    fn negotiated(&self, feature: u64) -> bool {
        self.features.load(Ordering::Acquire) & feature != 0
    }

    /// The control virtqueue follows the request queues that the driver knows of.
    fn role(&self, queue: usize) -> QueueRole {
        let request_queues = if self.negotiated(feature::MQ) { usize::from(self.config.num_queues) } else { 1 };
        if self.negotiated(feature::CTRL_VQ) && queue == request_queues {
            QueueRole::Control
        } else {
            QueueRole::Request
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            capacity: self.disk.image().len(),
            logical_block_size: self.config.logical_block_size,
            read_only: self.disk.image().read_only(),
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

    /// Whether a write must be durable before it is completed: the driver cannot flush, or chose write-through.
    fn write_through(&self) -> bool {
        !self.negotiated(feature::FLUSH) || !self.writeback.load(Ordering::Acquire)
    }

    fn refuse(reply: Reply<'_>, refusal: Refusal) -> u32 {
        log::debug!("a request is refused: {refusal:?}");
        if refusal.malformed { reply.finish_malformed(refusal.status) } else { reply.finish(refusal.status) }
    }

    fn execute<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        request: Request<'m>,
        reply: &mut Reply<'m>,
        record: &mut Record,
        fate: Option<&Fate>,
    ) -> Result<Next<'m>, Failure> {
        if !matches!(request, Request::Read { crypto: Some(_), .. }) {
            // Only the engine can do it along the way.
            lane.soon.fetch_rest();
        }
        match request {
            Request::Read { extent, crypto } => {
                let moving = self.moving(lane, extent, crypto, record, fate)?;
                self.read(lane, token, moving, reply, record)
            }
            Request::Write { extent, crypto, data } => {
                let moving = self.moving(lane, extent, crypto, record, fate)?;
                self.write(lane, token, moving, data, record)
            }
            Request::Flush => self.make_durable(lane, token),
            Request::GetId => {
                let mut id = [0; ID_BYTES];
                id.iter_mut().zip(self.config.serial.bytes()).for_each(|(to, from)| *to = from);
                reply.write(0, &id);
                Ok(Next::Done)
            }
            Request::Discard(extents) => self.change(lane, token, move |image| {
                extents.iter().try_for_each(|extent| image.discard(extent.offset, extent.len))
            }),
            Request::WriteZeroes(ranges) => self.change(lane, token, move |image| {
                ranges.iter().try_for_each(|range| {
                    let mode = if range.may_deallocate { ZeroMode::MayDeallocate } else { ZeroMode::Keep };
                    image.write_zeroes(range.extent.offset, range.extent.len, mode)
                })
            }),
            Request::SecureErase(extents) => self.change(lane, token, move |image| {
                extents.iter().try_for_each(|extent| image.secure_erase(extent.offset, extent.len))
            }),
            Request::Control(command) => {
                // The keys that this worker keeps would hold it up as well.
                lane.keys.release();
                // Linux never lets a command meet requests that use the slot's old key.
                if self.must_wait(&command) {
                    return Ok(Next::Alone(Work::Control(command)));
                }
                self.control(lane, token, command, reply, record, fate)
            }
        }
    }

    fn change<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        action: impl FnOnce(&disk::Image) -> io::Result<()> + Send + 'static,
    ) -> Result<Next<'m>, Failure> {
        match lane.disk.act(token, Box::new(action)) {
            Some(answer) => {
                answer.result?;
                self.commit(lane, token)
            }
            None => Ok(Next::Wait(Work::Change)),
        }
    }

    /// What the driver has negotiated and chosen counts no more.
    fn forget_driver(&self) {
        self.features.store(0, Ordering::Release);
        self.writeback.store(self.config.writeback, Ordering::Release);
    }

    /// The driver has reset the device or stopped all queues. Returns how many keys are lost.
    fn lose_keys(&self) -> usize {
        if self.config.keep_keys_on_reset { 0 } else { self.empty_all_slots() }
    }
}

impl VirtioDevice for Device {
    type Lane = DeviceLane;
    type Accepted<'m> = Accepted<'m>;
    type Job<'m> = Job<'m>;

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
            // Keys could not be programmed.
            features &= !feature::INLINE_ENCRYPTION;
        }
        self.reset();
        self.features.store(features, Ordering::Release);
    }

    fn config(&self) -> Vec<u8> {
        self.config_bytes()
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        self.write_config_bytes(offset, data);
    }

    fn connected(&self) {
        self.audience.set_connected(true);
    }

    fn set_notifier(&self, notifier: Notifier) {
        self.audience.set_notifier(notifier);
    }

    fn hung_up(&self) {
        self.audience.set_connected(false);
    }

    fn reset(&self) {
        self.forget_driver();
        self.observer.count_reset(self.lose_keys());
    }

    fn disconnected(&self) {
        self.forget_driver();
        self.observer.count_reset(self.empty_all_slots());
    }

    fn stopped(&self) {
        // What was negotiated stays: only a reset or new features undo it.
        self.observer.count_stop(self.lose_keys());
    }

    fn lane(&self) -> io::Result<DeviceLane> {
        DeviceLane::new(&self.disk, self.observer.lane())
    }

    fn accept<'m>(&self, lane: &mut DeviceLane, queue: usize, head: u16, chain: Chain<'m>) -> Accepted<'m> {
        self.accept_chain(lane, queue, head, chain)
    }

    fn announce(&self, lane: &mut DeviceLane, accepted: &Accepted<'_>) {
        Self::announce(lane, accepted);
    }

    fn start<'m>(&self, lane: &mut DeviceLane, token: Token, accepted: Self::Accepted<'m>) -> Progress<Self::Job<'m>> {
        self.start_accepted(lane, token, accepted)
    }

    fn resume<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        job: Self::Job<'m>,
        answer: Option<Answer>,
    ) -> Progress<Self::Job<'m>> {
        self.go_on(lane, token, job, answer)
    }

    fn queue_running(&self, queue: usize, running: bool) {
        self.observer.set_queue_running(queue, running);
        if running {
            self.audience.queue_started();
        }
    }

    fn queue_broken(&self, queue: usize) {
        self.observer.set_queue_running(queue, false);
        self.observer.count_broken_queue();
    }
}
