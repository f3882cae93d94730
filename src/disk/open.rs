// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Opening an image: its kind, its size, what it supports, and a lock against other writers.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, major, minor};

use super::Image;
use super::SECTOR_SIZE;
use super::mapping::{Mapping, Writing};

/// How to open an image.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Use the image's ability to free space, if it has it.
    pub discard: bool,
    /// Bypass the host's page cache (O_DIRECT).
    pub direct: bool,
    /// The image must be a multiple of this, which is a power of two and at least 512.
    pub logical_block_size: u32,
}

/// Why an image cannot be used. The messages say what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum OpenError {
    #[error("cannot open the image {}: {error}{}", path.display(), hint(error))]
    Open { path: PathBuf, error: io::Error },
    #[error("{} is neither a regular file nor a block device; --blk-file takes a raw image", .0.display())]
    Kind(PathBuf),
    #[error("the image {} is empty; give it a size, for example: truncate -s 1G {}", .0.display(), .0.display())]
    Empty(PathBuf),
    #[error(
        "the image {} has {len} bytes, which is not a multiple of the block size {block}; enlarge it, for example: \
         truncate -s {} {}", path.display(), len.next_multiple_of(u64::from(*block)), path.display()
    )]
    Size { path: PathBuf, len: u64, block: u32 },
    #[error(
        "{} has logical blocks of {device} bytes, which cannot serve a disk with {block}; use --logical-block-size \
         {device}", path.display()
    )]
    BlockSize { path: PathBuf, device: u32, block: u32 },
    #[error(
        "the image {} cannot be read with O_DIRECT in blocks of {block} bytes: {error}; use --cache writeback, or \
         a larger --logical-block-size (4096 is what most file systems need)", path.display()
    )]
    Direct { path: PathBuf, block: u32, error: io::Error },
    #[error("cannot make a memory disk of {len} bytes: {error}; --blk-ram takes a multiple of the block size {block}")]
    Memory { len: u64, block: u32, error: io::Error },
    #[error(
        "the image {} is in use by another device; stop that one, or open it with --read-only here", .0.display()
    )]
    Locked(PathBuf),
    #[error("cannot use the image {}: {error}", path.display())]
    Other { path: PathBuf, error: io::Error },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make one, for example with truncate -s 1G FILE",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; --read-only needs no write permission"
        }
        _ => "",
    }
}

impl OpenOptions {
    /// Opens and locks a raw image. Never guesses a format from the content.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(self, path: &Path) -> Result<Image, OpenError> {
        let owned = || path.to_owned();
        let other = |error: io::Error| OpenError::Other { path: owned(), error };

        let kind = std::fs::metadata(path).map_err(|error| OpenError::Open { path: owned(), error })?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            // Before opening: opening a pipe would wait for its other end.
            return Err(OpenError::Kind(owned()));
        }
        let mut file = File::options()
            .read(true)
            .write(!self.read_only)
            .custom_flags(if self.direct { libc::O_DIRECT } else { 0 })
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) if self.direct => {
                    OpenError::Direct { path: owned(), block: self.logical_block_size, error }
                }
                _ => OpenError::Open { path: owned(), error },
            })?;
        lock(&file, self.read_only, path)?;

        // Also works for block devices.
        let len = file.seek(SeekFrom::End(0)).map_err(other)?;
        if len == 0 {
            return Err(OpenError::Empty(owned()));
        }
        let block = self.logical_block_size;
        if len % u64::from(block).max(SECTOR_SIZE) != 0 {
            return Err(OpenError::Size { path: owned(), len, block });
        }
        let is_block_device = kind.is_block_device();
        if is_block_device {
            let device = rustix::fs::ioctl_blksszget(&file).map_err(|error| other(error.into()))?;
            if device > block {
                return Err(OpenError::BlockSize { path: owned(), device, block });
            }
        }
        let can_discard = self.discard
            && !self.read_only
            && if is_block_device { block_device_discards(&file) } else { file_system_punches_holes(&file, len) };
        let can_secure_erase = !self.read_only && is_block_device && block_device_erases(&file);
        let writing = if self.read_only { Writing::Never } else { Writing::WhereItPays };
        let mapping = (!self.direct && !is_block_device)
            .then(|| Mapping::new(&file, len, writing))
            .and_then(|mapping| mapping.inspect_err(|error| log::debug!("the image is not mapped: {error}")).ok());
        let image = Image {
            file,
            len: AtomicU64::new(len),
            read_only: self.read_only,
            can_discard,
            can_secure_erase,
            is_block_device,
            direct: self.direct,
            in_memory: false,
            mapping,
            nowait: AtomicBool::new(!self.direct),
            sync: File::sync_data,
            flush_failed: Mutex::new(false),
        };
        if self.direct {
            image.check_alignment(block).map_err(|error| OpenError::Direct { path: owned(), block, error })?;
        }
        Ok(image)
    }

    /// Creates an image of zeroes in memory.
    ///
    /// # Errors
    /// [`OpenError::Memory`].
    pub fn in_memory(self, len: u64) -> Result<Image, OpenError> {
        let block = self.logical_block_size;
        let failed = |error: io::Error| OpenError::Memory { len, block, error };
        if len == 0 || !len.is_multiple_of(u64::from(block).max(SECTOR_SIZE)) {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let file = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let file = File::from(file);
        file.set_len(len).map_err(failed)?;
        let writing = if self.read_only { Writing::Never } else { Writing::Always };
        let mapping = Some(Mapping::new(&file, len, writing).map_err(failed)?);
        Ok(Image {
            file,
            len: AtomicU64::new(len),
            read_only: self.read_only,
            can_discard: self.discard && !self.read_only,
            can_secure_erase: false,
            is_block_device: false,
            direct: false,
            in_memory: true,
            mapping,
            nowait: AtomicBool::new(false),
            // Nothing needs to outlive the process.
            sync: |_| Ok(()),
            flush_failed: Mutex::new(false),
        })
    }
}

impl Image {
    /// Whether O_DIRECT supports this block size: some file systems and disks need larger blocks.
    fn check_alignment(&self, block: u32) -> io::Result<()> {
        let mut pool = super::buffer::Pool::new();
        let mut buffer = pool.get(block.into()).ok_or(io::ErrorKind::OutOfMemory)?;
        // The offset of the last block is the least aligned.
        let data = super::io_channel::front_mut(&mut buffer, block as usize)?; // u32 to usize loses nothing
        self.read(self.len() - u64::from(block), data)
    }
}

/// How long to wait for a lock: after a process has ended, the kernel keeps the files of its io_uring for a while.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

fn try_lock(file: &File, read_only: bool) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match if read_only { file.try_lock_shared() } else { file.try_lock() } {
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// A writer needs the image alone. Readers share it, and may read an image that is being written.
fn lock(file: &File, read_only: bool, path: &Path) -> Result<(), OpenError> {
    match try_lock(file, read_only) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) if read_only => {
            log::warn!("the image {} is being written by another device, so reads may be inconsistent", path.display());
            Ok(())
        }
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Other { path: path.to_owned(), error }),
    }
}

/// Whether two paths or descriptors lead to the same regular file, or to the same block device.
pub fn are_same(one: &Metadata, other: &Metadata) -> bool {
    let file = |file: &Metadata| file.is_file().then(|| (file.dev(), file.ino()));
    let device = |file: &Metadata| file.file_type().is_block_device().then(|| file.rdev());
    (file(one).is_some() && file(one) == file(other)) || (device(one).is_some() && device(one) == device(other))
}

/// Punches a hole past the end of the file. This changes nothing, but shows whether the file system supports it.
fn file_system_punches_holes(file: &File, len: u64) -> bool {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, len, SECTOR_SIZE).is_ok()
}

fn block_device_discards(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let device = metadata.rdev();
    let directory = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    // A partition has no queue directory; its disk, one level up, has.
    ["queue", "../queue"].iter().any(|queue| {
        // Discarded space must read as zeroes, which the kernel ensures with the second limit.
        ["discard_max_bytes", "write_zeroes_max_bytes"].iter().all(|limit| {
            std::fs::read_to_string(format!("{directory}/{queue}/{limit}"))
                .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
        })
    })
}

/// The kernel checks for support before the range, and no device accepts a range that is not aligned.
fn block_device_erases(file: &File) -> bool {
    secure_discard(file, 1, 1).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

pub(super) fn secure_discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    /// `_IO(0x12, 125)`, <linux/fs.h>.
    const BLKSECDISCARD: libc::Ioctl = 0x127d;
    let range = [offset, len];
    // SAFETY: BLKSECDISCARD reads two 64-bit numbers from the address; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKSECDISCARD, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
