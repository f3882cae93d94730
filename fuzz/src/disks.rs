// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Disks in memory that complete requests at once, or later.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use vhost_user_blk_crypto::disk::{Aio, Disk, OpenOptions};

/// How requests wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, arbitrary::Arbitrary)]
pub enum DiskKind {
    /// Not at all. Data is accessed in place.
    Memory,
    /// Data is read in place and written by the worker. Helper threads execute flushes, discards and so on.
    Cached,
    /// Helper threads execute everything. The disk is large enough for requests of several steps.
    Threads,
}

impl DiskKind {
    pub fn bytes(self) -> u64 {
        match self {
            Self::Memory | Self::Cached => 64 << 10,
            Self::Threads => 1 << 20,
        }
    }

    pub fn disk(self) -> Disk {
        let options = OpenOptions { read_only: false, discard: true, direct: false, logical_block_size: 512 };
        let (image, aio) = match self {
            Self::Memory => (options.in_memory(self.bytes()), None),
            Self::Cached | Self::Threads => {
                // A file that is opened by its path, as any image.
                let file =
                    File::from(rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd"));
                file.set_len(self.bytes()).expect("memory");
                let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                (options.open(&path), Some(if self == Self::Threads { Aio::Threads } else { Aio::Sync }))
            }
        };
        Disk::new(image.expect("image"), aio).expect("disk")
    }
}
