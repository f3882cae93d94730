// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An image as mapped memory: the page cache itself, without system calls and copies.
//!
//! An access to a mapping cannot return an error: if the file was truncated or the file system is full, it raises
//! SIGBUS. The handler catches that (see [`sigbus`](crate::sigbus)). The user of the mapping finds it broken and
//! repeats the access by system calls, which report the cause. A broken mapping is not used again.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use super::blocks::Blocks;
use super::resident::{self, is_resident};
use crate::sigbus::{Holds, Watch};
use scattered_xts::Prefetch;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// `TMPFS_MAGIC` of <linux/magic.h>.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// An image in the address space.
#[derive(Debug)]
pub struct Mapping {
    // Dropped before the region.
    watch: Watch,
    region: MmapRegion,
    /// The file is in memory (tmpfs), so its pages exist there or nowhere.
    in_memory: bool,
    /// What is known about the pages; `None` for a large file.
    blocks: Option<Blocks>,
    writable: Writable,
    /// The system tells the truth about the pages.
    truthful: OnceLock<bool>,
    /// A mapping of the whole file after it has grown. Users of this mapping are not disturbed.
    larger: OnceLock<Box<Mapping>>,
}

/// Which bytes of a mapping are written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writable {
    No,
    /// The populated blocks.
    Populated,
    All,
}

/// Which bytes of a mapping should be written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// None.
    Never,
    /// Those of a file in memory where that is fastest. None of another file: there, each write-back is followed by
    /// page faults.
    WhereItPays,
    /// All: for a new file that nobody else writes.
    Always,
}

impl Mapping {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    /// Those of the system calls; or too many mappings exist.
    pub fn new(file: &File, len: u64, writing: Writing) -> io::Result<Self> {
        // The sandbox forbids finding out later.
        resident::mincore_is_allowed();
        let in_memory = rustix::fs::fstatfs(file).is_ok_and(|system| u64::try_from(system.f_type) == Ok(TMPFS_MAGIC));
        Self::map(file, len, in_memory, writing)
    }

    fn map(file: &File, len: u64, in_memory: bool, writing: Writing) -> io::Result<Self> {
        let blocks = in_memory.then(|| Blocks::new(len)).flatten();
        let writable = match writing {
            Writing::Always => Writable::All,
            Writing::WhereItPays if blocks.is_some() => Writable::Populated,
            Writing::Never | Writing::WhereItPays => Writable::No,
        };
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let protection = libc::PROT_READ | if writable == Writable::No { 0 } else { libc::PROT_WRITE };
        let region = MmapRegionBuilder::new(len)
            .with_mmap_prot(protection)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file.try_clone()?, 0))
            .build()
            .map_err(io::Error::other)?;
        let watch = Watch::new(&region, Holds::Other)?;
        let (truthful, larger) = (OnceLock::new(), OnceLock::new());
        Ok(Self { watch, region, in_memory, blocks, writable, truthful, larger })
    }

    /// A range to read, if that does not wait for the storage, as far as the system knows, and fills no hole. What was
    /// read counts only if [`Mapping::is_sound`] afterwards.
    pub fn to_read(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let this = self.covering(offset, len)?;
        let range = this.range(offset, len)?;
        let there = match &this.blocks {
            Some(blocks) => {
                blocks.are_present(offset, len) || this.can_use_mincore() && this.probe(blocks, offset, len)
            }
            None => this.can_use_mincore() && is_resident(&range),
        };
        there.then_some(range)
    }

    /// Rare, so kept out of the fast path.
    #[cold]
    #[inline(never)]
    fn probe(&self, blocks: &Blocks, offset: u64, len: usize) -> bool {
        blocks.probe(offset, len, self.bytes())
    }

    /// Whether the system can be asked about pages.
    fn can_use_mincore(&self) -> bool {
        resident::mincore_is_allowed()
            && *self.truthful.get_or_init(|| self.region.file_offset().is_some_and(resident::mincore_is_truthful))
    }

    /// A function that returns ranges of this mapping.
    fn bytes<'a>(&'a self) -> impl Fn(u64, u64) -> Option<VolatileSlice<'a>> {
        |offset, len| self.range(offset, usize::try_from(len).ok()?)
    }

    /// A range to write, where storing is as good as a system call. What was written counts only if
    /// [`Mapping::is_sound`] afterwards.
    pub fn to_write(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let this = self.covering(offset, len)?;
        match (this.writable, &this.blocks) {
            (Writable::All, _) => this.range(offset, len),
            (Writable::Populated, Some(blocks)) if blocks.are_populated(offset, len) => this.range(offset, len),
            _ => None,
        }
    }

    /// Records a write by a system call.
    pub fn was_written(&self, offset: u64, len: usize) {
        if let Some(this) = self.covering(offset, len)
            && this.writable == Writable::Populated
            && let Some(blocks) = &this.blocks
            && this.can_use_mincore()
        {
            blocks.was_written(offset, len, this.bytes());
        }
    }

    /// A range is being freed, or has been. Call this before, for those who read from now on, and after, for those who
    /// have read meanwhile.
    pub fn was_discarded(&self, offset: u64, len: u64) {
        if let Some(blocks) = &self.blocks {
            blocks.forget(offset, len);
        }
        if let Some(larger) = self.larger.get() {
            larger.was_discarded(offset, len);
        }
    }

    /// The first bytes of a range that will be read, to prefetch.
    pub fn prefetch_read(&self, offset: u64, len: u64) -> Option<Prefetch> {
        let len = at_most(len, PREFETCH_BYTES);
        Some(Prefetch::new(&self.covering(offset, len)?.range(offset, len)?))
    }

    /// A range will be written: makes the CPU look up its address. Prefetching the old content did not pay, neither for
    /// plain data nor for any engine.
    pub fn prefetch_write(&self, offset: u64, len: u64) {
        if let Some(start) = self.to_write(offset, at_most(len, 1)) {
            Prefetch::first_line(&start);
        }
    }

    fn range(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        if !self.is_sound() {
            return None;
        }
        self.region.get_slice(usize::try_from(offset).ok()?, len).ok()
    }

    /// The mapping that contains a range: this one, or a larger one.
    fn covering(&self, offset: u64, len: usize) -> Option<&Self> {
        let end = usize::try_from(offset).ok()?.checked_add(len)?;
        if end <= self.region.size() { Some(self) } else { self.larger.get()?.covering(offset, len) }
    }

    /// Extends the mapping to `len` bytes of the file.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn extend(&self, file: &File, len: u64) -> io::Result<()> {
        if len <= self.region.size() as u64 {
            return Ok(());
        }
        match self.larger.get() {
            Some(larger) => larger.extend(file, len),
            None => {
                // Maps more, so that a file that grows often needs few mappings. Nobody uses bytes past the end of the
                // file.
                let ample = len.max((self.region.size() as u64).saturating_mul(2)); // usize to u64 loses nothing
                // Populated blocks are found again.
                let writing = match self.writable {
                    Writable::No => Writing::Never,
                    Writable::Populated => Writing::WhereItPays,
                    Writable::All => Writing::Always,
                };
                let map = |len| Self::map(file, len, self.in_memory, writing);
                let larger = map(ample).or_else(|_| map(len))?;
                // Callers do not extend concurrently. If they did, the second mapping would be unused.
                let _ = self.larger.set(Box::new(larger));
                Ok(())
            }
        }
    }

    /// Whether the file is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether no access has failed so far.
    pub fn is_sound(&self) -> bool {
        self.watch.is_sound() && self.larger.get().is_none_or(|larger| larger.is_sound())
    }
}

/// Bytes to prefetch: for longer requests the CPU recognises the pattern.
const PREFETCH_BYTES: usize = 4096;

fn at_most(len: u64, most: usize) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> File {
        let file = tempfile::tempfile_in(path).expect("file");
        file.set_len(bytes).expect("size");
        file
    }

    #[test]
    fn a_truncated_file_breaks_the_mapping_and_nothing_else() {
        for directory in [std::env::temp_dir().to_string_lossy().as_ref(), "/dev/shm"] {
            let file = file(directory, 1 << 20);
            let mapping = Mapping::new(&file, 1 << 20, Writing::Always).expect("mapping");
            let other = Mapping::new(&file, 4096, Writing::Always).expect("mapping");
            let range = mapping.range(512 << 10, 8192).expect("sound");
            let mut bytes = [1u8; 8192];
            file.set_len(4096).expect("truncated");
            range.copy_to(&mut bytes[..]);
            assert!(!mapping.is_sound() && bytes == [0; 8192]);
            assert!(mapping.to_read(0, 512).is_none());
            assert!(mapping.to_write(0, 512).is_none());
            assert!(other.is_sound());
            assert!(other.range(0, 512).is_some());
        }
    }

    /// The signal's frame has the registers at the time of a fault, which may hold keys.
    #[test]
    fn nothing_stays_of_the_signal() {
        #[inline(never)]
        fn left() -> usize {
            let mut stack = std::mem::MaybeUninit::<libc::stack_t>::zeroed();
            // SAFETY: it asks, and there is room for the answer.
            let (result, stack) =
                unsafe { (libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr()), stack.assume_init()) };
            assert!(result == 0 && !stack.ss_sp.is_null(), "the Rust runtime gives each thread such a stack");
            // SAFETY: the stack is this thread's, and no handler runs.
            let bytes = unsafe { std::slice::from_raw_parts(stack.ss_sp.cast::<u8>(), stack.ss_size) };
            bytes.iter().filter(|&&byte| byte != 0).count()
        }
        let file = file("/dev/shm", 1 << 20);
        let mapping = Mapping::new(&file, 1 << 20, Writing::Always).expect("mapping");
        let range = mapping.range(512 << 10, 512).expect("sound");
        file.set_len(4096).expect("truncated");
        crate::secret::wipe_signal_stack();
        assert_eq!(left(), 0);
        range.copy_to(&mut [1u8; 512][..]);
        assert!(!mapping.is_sound() && left() > 0, "a handler has run");
        crate::secret::wipe_signal_stack();
        assert_eq!(left(), 0);
    }

    #[test]
    fn only_a_writable_mapping_is_written_in_place() {
        let file = file("/dev/shm", 8192);
        assert!(Mapping::new(&file, 8192, Writing::Always).expect("mapping").to_write(0, 512).is_some());
        assert!(Mapping::new(&file, 8192, Writing::Never).expect("mapping").to_write(0, 512).is_none());
    }

    #[test]
    fn a_file_in_memory_is_written_in_place_where_it_was_written_twice() {
        const LEN: u64 = 1 << 20;
        let sectors = |file: &File| std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("file"));
        let memory = file("/dev/shm", LEN);
        let mapping = Mapping::new(&memory, LEN, Writing::WhereItPays).expect("mapping");
        let write = |offset: u64, len: usize| {
            std::os::unix::fs::FileExt::write_all_at(&memory, &vec![5; len], offset).expect("write");
            mapping.was_written(offset, len);
        };
        write(0, 4096);
        write(4096, 4096);
        write(0, 4096);
        assert!(mapping.to_write(0, 512).is_none(), "the rest of the block is a hole");
        assert_eq!(sectors(&memory), 16, "which stays one");
        write(0, 128 << 10);
        assert!(mapping.to_write(0, 64 << 10).is_some() && mapping.to_write(0, 128 << 10).is_none());
        write(0, 128 << 10);
        assert!(mapping.to_write(512, 128 << 10).is_none(), "it is longer than what was written");
        let range = mapping.to_write(512, (128 << 10) - 512).expect("populated");
        range.copy_from(&[9u8; 4096]);
        let mut bytes = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, 512).expect("read");
        assert_eq!(bytes, [9; 4096]);
        mapping.was_discarded(64 << 10, 4096);
        assert!(mapping.to_write(0, 64 << 10).is_some() && mapping.to_write(0, 65 << 10).is_none());

        let other = tempfile::tempfile().expect("file");
        other.set_len(LEN).expect("size");
        let mapping = Mapping::new(&other, LEN, Writing::WhereItPays).expect("mapping");
        if !mapping.in_memory {
            (0..3).for_each(|_| mapping.was_written(0, 128 << 10));
            assert!(mapping.to_write(0, 512).is_none());
        }
    }

    #[test]
    fn a_file_in_memory_is_read_in_place_where_it_has_no_hole() {
        const LEN: u64 = 4 << 20;
        let file = file("/dev/shm", LEN + 512);
        let mapping = Mapping::new(&file, LEN + 512, Writing::Never).expect("mapping");
        let write = |at, len| std::os::unix::fs::FileExt::write_all_at(&file, &vec![5; len], at).expect("write");
        assert!(mapping.to_read(0, 512).is_none() && mapping.to_read(LEN, 512).is_none());
        write(8192, 4096);
        assert!(mapping.to_read(8192, 4096).is_some() && mapping.to_read(8704, 512).is_some());
        assert!(mapping.to_read(8192, 4097).is_none() && mapping.to_read(8191, 512).is_none());
        assert!(!mapping.blocks.as_ref().expect("in memory").are_present(8192, 512));
        write(0, LEN as usize + 512);
        // Also ranges that are too long for one probe, and the end, which is less than a block.
        for (at, len) in [(0, LEN as usize), (512, LEN as usize), (LEN - 512, 1024)] {
            assert!(mapping.to_read(at, len).is_some(), "{at}, {len}");
        }
        let blocks = mapping.blocks.as_ref().expect("in memory");
        assert!(blocks.are_present(0, LEN as usize) && !blocks.are_present(LEN, 512));
        mapping.was_discarded(128 << 10, 512);
        assert!(!blocks.are_present(128 << 10, 512) && blocks.are_present(0, 128 << 10));
        assert!(mapping.to_read(128 << 10, 512).is_some(), "nothing was discarded");
    }

    #[test]
    fn ranges_end_with_the_file() {
        let file = file("/dev/shm", 8192);
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 8192], 0).expect("write");
        let mapping = Mapping::new(&file, 8192, Writing::Always).expect("mapping");
        assert!(mapping.to_read(4096, 4096).is_some());
        assert!(mapping.to_read(4096, 4097).is_none());
        assert!(mapping.to_read(u64::MAX, 1).is_none());
    }

    #[test]
    fn a_mapping_grows_with_its_file() {
        let file = file("/dev/shm", 8192);
        let mapping = Mapping::new(&file, 8192, Writing::Always).expect("mapping");
        let before = mapping.to_write(0, 8192).expect("range");
        for bytes in [12288, 4096, 1 << 20] {
            file.set_len(bytes.max(8192)).expect("size");
            mapping.extend(&file, bytes).expect("extended");
        }
        // Old and new part together. What was handed out before is the same memory.
        let after = mapping.to_write(4096, (1 << 20) - 4096).expect("range");
        after.copy_from(&[7u8; 8192]);
        let mut bytes = [0u8; 8192];
        before.copy_to(&mut bytes[..]);
        assert!(bytes[..4096] == [0; 4096] && bytes[4096..] == [7; 4096]);
        assert!(mapping.to_read(0, 1 << 30).is_none());
        // If one end is broken, nothing is used any more.
        file.set_len(8192).expect("truncated");
        mapping
            .covering(512 << 10, 512)
            .and_then(|mapping| mapping.range(512 << 10, 512))
            .expect("sound")
            .copy_to(&mut bytes[..512]);
        assert!(!mapping.is_sound() && mapping.to_read(0, 512).is_none());
    }
}
