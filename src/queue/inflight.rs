// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In-flight tracking: the chains that a queue has taken and not returned, in memory that outlives this process (QEMU's
//! docs/interop/vhost-user.rst, "Inflight I/O tracking", split virtqueue).
//!
//! The frontend keeps the region and passes it to the next backend, which finishes what this one was about to return
//! and serves the rest again. Each store leaves a region from which that is possible; [`QueueLog`] defines their order.
//! A killed process has made its stores up to some point in program order. So only the compiler must keep the order,
//! which Release guarantees.
//!
//! The content of a region is not trusted: it is a mapping of somebody else's file. If the file is truncated the region
//! is lost ([`QueueLog::is_lost`]), and its queues continue without it. Regions made here are sealed against that.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{AtomicAccess, Bytes, MmapRegion, VolatileMemory};

use crate::regions::map;
use crate::sigbus::{Holds, Watch};

/// `QueueRegionSplit::version` of a region in use; 0 in a fresh one.
const VERSION: u16 = 1;
/// Alignment of a queue's part: a cache line.
const ALIGNMENT: usize = 64;

// struct QueueRegionSplit
const FEATURES: usize = 0; // u64
const VERSION_AT: usize = 8; // u16
const DESC_NUM: usize = 10; // u16
const LAST_BATCH_HEAD: usize = 12; // u16
const USED_IDX: usize = 14; // u16
const DESC: usize = 16;
// struct DescStateSplit
const DESC_BYTES: usize = 16;
const INFLIGHT: usize = 0; // u8
const NEXT: usize = 6; // u16
const COUNTER: usize = 8; // u64

/// Why a region is refused.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// No queue, no descriptor, or fewer bytes than they need.
    #[error("the in-flight region is too small for its queues")]
    TooSmall,
    /// The file is shorter than the region.
    #[error("the file of the in-flight region is too short")]
    FileTooShort,
    /// The region cannot be mapped.
    #[error("the in-flight region cannot be mapped: {0}")]
    Map(String),
    /// An error of the system.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The region of a device: one part per queue.
pub struct InflightRegion {
    // Dropped before the mapping.
    watch: Watch,
    mapping: MmapRegion,
    queues: u16,
    queue_size: u16,
}

/// Bytes of a queue's part.
fn part_bytes(queue_size: u16) -> usize {
    (DESC + usize::from(queue_size) * DESC_BYTES).next_multiple_of(ALIGNMENT)
}

/// Bytes of a region: at most 2^35.
pub fn region_bytes(queues: u16, queue_size: u16) -> u64 {
    u64::from(queues) * part_bytes(queue_size) as u64
}

impl InflightRegion {
    /// Creates a file for a fresh region of [`region_bytes`], all zeroes.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn create(queues: u16, queue_size: u16) -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("vhost-user-inflight", flags)?);
        file.set_len(region_bytes(queues, queue_size))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file)
    }

    /// Maps the region of `bytes` bytes at `offset` of a file.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn map(file: File, offset: u64, bytes: u64, queues: u16, queue_size: u16) -> Result<Arc<Self>, RegionError> {
        if queues == 0 || queue_size == 0 || bytes < region_bytes(queues, queue_size) {
            return Err(RegionError::TooSmall);
        }
        if offset.checked_add(bytes).is_none_or(|end| file.metadata().map_or(true, |found| found.len() < end)) {
            return Err(RegionError::FileTooShort);
        }
        let mapping =
            map(file, offset, region_bytes(queues, queue_size)).map_err(|error| RegionError::Map(error.to_string()))?;
        let watch = Watch::new(&mapping, Holds::Other)?;
        Ok(Arc::new(Self { watch, mapping, queues, queue_size }))
    }

    /// A queue's part, if it has one.
    pub fn queue(self: &Arc<Self>, index: usize) -> Option<QueueLog> {
        let at = (index < usize::from(self.queues)).then(|| index * part_bytes(self.queue_size))?;
        Some(QueueLog { region: Arc::clone(self), at, counter: 0 })
    }

    fn load<T: AtomicAccess + Default>(&self, at: usize) -> T {
        // The offsets are inside the mapping and aligned, so this does not fail.
        self.mapping.as_volatile_slice().load(at, Ordering::Acquire).unwrap_or_default()
    }

    fn store<T: AtomicAccess>(&self, at: usize, value: T) {
        // Does not fail, as in `load`.
        let _ = self.mapping.as_volatile_slice().store(value, at, Ordering::Release);
        crash_point();
    }
}

/// One queue's part of the region.
///
/// | when | stores |
/// |---|---|
/// | a chain is taken | its counter, then its in-flight mark |
/// | it is returned | its link to the last head returned, the last head, *the used ring*, its mark off, the used index |
///
/// So each chain is a batch of its own. A backend that returns several at once leaves a longer list, which
/// [`QueueLog::recover`] also follows.
pub struct QueueLog {
    region: Arc<InflightRegion>,
    /// Where the part begins.
    at: usize,
    /// Number of the next chain.
    counter: u64,
}

/// Where a queue continues.
#[derive(Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The region is fresh: the frontend says where the queue continues.
    Fresh,
    /// Heads that were taken and not returned, in the order in which they were taken.
    Resubmit(Vec<u16>),
    /// The region is for a smaller ring: this one cannot be tracked, and the frontend says where the queue continues.
    TooSmall,
}

impl QueueLog {
    /// The maximum size of a ring that this can log.
    pub fn size(&self) -> u16 {
        self.region.queue_size
    }

    fn field(&self, offset: usize) -> u16 {
        u16::from_le(self.region.load(self.at + offset))
    }

    fn set_field(&self, offset: usize, value: u16) {
        self.region.store(self.at + offset, value.to_le());
    }

    /// Offset of a field of a descriptor's state; `head` is less than the size.
    fn desc(&self, head: u16, offset: usize) -> usize {
        self.at + DESC + usize::from(head) * DESC_BYTES + offset
    }

    fn in_flight(&self, head: u16) -> bool {
        self.region.load::<u8>(self.desc(head, INFLIGHT)) != 0
    }

    /// Starts to log a ring of `size` descriptors whose used index is `used`. First finishes what the previous backend
    /// was about to return.
    ///
    /// # Errors
    /// When the region does not belong to the ring or is inconsistent.
    pub fn recover(&mut self, size: u16, used: u16) -> Result<Recovery, &'static str> {
        if size > self.size() {
            self.forget();
            return Ok(Recovery::TooSmall);
        }
        match self.field(VERSION_AT) {
            0 => {
                self.region.store(self.at + FEATURES, 0u64);
                self.set_field(DESC_NUM, self.size());
                self.set_field(USED_IDX, used);
                // From here on the region is in use.
                self.set_field(VERSION_AT, VERSION);
                return Ok(Recovery::Fresh);
            }
            // The specification says "It's equal to the virtqueue size". Some may write the ring's size, which may be
            // smaller.
            VERSION if [self.size(), size].contains(&self.field(DESC_NUM)) => {}
            _ => return Err("the in-flight region is of another version or size"),
        }
        self.finish_batch(used)?;
        let mut found: Vec<(u64, u16)> = (0..self.size())
            .filter(|&head| self.in_flight(head))
            .map(|head| (u64::from_le(self.region.load(self.desc(head, COUNTER))), head))
            .collect();
        if found.iter().any(|&(_, head)| head >= size) {
            return Err("the in-flight region has a head that is not in the descriptor table");
        }
        found.sort_unstable();
        self.counter = found.last().map_or(0, |&(counter, _)| counter.wrapping_add(1));
        Ok(Recovery::Resubmit(found.into_iter().map(|(_, head)| head).collect()))
    }

    /// Makes the part fresh: what it records belongs to another ring, and a later backend must not use it for this one.
    pub fn forget(&self) {
        if self.field(VERSION_AT) == 0 {
            return;
        }
        for head in (0..self.size()).filter(|&head| self.in_flight(head)) {
            self.region.store(self.desc(head, INFLIGHT), 0u8);
        }
        self.set_field(VERSION_AT, 0);
    }

    /// The used ring may be ahead of the region by the batch whose list begins at the last head.
    fn finish_batch(&self, used: u16) -> Result<(), &'static str> {
        let batch = used.wrapping_sub(self.field(USED_IDX));
        // A ring that was set up anew since then has nothing in flight.
        if batch != 0 && (0..self.size()).any(|head| self.in_flight(head)) {
            if batch > self.size() {
                return Err("the in-flight region does not belong to this ring");
            }
            let mut head = self.field(LAST_BATCH_HEAD);
            for _ in 0..batch {
                if head >= self.size() {
                    return Err("the in-flight region's list of returned heads is broken");
                }
                self.region.store(self.desc(head, INFLIGHT), 0u8);
                head = u16::from_le(self.region.load(self.desc(head, NEXT)));
            }
        }
        if batch != 0 {
            self.set_field(USED_IDX, used);
        }
        Ok(())
    }

    /// Whether a part of the region is missing. What was read from it or written to it is then not valid.
    pub fn is_lost(&self) -> bool {
        !self.region.watch.is_sound()
    }

    /// Call this when a chain has been taken from the available ring, before it is served.
    pub fn taken(&mut self, head: u16) {
        if head < self.size() {
            self.region.store(self.desc(head, COUNTER), self.counter.to_le());
            self.counter = self.counter.wrapping_add(1);
            self.region.store(self.desc(head, INFLIGHT), 1u8);
        }
    }

    /// Call this before a chain is put in the used ring.
    pub fn returning(&self, head: u16) {
        if head < self.size() {
            self.region.store(self.desc(head, NEXT), self.field(LAST_BATCH_HEAD).to_le());
            self.set_field(LAST_BATCH_HEAD, head);
        }
    }

    /// Call this when a chain has been returned and the used ring's index is `used`.
    pub fn returned(&self, head: u16, used: u16) {
        if head < self.size() {
            self.region.store(self.desc(head, INFLIGHT), 0u8);
            self.set_field(USED_IDX, used);
        }
    }
}

/// Where a test may stop this backend: after each store that the next one relies on.
#[cfg(not(test))]
pub(super) fn crash_point() {}

#[cfg(test)]
pub(super) use tests::crash_point;

#[cfg(test)]
mod tests;
