// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's memory, as the frontend shares it: regions, and the translation of the frontend's own addresses.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserMemoryRegion, VhostUserSingleMemoryRegion};
use vhost::vhost_user::{Error, Result};
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

use crate::queue::MOST_REGIONS;
use crate::regions::map_guest;
use crate::sigbus::Watch;

/// The guest's memory and where the frontend has it mapped.
///
/// A worker keeps its [`View`] for a whole stretch of work. So all stretches must have ended
/// ([`Vring::pause`](crate::queue::Vring::pause)) before regions are removed or replaced. Regions may be added at any
/// time: [`View::newest`] finds them.
pub struct SharedMemory {
    // Dropped before the mappings, which their watches must not outlive.
    regions: Vec<Region>,
    current: GuestMemoryAtomic<GuestMemoryMmap>,
}

/// A region, with the frontend's virtual addresses, which it uses for rings.
struct Region {
    user_addr: u64,
    size: u64,
    guest_addr: u64,
    watch: Watch,
}

/// The guest's memory as a worker sees it in a stretch of work: as it was at the start, and what was added since.
pub struct View {
    source: GuestMemoryAtomic<GuestMemoryMmap>,
    memory: GuestMemoryLoadGuard<GuestMemoryMmap>,
    /// A view with more regions. References into this one stay valid.
    larger: OnceCell<Box<View>>,
}

impl View {
    /// The memory as it is now.
    pub fn new(source: GuestMemoryAtomic<GuestMemoryMmap>) -> Self {
        let memory = source.memory();
        Self { source, memory, larger: OnceCell::new() }
    }

    /// The memory in this view.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The view with all current regions: this one, if none was added since.
    pub fn newest(&self) -> &Self {
        if std::ptr::eq(&raw const *self.source.memory(), self.memory()) {
            return self;
        }
        self.larger.get_or_init(|| Box::new(Self::new(self.source.clone()))).newest()
    }
}

impl SharedMemory {
    /// No memory yet.
    pub fn new() -> Self {
        Self { regions: Vec::new(), current: GuestMemoryAtomic::new(GuestMemoryMmap::new()) }
    }

    /// A handle to the newest memory, for workers.
    pub fn handle(&self) -> GuestMemoryAtomic<GuestMemoryMmap> {
        self.current.clone()
    }

    /// The memory now.
    pub fn snapshot(&self) -> impl std::ops::Deref<Target = GuestMemoryMmap> + use<> {
        self.current.memory()
    }

    /// Whether all of it has been there so far.
    pub fn is_sound(&self) -> bool {
        self.regions.iter().all(|region| region.watch.is_sound())
    }

    /// Replaces all regions (SET_MEM_TABLE). No worker may access guest memory meanwhile.
    pub fn replace(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mapped = regions.iter().zip(files).map(|(region, file)| map(region, file));
        let (mut mapped, regions): (Vec<_>, Vec<_>) = mapped.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        // A frontend may send them in any order.
        mapped.sort_by_key(|region| region.start_addr());
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(refused)?;
        self.regions = regions;
        self.publish(memory)
    }

    /// Removes all regions.
    pub fn clear(&mut self) -> Result<()> {
        self.regions.clear();
        self.publish(GuestMemoryMmap::new())
    }

    /// Adds a region (ADD_MEM_REG).
    pub fn add(&mut self, region: &VhostUserSingleMemoryRegion, file: File) -> Result<()> {
        if self.regions.len() >= MOST_REGIONS {
            return Err(refused(format!("the guest's memory has {MOST_REGIONS} regions already, which is the limit")));
        }
        let (mapped, region) = map(region, file)?;
        let memory = self.current.memory().insert_region(Arc::new(mapped)).map_err(refused)?;
        self.regions.push(region);
        self.publish(memory)
    }

    /// Removes a region (REM_MEM_REG), identified by both addresses and its size. No worker may access guest memory
    /// meanwhile.
    pub fn remove(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let is_meant = |known: &Region| {
            (known.guest_addr, known.user_addr, known.size)
                == (region.guest_phys_addr, region.user_addr, region.memory_size)
        };
        let known =
            self.regions.iter().position(is_meant).ok_or_else(|| {
                refused(format!("cannot remove a memory region that does not exist: {}", place(region)))
            })?;
        let (memory, _) = self
            .current
            .memory()
            .remove_region(GuestAddress(region.guest_phys_addr), region.memory_size)
            .map_err(refused)?;
        self.regions.swap_remove(known);
        self.publish(memory)
    }

    /// The guest physical address of a virtual address of the frontend.
    pub fn translate(&self, user_addr: u64) -> Result<GuestAddress> {
        self.regions
            .iter()
            .find_map(|region| {
                let offset = user_addr.checked_sub(region.user_addr)?;
                (offset < region.size).then(|| region.guest_addr.checked_add(offset))?
            })
            .map(GuestAddress)
            .ok_or(Error::InvalidParam)
    }

    fn publish(&self, memory: GuestMemoryMmap) -> Result<()> {
        self.current.lock().map_err(|_| refused("the memory table is poisoned"))?.replace(memory);
        Ok(())
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<(GuestRegionMmap, Region)> {
    let VhostUserMemoryRegion { user_addr, memory_size: size, guest_phys_addr: guest_addr, mmap_offset, .. } = *region;
    let mapped = map_guest(file, mmap_offset, size, GuestAddress(guest_addr));
    let (mapped, watch) =
        mapped.map_err(|error| refused(format!("the memory region of {}: {error}", place(region))))?;
    Ok((mapped, Region { user_addr, size, guest_addr, watch }))
}

/// Describes a region in messages.
fn place(region: &VhostUserMemoryRegion) -> String {
    // Copies: the struct is packed.
    let (size, guest, user) = (region.memory_size, region.guest_phys_addr, region.user_addr);
    format!("{size} bytes at {guest:#x} (the frontend's {user:#x})")
}

fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}
