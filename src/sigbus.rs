// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Mappings of files that somebody else can truncate.
//!
//! An access to a page that the file no longer has, or for which there is no room or no huge page left, raises SIGBUS.
//! In a watched mapping the handler catches the signal: it puts a page of zeroes in place of the missing one and marks
//! the mapping as broken. So code that uses such memory checks afterwards whether it is still sound, and otherwise
//! discards what it read or wrote. System calls on such memory raise no signal but fail with EFAULT.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::thread::{MembarrierCommand, membarrier};
use vm_memory::MmapRegion;

/// What a mapping holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Memory of the guest: see [`guest_memory_is_sound`].
    GuestMemory,
    /// Anything else.
    Other,
}

/// Catches SIGBUS in a mapping while it lives. Drop it before the mapping, whose place other memory may take.
#[derive(Debug)]
pub struct Watch(&'static WatchedRange);

impl Watch {
    /// Watches a mapping.
    ///
    /// # Errors
    /// When the signal cannot be caught, or too many mappings are watched.
    pub fn new(region: &MmapRegion, holds: Holds) -> io::Result<Self> {
        if BEFORE.get_or_init(install).is_none() {
            return Err(io::Error::other("cannot catch the signal SIGBUS"));
        }
        // The file system's block size; on hugetlbfs, its page size.
        let blocks = region.file_offset().and_then(|file| file.file().metadata().ok()).map(|file| file.blksize());
        let blocks = blocks.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| bytes.is_power_of_two());
        let free = |entry: &&WatchedRange| {
            entry.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let entry = ENTRIES.iter().find(free).ok_or_else(|| io::Error::other("too many mappings are watched"))?;
        let start = region.as_ptr() as usize;
        entry.broken.store(false, Ordering::Relaxed);
        entry.is_guest_memory.store(holds == Holds::GuestMemory, Ordering::Relaxed);
        entry.large_page.store(blocks.unwrap_or(0), Ordering::Relaxed);
        entry.end.store(start + region.size(), Ordering::Relaxed); // inside the address space
        entry.start.store(start, Ordering::Release);
        Ok(Self(entry))
    }

    /// Whether no access to the mapping has failed so far. If so, what was read from it before this call came from the
    /// file, and what was written went there.
    pub fn is_sound(&self) -> bool {
        // Another thread may have caused the page of zeroes. The handler sets the flag before the page appears, so the
        // flag must not be loaded before the data. (For stores see `WatchedRange::replace`.)
        fence(Ordering::Acquire);
        !self.0.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
        if self.0.broken.load(Ordering::Acquire) && self.0.is_guest_memory.load(Ordering::Relaxed) {
            LOST_GUEST_MEMORY.fetch_sub(1, Ordering::Release);
        }
        self.0.taken.store(false, Ordering::Release);
    }
}

/// Whether all guest memory has been there so far: [`Watch::is_sound`] for all guests of the process. Rings,
/// descriptors and buffers may lie anywhere in it, so one missing page puts all of them in doubt.
pub fn guest_memory_is_sound() -> bool {
    // As in `Watch::is_sound`.
    fence(Ordering::Acquire);
    LOST_GUEST_MEMORY.load(Ordering::Relaxed) == 0
}

/// A range of addresses in which SIGBUS is caught. All fields are atomics because the handler reads them.
#[derive(Debug)]
struct WatchedRange {
    /// The entry is in use.
    taken: AtomicBool,
    /// 0: not set up.
    start: AtomicUsize,
    end: AtomicUsize,
    broken: AtomicBool,
    is_guest_memory: AtomicBool,
    /// Page size of the file, if it is larger than the system's. 0: unknown.
    large_page: AtomicUsize,
}

/// Enough for all memory regions of a frontend, the images and the rest; tests have many devices.
const MOST: usize = 2048;

static ENTRIES: [WatchedRange; MOST] = [const {
    WatchedRange {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
        is_guest_memory: AtomicBool::new(false),
        large_page: AtomicUsize::new(0),
    }
}; MOST];

/// Watched mappings of guest memory that are broken.
static LOST_GUEST_MEMORY: AtomicUsize = AtomicUsize::new(0);

static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// The action for SIGBUS before ours.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// Installs the handler. Returns the previous action.
fn install() -> Option<libc::sigaction> {
    PAGE_SIZE.store(rustix::param::page_size(), Ordering::Relaxed);
    // Without membarrier, the CPU may reorder a store to a missing page and the load of the flag.
    if let Err(error) = membarrier(MembarrierCommand::RegisterPrivateExpedited) {
        log::debug!("membarrier cannot be used: {}", io::Error::from(error));
    }
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a zeroed `sigaction` is a valid one; the handler has the signature that SA_SIGINFO asks for, and does
    // only what a signal handler may: atomics and system calls. SA_ONSTACK: as the one that the Rust runtime has.
    let result = unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr())
    };
    // SAFETY: it was zeroed, or written by the call.
    (result == 0).then(|| unsafe { before.assume_init() })
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid `siginfo_t` to a handler with SA_SIGINFO; for a fault it has an address.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // Not sent by a process, and not an alignment error, which no page would fix.
    let is_missing = code > 0 && code != libc::BUS_ADRALN;
    if is_missing && ENTRIES.iter().any(|entry| entry.has(address) && entry.replace(address)) {
        // The kernel repeats the access, which succeeds.
        return;
    }
    // Not ours. Restore the previous action; the kernel repeats the access.
    if let Some(Some(before)) = BEFORE.get() {
        // SAFETY: `before` came from the system. The call fails only for invalid arguments.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
}

impl WatchedRange {
    fn has(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        start != 0 && address >= start && address < self.end.load(Ordering::Relaxed)
    }

    /// Puts zeroes in place of a page. Called in the signal handler.
    fn replace(&self, address: usize) -> bool {
        // Before the page: a thread that sees the page must see the flag.
        if !self.broken.swap(true, Ordering::SeqCst) && self.is_guest_memory.load(Ordering::Relaxed) {
            LOST_GUEST_MEMORY.fetch_add(1, Ordering::SeqCst);
        }
        // A CPU may load the flag before an older store of its own has reached its page. Only a full fence keeps this
        // order, and one per request is too expensive. This call is a fence for all threads: a thread that did not see
        // the flag before it has also finished its stores, so they did not go to the new page.
        let _ = membarrier(MembarrierCommand::PrivateExpedited);
        match put_zeroes(address, PAGE_SIZE.load(Ordering::Relaxed)) {
            // A part of a huge page of hugetlbfs cannot be replaced.
            Err(Errno::INVAL) => match self.large_page.load(Ordering::Relaxed) {
                0 => false,
                bytes => put_zeroes(address, bytes).is_ok(),
            },
            result => result.is_ok(),
        }
    }
}

/// Puts zeroes in place of the page of `bytes` bytes around an address in a watched mapping.
fn put_zeroes(address: usize, bytes: usize) -> rustix::io::Result<()> {
    let start = (address & !(bytes - 1)) as *mut c_void;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: the page is part of a watched mapping, which stays mapped as long as somebody accesses it. Anybody may
    // change this memory at any time, so its users expect any content.
    unsafe { mmap_anonymous(start, bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::{Bytes, FileOffset, VolatileMemory};

    // `tests/lost_memory.rs` covers guest memory, whose loss affects the whole process.
    fn watched(region: &MmapRegion) -> Watch {
        Watch::new(region, Holds::Other).expect("watch")
    }

    fn mapped(file: OwnedFd, bytes: usize) -> (File, MmapRegion) {
        let file = File::from(file);
        file.set_len(bytes as u64).expect("size");
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone().expect("file"), 0), bytes);
        (file, region.expect("mapping"))
    }

    #[test]
    fn a_missing_page_is_zeroes_and_the_rest_is_the_files() {
        let memfd = || memfd_create("sigbus", MemfdFlags::CLOEXEC).expect("memfd");
        let (file, region) = mapped(memfd(), 1 << 20);
        let (_, other) = mapped(memfd(), 4096);
        let (watch, other) = (watched(&region), watched(&other));
        let memory = region.as_volatile_slice();
        memory.write_slice(&[7; 8192], 0).expect("written");
        file.set_len(4096).expect("cut off");
        let mut bytes = [1; 8192];
        memory.read_slice(&mut bytes, 0).expect("read");
        assert!(bytes[..4096] == [7; 4096] && bytes[4096..] == [0; 4096]);
        assert!(!watch.is_sound() && other.is_sound());
    }

    /// No huge page is left, the normal case on machines that reserve none.
    #[test]
    fn a_huge_page_that_the_system_does_not_have() {
        const HUGE: usize = 2 << 20;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let Ok(memfd) = memfd_create("sigbus", flags) else { return eprintln!("the kernel has no such huge pages") };
        let (_file, region) = mapped(memfd, 2 * HUGE);
        let watch = watched(&region);
        let memory = region.as_volatile_slice();
        memory.write_slice(&[9; 16], HUGE + 12345).expect("written");
        let mut bytes = [1; 16];
        memory.read_slice(&mut bytes, HUGE + 12345).expect("read");
        assert_eq!(bytes, [9; 16]);
        let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        assert_eq!(watch.is_sound(), free.is_ok_and(|free| free.trim() != "0"));
    }
}
