// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reading, writing, flushing and deallocating.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::VolatileSlice;

use super::mapping::Mapping;
use super::vectored;
use crate::lock::lock;
use crate::secret::wipe_signal_stack;
use scattered_xts::Prefetch;

/// A raw image: a regular file, a block device or memory. Made by [`OpenOptions`](super::OpenOptions).
///
/// The caller must have checked ranges against [`Image::len`].
#[derive(Debug)]
pub struct Image {
    pub(super) file: File,
    /// Changed by [`Image::resize`] only.
    pub(super) len: AtomicU64,
    pub(super) read_only: bool,
    pub(super) can_discard: bool,
    pub(super) can_secure_erase: bool,
    pub(super) is_block_device: bool,
    pub(super) direct: bool,
    /// Made by [`OpenOptions::in_memory`](super::OpenOptions::in_memory).
    pub(super) in_memory: bool,
    /// The bytes, if they can be used in place.
    pub(super) mapping: Option<Mapping>,
    /// Reads can be tried without waiting (RWF_NOWAIT). Some file systems do not support that.
    pub(super) nowait: AtomicBool,
    /// `fdatasync`; another one in tests.
    pub(super) sync: fn(&File) -> io::Result<()>,
    /// Held during a flush: the system reports a failed write-back once, to the first caller.
    pub(super) flush_failed: Mutex<bool>,
}

/// How [`Image::write_zeroes`] makes zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroMode {
    /// The space stays allocated.
    Keep,
    /// The space may be freed.
    MayDeallocate,
}

/// Bytes per write when the image cannot make zeroes by itself.
const ZERO_STEP: usize = 1 << 16;

/// Aligned for O_DIRECT.
#[repr(align(4096))]
struct Zeroes([u8; ZERO_STEP]);
static ZEROES: Zeroes = Zeroes([0; ZERO_STEP]);

impl Image {
    /// The size in bytes, a multiple of 512. It may grow at any time ([`Image::resize`]), and shrinks only while nobody
    /// uses it.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether it is empty, which an opened image never is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether [`Image::discard`] can free space.
    pub fn can_discard(&self) -> bool {
        self.can_discard
    }

    /// Whether [`Image::secure_erase`] works.
    pub fn can_secure_erase(&self) -> bool {
        self.can_secure_erase
    }

    /// Whether it bypasses the host's page cache (O_DIRECT). Data must then be page-aligned.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a block device.
    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// Whether it is a memory disk.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// A range to read in place, if that neither waits for the storage nor fills a hole. What was read counts only if
    /// [`Image::in_place_is_sound`] afterwards.
    pub fn read_in_place(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        self.mapping.as_ref()?.to_read(offset, len)
    }

    /// A range to write in place, if that is as good as [`Image::write`]. What was written counts only if
    /// [`Image::in_place_is_sound`] afterwards.
    pub fn write_in_place(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        self.mapping.as_ref()?.to_write(offset, len)
    }

    /// Whether [`Image::read_in_place`] usually needs no system call.
    pub fn residency_is_cached(&self) -> bool {
        self.mapping.as_ref().is_none_or(Mapping::is_in_memory)
    }

    /// The first bytes of a range that will be read in place, to prefetch.
    pub fn prefetch_read(&self, offset: u64, len: u64) -> Option<Prefetch> {
        self.mapping.as_ref()?.prefetch_read(offset, len)
    }

    /// A range will be written in place: see [`Mapping::prefetch_write`].
    pub fn prefetch_write(&self, offset: u64, len: u64) {
        if let Some(mapping) = &self.mapping {
            mapping.prefetch_write(offset, len);
        }
    }

    /// Whether all accesses in place have worked so far. They fail when somebody has truncated the image, or when there
    /// was no space. The access must then be repeated by other means.
    pub fn in_place_is_sound(&self) -> bool {
        let sound = self.mapping.as_ref().is_some_and(Mapping::is_sound);
        if !sound {
            // A signal has struck, and its frame has the CPU's registers.
            wipe_signal_stack();
        }
        sound
    }

    /// Whether a path leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        let metadata = (std::fs::metadata(path), self.file.metadata());
        matches!(metadata, (Ok(other), Ok(ours)) if super::are_same(&other, &ours))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `pieces` from `offset` on, if that does not wait for the storage, as far as the system knows. Returns
    /// false if it would wait; some pieces may be filled.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn read_now(&self, offset: u64, pieces: &[VolatileSlice<'_>]) -> io::Result<bool> {
        if self.nowait.load(Ordering::Relaxed) {
            match vectored::read(&self.file, offset, pieces, libc::RWF_NOWAIT) {
                Ok(read) => return Ok(read == pieces.iter().map(VolatileSlice::len).sum::<usize>()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(false),
                    Some(libc::EOPNOTSUPP) => self.nowait.store(false, Ordering::Relaxed),
                    _ => return Err(error),
                },
            }
        }
        vectored::all(offset, pieces, io::ErrorKind::UnexpectedEof, |offset, rest| {
            vectored::read(&self.file, offset, rest, 0)
        })
        .map(|()| true)
    }

    /// Writes `pieces` at `offset`, as [`Image::write`].
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn write_from(&self, offset: u64, pieces: &[VolatileSlice<'_>]) -> io::Result<()> {
        vectored::all(offset, pieces, io::ErrorKind::WriteZero, |offset, rest| {
            vectored::write(&self.file, offset, rest)
        })?;
        self.was_written(offset, pieces.iter().map(VolatileSlice::len).sum());
        Ok(())
    }

    fn was_written(&self, offset: u64, len: usize) {
        if let Some(mapping) = &self.mapping {
            mapping.was_written(offset, len);
        }
    }

    /// Pages are gone, or may be.
    pub(super) fn was_discarded(&self, offset: u64, len: u64) {
        if let Some(mapping) = &self.mapping {
            mapping.was_discarded(offset, len);
        }
    }

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// The system's, or `UnexpectedEof` when somebody has truncated the image.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    /// Writes `data` at `offset`. It is durable after the next successful [`Image::flush`].
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        self.was_written(offset, data.len());
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Those of the system calls. After a failure the system has dropped the dirty pages, so a later successful flush
    /// would promise too much. So all later flushes fail until the image is opened again.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let mut failed = lock(&self.flush_failed);
        if *failed {
            return Err(io::Error::other("an earlier flush has failed"));
        }
        (self.sync)(&self.file).inspect_err(|error| {
            *failed = true;
            log::error!("a flush of the image has failed, so written data may be lost: {error}");
        })
    }

    /// Frees the space of a range, which then reads as zeroes.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(self.deallocate(FallocateFlags::PUNCH_HOLE, offset, len)?)
    }

    /// Zeroes a range in the cheapest way that the image supports.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> io::Result<()> {
        let flags = match mode {
            ZeroMode::MayDeallocate if self.can_discard => FallocateFlags::PUNCH_HOLE,
            _ => FallocateFlags::ZERO_RANGE,
        };
        match self.deallocate(flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                self.write_zero_bytes(offset, len)
            }
            result => Ok(result?),
        }
    }

    fn deallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> rustix::io::Result<()> {
        self.was_discarded(offset, len);
        let result = fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, len);
        self.was_discarded(offset, len);
        result
    }

    fn write_zero_bytes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let step = usize::try_from(len).unwrap_or(usize::MAX).min(ZERO_STEP);
            self.write(offset, ZEROES.0.get(..step).unwrap_or(&ZEROES.0))?;
            offset += step as u64; // within the image, so it cannot overflow; usize to u64 loses nothing
            len -= step as u64;
        }
        Ok(())
    }

    /// Has the storage destroy all copies of a range (`BLKSECDISCARD`).
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn secure_erase(&self, offset: u64, len: u64) -> io::Result<()> {
        super::open::secure_discard(&self.file, offset, len)
    }
}
