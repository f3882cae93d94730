// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's memory, as the frontend shares it: regions, and the translation of the frontend's own addresses.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserMemoryRegion, VhostUserSingleMemoryRegion};
use vhost::vhost_user::{Error, Result};
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// The guest's memory and where the frontend has it mapped.
///
/// Workers take a snapshot for each batch; a region that the frontend removes stays mapped until the last snapshot of
/// it is gone.
pub struct SharedMemory {
    current: GuestMemoryAtomic<GuestMemoryMmap>,
    mappings: Vec<Mapping>,
}

/// The frontend gives ring addresses as its own virtual addresses.
struct Mapping {
    user_addr: u64,
    size: u64,
    guest_addr: u64,
}

impl SharedMemory {
    /// No memory yet.
    pub fn new() -> Self {
        Self { current: GuestMemoryAtomic::new(GuestMemoryMmap::new()), mappings: Vec::new() }
    }

    /// For workers: always the newest memory.
    pub fn handle(&self) -> GuestMemoryAtomic<GuestMemoryMmap> {
        self.current.clone()
    }

    /// The memory now.
    pub fn snapshot(&self) -> impl std::ops::Deref<Target = GuestMemoryMmap> + use<> {
        self.current.memory()
    }

    /// Replaces all regions (SET_MEM_TABLE).
    pub fn replace(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mut mappings = Vec::new();
        let mut mapped = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            mapped.push(map(region, file)?);
            mappings.push(Mapping::of(region));
        }
        // A frontend may send them in any order.
        mapped.sort_by_key(|region| region.start_addr());
        self.publish(GuestMemoryMmap::from_regions(mapped).map_err(refused)?)?;
        self.mappings = mappings;
        Ok(())
    }

    /// Removes all regions.
    pub fn clear(&mut self) -> Result<()> {
        self.mappings.clear();
        self.publish(GuestMemoryMmap::new())
    }

    /// Adds a region (ADD_MEM_REG).
    pub fn add(&mut self, region: &VhostUserSingleMemoryRegion, file: File) -> Result<()> {
        let memory = self.current.memory().insert_region(Arc::new(map(region, file)?)).map_err(refused)?;
        self.publish(memory)?;
        self.mappings.push(Mapping::of(region));
        Ok(())
    }

    /// Removes a region (REM_MEM_REG).
    pub fn remove(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (memory, _) = self
            .current
            .memory()
            .remove_region(GuestAddress(region.guest_phys_addr), region.memory_size)
            .map_err(refused)?;
        self.publish(memory)?;
        self.mappings.retain(|mapping| mapping.guest_addr != region.guest_phys_addr);
        Ok(())
    }

    /// The guest physical address of an address of the frontend's.
    pub fn translate(&self, user_addr: u64) -> Result<GuestAddress> {
        self.mappings
            .iter()
            .find_map(|mapping| {
                let offset = user_addr.checked_sub(mapping.user_addr)?;
                (offset < mapping.size).then(|| mapping.guest_addr.checked_add(offset))?
            })
            .map(GuestAddress)
            .ok_or(Error::InvalidParam)
    }

    fn publish(&self, memory: GuestMemoryMmap) -> Result<()> {
        self.current.lock().map_err(|_| refused("the memory table is poisoned"))?.replace(memory);
        Ok(())
    }
}

impl Mapping {
    fn of(region: &VhostUserMemoryRegion) -> Self {
        Self { user_addr: region.user_addr, size: region.memory_size, guest_addr: region.guest_phys_addr }
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<GuestRegionMmap> {
    GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(region.guest_phys_addr))
        .ok_or_else(|| refused("a memory region wraps around the address space"))
}

fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}
