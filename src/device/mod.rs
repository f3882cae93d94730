// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device: the order of the stages, and the one place where errors become statuses.
//!
//! queue -> **parse** ([`request`](crate::request)) -> **key** ([`keyslot`](crate::keyslot)) -> **crypto**
//! ([`crypto`](crate::crypto)) -> **disk** ([`disk`](crate::disk)) -> reply -> queue.

mod config_space;
mod control;
mod stats;
mod transfer;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::disk::{Bounce, Image, ZeroMode};
use crate::keyslot::KeyslotTable;
use crate::protocol::{ID_BYTES, Status, feature};
use crate::queue::Chain;
use crate::ratelimit::RateLimit;
use crate::request::{Limits, QueueRole, Refusal, Reply, Request, parse};
use crate::vhost::VirtioDevice;
use crate::wrapped::{WrapError, Wrapping};

pub use stats::Stats;

/// What a device is; fixed while it lives.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// Number of keyslots.
    pub keyslots: u16,
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
    /// Threads for the request queues.
    pub workers: u16,
    /// Serial number, at most 20 bytes.
    pub serial: String,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Completed writes may be in the cache until a flush. The driver can change it.
    pub writeback: bool,
}

/// A block device with inline encryption.
pub struct Device {
    config: DeviceConfig,
    image: Image,
    keyslots: KeyslotTable,
    /// Hardware-wrapped keys, when they are offered.
    wrapping: Option<Wrapping>,
    stats: Stats,
    /// Negotiated feature bits.
    features: AtomicU64,
    /// The `writeback` field of the configuration space.
    writeback: AtomicBool,
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
    #[error(transparent)]
    NoSuchSlot(#[from] crate::keyslot::NoSuchSlot),
    #[error(transparent)]
    Transfer(#[from] crate::keyslot::TransferError),
    #[error(transparent)]
    Wrap(#[from] WrapError),
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
            Self::Malformed | Self::NoSuchSlot(_) | Self::Transfer(_) | Self::Wrap(_) | Self::Disk(_) => Status::IoErr,
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
    pub fn new(config: DeviceConfig, wrapping: Option<Wrapping>, image: Image) -> io::Result<Self> {
        let keyslots = KeyslotTable::new(config.keyslots)?;
        let writeback = AtomicBool::new(config.writeback);
        Ok(Self { config, image, keyslots, wrapping, stats: Stats::default(), features: AtomicU64::new(0), writeback })
    }

    /// What the device has counted since it was made.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Makes everything durable that the guest has written.
    ///
    /// # Errors
    /// The system's; once it has failed, always.
    pub fn flush(&self) -> io::Result<()> {
        self.image.flush()?;
        self.stats.count_flush();
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
            capacity: self.image.len(),
            logical_block_size: self.config.logical_block_size,
            read_only: self.image.read_only(),
            features: self.features.load(Ordering::Acquire),
        }
    }

    /// Whether a write must be durable before it is completed: the driver cannot flush, or chose write-through.
    fn write_through(&self) -> bool {
        !self.negotiated(feature::FLUSH) || !self.writeback.load(Ordering::Acquire)
    }

    fn serve(&self, chain: Chain<'_>, role: QueueRole, bounce: &mut Bounce) -> u32 {
        match parse(chain, role, &self.limits()) {
            (mut reply, Ok(request)) => {
                self.stats.count_request(&request);
                let status = match self.execute(request, &mut reply, bounce) {
                    Ok(()) => Status::Ok,
                    Err(failure) => {
                        self.stats.count_failure(failure.status());
                        report(&failure);
                        failure.status()
                    }
                };
                reply.finish(status)
            }
            (reply, Err(refusal)) => self.refuse(reply, refusal),
        }
    }

    fn refuse(&self, reply: Reply<'_>, refusal: Refusal) -> u32 {
        self.stats.count_refusal(&refusal);
        log::debug!("a request is refused: {refusal:?}");
        if refusal.malformed { reply.finish_malformed(refusal.status) } else { reply.finish(refusal.status) }
    }

    fn execute(&self, request: Request<'_>, reply: &mut Reply<'_>, bounce: &mut Bounce) -> Result<(), Failure> {
        match request {
            Request::Read { extent, crypto } => self.read(extent, crypto, reply, bounce),
            Request::Write { extent, crypto, data } => self.write(extent, crypto, &data, bounce),
            Request::Flush => Ok(self.flush()?),
            Request::GetId => {
                let mut id = [0; ID_BYTES];
                id.iter_mut().zip(self.config.serial.bytes()).for_each(|(to, from)| *to = from);
                reply.write(0, &id);
                Ok(())
            }
            Request::Discard(extents) => {
                extents.iter().try_for_each(|extent| self.image.discard(extent.offset, extent.len))?;
                self.commit()
            }
            Request::WriteZeroes(ranges) => {
                for range in &ranges {
                    let mode = if range.may_deallocate { ZeroMode::MayDeallocate } else { ZeroMode::Keep };
                    self.image.write_zeroes(range.extent.offset, range.extent.len, mode)?;
                }
                self.commit()
            }
            Request::SecureErase(extents) => {
                extents.iter().try_for_each(|extent| self.image.secure_erase(extent.offset, extent.len))?;
                self.commit()
            }
            Request::Control(command) => self.control(command, reply),
        }
    }

    /// After a change of the image: durable now, in write-through mode.
    fn commit(&self) -> Result<(), Failure> {
        if self.write_through() { Ok(self.flush()?) } else { Ok(()) }
    }
}

impl VirtioDevice for Device {
    type Scratch = Bounce;

    fn features(&self) -> u64 {
        self.offered_features()
    }

    fn queue_count(&self) -> usize {
        usize::from(self.config.num_queues) + 1
    }

    fn queue_size(&self) -> u16 {
        self.config.queue_size
    }

    fn workers(&self) -> usize {
        self.config.workers.into()
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

    fn reset(&self) {
        self.features.store(0, Ordering::Release);
        self.writeback.store(self.config.writeback, Ordering::Release);
        self.stats.count_reset(self.keyslots.clear());
    }

    fn stopped(&self) {
        // What was negotiated stays: only a reset or new features undo it.
        self.stats.count_stop(self.keyslots.clear());
    }

    fn scratch(&self) -> io::Result<Bounce> {
        Bounce::new().map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    fn process(&self, queue: usize, chain: Chain<'_>, bounce: &mut Bounce) -> u32 {
        self.serve(chain, self.role(queue), bounce)
    }

    fn queue_broken(&self, _queue: usize) {
        self.stats.count_broken_queue();
    }
}
