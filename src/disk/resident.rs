// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which pages of a mapping of a file are in the page cache (`mincore(2)`): those that can be read without waiting for the
//! storage, and, of a file in memory, those that exist.
//!
//! The call is not always to be had, nor to be believed. Nothing then counts as resident, and data is moved by system calls.

use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

use crate::probe;

/// Pages that are looked up in one system call: those of 2 MiB, or more where pages are larger.
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
    /// Asks the system about the pages of a range. `None` when it does not tell, or when there are too many.
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

    /// Whether the pages of a part are there. The range began on a page boundary.
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

/// Whether the call can be made: a filter around this process may kill it for that. To be asked for the first time before there is
/// a sandbox of our own.
pub(super) fn mincore_is_allowed() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        // SAFETY: no page is asked for, so nothing is written.
        probe::is_allowed(|| unsafe { libc::mincore(std::ptr::null_mut(), 0, std::ptr::null_mut()) } == 0)
    })
}

/// Whether what the system says of a file's pages is true. Of a file that is not ours, and that we may not write, it says that
/// all are there; so it is asked for one that is not: past the file's end. What we may do when it is asked is what counts: to be
/// called after capabilities have been dropped.
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
