// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guest memory. The client maps it for the device range by range.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use rustix::io::Errno;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use super::protocol::{DMA_FLAG_READ, DMA_FLAG_WRITE, DmaMap};
use crate::ratelimit::log_limited;
use crate::regions::map_guest;
use crate::sigbus::Watch;

/// The maximum number of ranges: as many as a vhost-user frontend may add.
pub const MOST_RANGES: usize = 509;

/// The pages of which ranges consist (libvfio-user's `pgsizes` in VERSION).
pub const PAGE_BYTES: u64 = 4096;

/// Guest memory and its ranges. Nothing may use a range when it is removed.
pub struct DmaMemory {
    // Before the regions themselves: their watches must not outlive them.
    ranges: Vec<Range>,
    current: GuestMemoryAtomic<GuestMemoryMmap>,
}

struct Range {
    address: u64,
    size: u64,
    /// `None`: the device has no access, because the range has no file or is read-only. Drivers put nothing there.
    watch: Option<Watch>,
}

impl DmaMemory {
    /// Without memory.
    pub fn new() -> Self {
        Self { ranges: Vec::new(), current: GuestMemoryAtomic::new(GuestMemoryMmap::new()) }
    }

    /// The current memory, whenever it is asked.
    pub fn handle(&self) -> GuestMemoryAtomic<GuestMemoryMmap> {
        self.current.clone()
    }

    /// Whether no access to it has failed so far.
    pub fn is_sound(&self) -> bool {
        self.ranges.iter().all(|range| range.watch.as_ref().is_none_or(Watch::is_sound))
    }

    /// Adds a range.
    ///
    /// # Errors
    /// EEXIST if it overlaps another one, EINVAL for invalid values, and the system's errors.
    pub fn map(&mut self, map: &DmaMap, file: Option<File>) -> Result<(), Errno> {
        let (address, size) = (map.address.get(), map.size.get());
        // VERSION announces them as the only pages. With smaller ranges, the pieces of a request could be as many as its bytes.
        let whole_pages = size > 0 && size.is_multiple_of(PAGE_BYTES);
        let end = address.checked_add(size).filter(|_| whole_pages).ok_or(Errno::INVAL)?;
        if self.ranges.len() >= MOST_RANGES {
            return Err(Errno::NOSPC);
        }
        // No range wraps around, so its end can be computed.
        if self.ranges.iter().any(|range| address < range.address + range.size && range.address < end) {
            return Err(Errno::EXIST);
        }
        let all = DMA_FLAG_READ | DMA_FLAG_WRITE;
        let watch = match file.filter(|_| map.flags.get() & all == all) {
            None => None,
            Some(file) => {
                let (region, watch) =
                    map_guest(file, map.offset.get(), size, GuestAddress(address)).map_err(|error| {
                        log_limited!(warn, "cannot map {size} bytes of guest memory at {address:#x}: {error}");
                        Errno::INVAL
                    })?;
                let memory = self.current.memory().insert_region(Arc::new(region)).map_err(|_| Errno::EXIST)?;
                self.publish(memory);
                Some(watch)
            }
        };
        self.ranges.push(Range { address, size, watch });
        Ok(())
    }

    /// Whether exactly this range is mapped.
    pub fn has(&self, address: u64, size: u64) -> bool {
        self.ranges.iter().any(|range| (range.address, range.size) == (address, size))
    }

    /// Removes a range, if it is mapped.
    pub fn unmap(&mut self, address: u64, size: u64) {
        let Some(place) = self.ranges.iter().position(|range| (range.address, range.size) == (address, size)) else {
            return;
        };
        let range = self.ranges.swap_remove(place);
        let mapped = range.watch.is_some();
        drop(range);
        if mapped {
            let removed = self.current.memory().remove_region(GuestAddress(address), size);
            if let Ok((memory, _)) = removed {
                self.publish(memory);
            }
        }
    }

    /// Removes all ranges.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.publish(GuestMemoryMmap::new());
    }

    fn publish(&self, memory: GuestMemoryMmap) {
        // No code panics while it holds this lock: it only stores a pointer.
        if let Ok(guard) = self.current.lock() {
            guard.replace(memory);
        }
    }
}

impl Default for DmaMemory {
    fn default() -> Self {
        Self::new()
    }
}
