// SPDX-License-Identifier: Apache-2.0 OR MIT

//! "Guest" memory: one shared region with the rings, the headers and the data of all requests.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use test_driver::GuestMemory;
use test_driver::data::Random;
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::mmap::MmapRegion;
use vm_memory::{ByteValued, FileOffset, VolatileMemory, VolatileRef};

/// Entries of each ring.
pub const RING_SIZE: u16 = 256;
/// Guest address of the region.
const GUEST_BASE: u64 = 1 << 30;
/// The frontend tells the device an address of the region that is higher by this.
pub const USER_SHIFT: u64 = 0x7000_0000_0000;
/// Room for the parts of a ring, each on pages of its own.
const RING_AREA: u64 = 32 << 10;
/// Rings: the request queue and the control queue.
const RINGS: u64 = 2;
/// Room for the headers and statuses of a ring's requests.
const HEADERS: u64 = GUEST_BASE + RINGS * RING_AREA;
const HEADER_AREA: u64 = 64 << 10;
/// Room for one header or command, and for one status: no two on one cache line.
const HEADER_ROOM: u64 = 320;
const STATUS_AT: u64 = 256;
/// The data of requests, page-aligned.
const DATA: u64 = HEADERS + RINGS * HEADER_AREA;

/// The region.
pub struct Memory {
    region: MmapRegion,
    file: File,
    block: u64,
}

impl Memory {
    /// A region for `depth` requests of `block` bytes, all of its pages present.
    pub fn new(depth: usize, block: usize) -> Result<Self> {
        let stride = block.next_multiple_of(4096);
        let data = (DATA - GUEST_BASE) as usize;
        let bytes = data + depth * stride;
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(bytes as u64)?;
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), bytes).context("no guest memory")?;
        let mut random = Random::new(1);
        for offset in (data..bytes).step_by(8) {
            region.get_ref::<u64>(offset)?.store(random.next());
        }
        Ok(Self { region, file, block: stride as u64 })
    }

    /// A value at a guest address.
    pub fn at<T: ByteValued>(&self, address: u64) -> Result<VolatileRef<'_, T>> {
        Ok(self.region.get_ref(address.wrapping_sub(GUEST_BASE) as usize)?)
    }

    /// Writes bytes.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.region.get_slice(address.wrapping_sub(GUEST_BASE) as usize, bytes.len())?.copy_from(bytes);
        Ok(())
    }

    /// Reads bytes.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.region.get_slice(address.wrapping_sub(GUEST_BASE) as usize, bytes.len())?.copy_to(bytes);
        Ok(())
    }

    /// SET_MEM_TABLE's description of it.
    pub fn info(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: self.region.len() as u64,
            userspace_addr: GUEST_BASE + USER_SHIFT,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// Guest addresses of a ring's parts: descriptor table, available ring, used ring.
    pub fn ring(index: usize) -> [u64; 3] {
        [0, 8192, 16384].map(|part| GUEST_BASE + index as u64 * RING_AREA + part)
    }

    /// Guest address of the header or command of a ring's request number `ticket`.
    pub fn header(ring: usize, ticket: u16) -> u64 {
        HEADERS + ring as u64 * HEADER_AREA + u64::from(ticket) * HEADER_ROOM
    }

    /// Guest address of its status byte.
    pub fn status(ring: usize, ticket: u16) -> u64 {
        Self::header(ring, ticket) + STATUS_AT
    }

    /// Guest address of its data.
    pub fn data(&self, ticket: u16) -> u64 {
        DATA + u64::from(ticket) * self.block
    }
}

impl GuestMemory for Memory {
    fn locate(&self, address: u64) -> Option<(&MmapRegion, usize)> {
        Some((&self.region, address.wrapping_sub(GUEST_BASE) as usize))
    }
}
