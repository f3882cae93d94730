// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Parts of a frontend's files, mapped: regions of guest memory, and the in-flight region.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io;

use rustix::fs::fstatfs;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use crate::sigbus::{Holds, Watch};

/// `f_type` of hugetlbfs (`HUGETLBFS_MAGIC`, include/uapi/linux/magic.h).
const HUGETLBFS: u64 = 0x9584_58f6;

/// Maps `bytes` bytes at `offset` of a file.
///
/// # Errors
/// When the file is shorter, when the part does not consist of whole huge pages of hugetlbfs, and those of mmap(2).
pub fn map(file: File, offset: u64, bytes: u64) -> io::Result<MmapRegion> {
    // Devices, such as DAX memory, have no known size.
    if let Ok(found) = file.metadata()
        && found.is_file()
        && offset.checked_add(bytes).is_none_or(|end| end > found.len())
    {
        return Err(refused(format!(
            "it begins at byte {offset} of its file, which has only {} bytes: the frontend must make the file as large as the \
             memory in it",
            found.len()
        )));
    }
    // mmap(2) would take all of the last huge page, and munmap(2) could not give back a part of it.
    if let Ok(found) = fstatfs(&file)
        && found.f_type as u64 == HUGETLBFS
        && u64::try_from(found.f_bsize).is_ok_and(|page| page > 0 && (offset % page, bytes % page) != (0, 0))
    {
        return Err(refused(format!(
            "it begins at byte {offset} of a file of huge pages of {} bytes, and is not made of whole ones: use ordinary pages",
            found.f_bsize
        )));
    }
    let bytes = usize::try_from(bytes).map_err(refused)?;
    MmapRegion::from_file(FileOffset::new(file, offset), bytes).map_err(refused)
}

/// Maps a region of guest memory, and watches it.
///
/// # Errors
/// Those of [`map`]; when it wraps around the address space; when too many mappings are watched.
pub fn map_guest(file: File, offset: u64, bytes: u64, address: GuestAddress) -> io::Result<(GuestRegionMmap, Watch)> {
    let region = GuestRegionMmap::new(map(file, offset, bytes)?, address);
    let region = region.ok_or_else(|| refused("it wraps around the address space"))?;
    let watch = Watch::new(&region, Holds::GuestMemory)?;
    Ok((region, watch))
}

fn refused(why: impl Display) -> io::Error {
    io::Error::other(why.to_string())
}
