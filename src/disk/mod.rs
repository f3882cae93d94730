// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The disk: offsets and bytes, encrypted or not. No keys, no DUNs, no virtio.
//!
//! [`Image`] is the image and its operations, which may wait. [`IoChannel`] is one worker's access to it, which does
//! not wait: [`Buffer`]s go to the disk and come back with an [`IoCompletion`].

mod blocks;
mod buffer;
mod helpers;
mod image;
mod io_channel;
mod mapping;
mod open;
mod resident;
mod resize;
mod uring;
mod vectored;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use vm_memory::VolatileSlice;

use scattered_xts::Prefetch;

use crate::lock::lock;
pub use buffer::Buffer;
pub use image::{Image, ZeroMode};
pub use io_channel::{Aio, IoChannel, IoCompletion, IoDirection, Transfer};
pub use open::{OpenError, OpenOptions, are_same};
pub use resize::ResizeError;
pub use uring::probe as probe_io_uring;

/// Bytes of a sector, whatever the logical block size.
pub const SECTOR_SIZE: u64 = 1 << SECTOR_SHIFT;
/// Binary logarithm of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;

/// An image and the access to it.
pub struct Disk {
    image: Arc<Image>,
    aio: Aio,
    helpers: helpers::Helpers,
    rings: Mutex<IdleRings>,
}

/// io_uring rings that no channel uses, each with its registered buffers.
#[derive(Default)]
struct IdleRings {
    idle: Vec<(buffer::Pool, uring::Uring)>,
    /// No more are created.
    complete: bool,
}

impl Disk {
    /// Creates a disk. Without `aio`, the image decides: io_uring for a block device and with O_DIRECT (threads where
    /// io_uring is forbidden), system calls in the worker for a cached file.
    ///
    /// # Errors
    /// When io_uring is requested and the system refuses it.
    pub fn new(image: Image, aio: Option<Aio>) -> io::Result<Self> {
        let aio = match aio {
            None if image.is_in_memory() => Aio::Sync,
            None if image.is_direct() || image.is_block_device() => match uring::probe() {
                Ok(()) => Aio::IoUring,
                Err(error) => {
                    log::warn!("io_uring cannot be used here ({error}); helper threads are used instead");
                    Aio::Threads
                }
            },
            None => Aio::Sync,
            Some(Aio::IoUring) => uring::probe().map(|()| Aio::IoUring)?,
            Some(aio) => aio,
        };
        let image = Arc::new(image);
        let helpers = helpers::Helpers::new(Arc::clone(&image));
        Ok(Self { aio, helpers, image, rings: Mutex::default() })
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// How data is moved.
    pub fn aio(&self) -> Aio {
        self.aio
    }

    /// A range to read in place: see [`Image::read_in_place`].
    pub fn read_in_place(&self, offset: u64, len: u64) -> Option<VolatileSlice<'_>> {
        let len = usize::try_from(len).ok()?;
        if self.aio == Aio::Sync { self.image().read_in_place(offset, len) } else { None }
    }

    /// A range to write in place: see [`Image::write_in_place`].
    pub fn write_in_place(&self, offset: u64, len: u64) -> Option<VolatileSlice<'_>> {
        let len = usize::try_from(len).ok()?;
        if self.aio == Aio::Sync { self.image().write_in_place(offset, len) } else { None }
    }

    /// A range will be read: if that is done in place, returns its first bytes to prefetch.
    pub fn prefetch_read(&self, offset: u64, len: u64) -> Option<Prefetch> {
        if self.aio == Aio::Sync { self.image().prefetch_read(offset, len) } else { None }
    }

    /// A range will be written: if that is done in place, makes the CPU look up its address.
    pub fn prefetch_write(&self, offset: u64, len: u64) {
        if self.aio == Aio::Sync {
            self.image().prefetch_write(offset, len);
        }
    }

    /// Moves data between guest memory and the image without a buffer, if that is possible now. If it returns false,
    /// use [`IoChannel::transfer`].
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn transfer_directly(
        &self,
        direction: IoDirection,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<bool> {
        match direction {
            _ if self.aio != Aio::Sync || self.image().is_direct() => Ok(false),
            IoDirection::Read => self.image().read_now(offset, pieces),
            IoDirection::Write => self.image().write_from(offset, pieces).map(|()| true),
        }
    }

    /// Creates the io_uring rings for this many channels before the sandbox, which allows no new ones. Channels reuse
    /// them. A channel without a ring moves data by helper threads.
    ///
    /// # Errors
    /// When there is no memory, or the system refuses a ring.
    pub fn prepare(&self, channels: usize) -> io::Result<()> {
        let mut rings = self.rings();
        while self.aio == Aio::IoUring && rings.idle.len() < channels {
            rings.idle.push(self.new_ring()?);
        }
        rings.complete = true;
        Ok(())
    }

    fn rings(&self) -> MutexGuard<'_, IdleRings> {
        // A panic elsewhere cannot leave a plain list half-changed.
        lock(&self.rings)
    }

    fn new_ring(&self) -> io::Result<(buffer::Pool, uring::Uring)> {
        let mut pool = buffer::Pool::new();
        let ring = uring::Uring::new(&self.image, &mut pool)?;
        Ok((pool, ring))
    }

    /// A ring for a channel, if there is one.
    fn get_ring(&self) -> io::Result<Option<(buffer::Pool, uring::Uring)>> {
        let mut rings = self.rings();
        match rings.idle.pop() {
            None if !rings.complete => self.new_ring().map(Some),
            ring => Ok(ring),
        }
    }

    fn put_ring(&self, pool: buffer::Pool, ring: uring::Uring) {
        self.rings().idle.push((pool, ring));
    }

    /// Creates a channel for a worker.
    ///
    /// # Errors
    /// When there is no memory, or the system refuses descriptors or a ring.
    pub fn io_channel(self: &Arc<Self>) -> io::Result<IoChannel> {
        IoChannel::new(Arc::clone(self))
    }
}

#[cfg(test)]
mod tests;
