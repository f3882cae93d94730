// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which pages of a file mapping are in the page cache (`mincore(2)`): those that can be read without waiting for the
//! storage and, for a file in memory, those that exist.
//!
//! The call may be forbidden, or may not tell the truth. Then no page counts as resident, and data is moved by system
//! calls.

use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

use crate::probe;

/// Pages per system call: 2 MiB, or more where pages are larger.
const MOST_PAGES: usize = 512;

/// Pages of a mapping.
pub(super) struct Resident {
    there: [MaybeUninit<u8>; MOST_PAGES],
    pages: usize,
    page_size: usize,
}

/// Whether all pages of a range of a mapping are in the page cache.
pub(super) fn is_resident(range: &VolatileSlice<'_>) -> bool {
    Resident::of(range).is_some_and(|resident| resident.all(0..resident.pages))
}

impl Resident {
    /// Asks the system about the pages of a range. `None` when it refuses, or when there are too many.
    pub(super) fn of(range: &VolatileSlice<'_>) -> Option<Self> {
        let page_size = rustix::param::page_size();
        let address = range.ptr_guard().as_ptr() as usize;
        let start = address & !(page_size - 1);
        let len = address - start + range.len();
        let pages = len.div_ceil(page_size);
        if pages > MOST_PAGES || !mincore_is_allowed() {
            return None;
        }
        let mut there = [MaybeUninit::<u8>::uninit(); MOST_PAGES];
        // SAFETY: `start` is on a page boundary and the range is mapped; one byte is written for each of its pages, for
        // which `there` has room.
        let result = unsafe { libc::mincore(start as *mut libc::c_void, len, there.as_mut_ptr().cast()) };
        (result == 0).then_some(Self { there, pages, page_size })
    }

    /// Whether the pages of a part are resident. The range must begin on a page boundary.
    pub(super) fn are(&self, start: u64, len: u64) -> bool {
        let page = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.all(page(start) / self.page_size..page(start.saturating_add(len)).div_ceil(self.page_size))
    }

    fn all(&self, pages: std::ops::Range<usize>) -> bool {
        pages.end <= self.pages
            && self.there.get(pages).is_some_and(|there| {
                there.iter().all(|page| {
                    // SAFETY: the call succeeded, so it has written the first `pages` bytes, and the range ends there.
                    unsafe { page.assume_init() & 1 == 1 }
                })
            })
    }
}

/// Whether the call is allowed: a filter around this process may kill it for the call. The first use must be before our
/// own sandbox.
pub(super) fn mincore_is_allowed() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        // SAFETY: no page is asked for, so nothing is written.
        probe::is_allowed(|| unsafe { libc::mincore(std::ptr::null_mut(), 0, std::ptr::null_mut()) } == 0)
    })
}

/// Whether the system tells the truth about a file's pages. For a file of another owner that we may not write, it says
/// that all are resident. So this asks for a page past the file's end, which is not. The permissions at this moment
/// count, so call this after dropping capabilities.
pub(super) fn mincore_is_truthful(file: &FileOffset) -> bool {
    let page_size = rustix::param::page_size();
    let past_the_end = || {
        let end = file.file().metadata().ok()?.len().checked_next_multiple_of(page_size as u64)?; // 64 KiB at the most
        MmapRegionBuilder::<()>::new(page_size)
            .with_mmap_prot(libc::PROT_READ)
            .with_mmap_flags(libc::MAP_SHARED)
            .with_file_offset(FileOffset::from_arc(Arc::clone(file.arc()), end))
            .build()
            .ok()
    };
    past_the_end().is_some_and(|page| !is_resident(&page.as_volatile_slice()))
}
