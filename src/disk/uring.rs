// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Moving data by io_uring, with the image's file and the pool's buffers registered.
//!
//! A ring is restricted to reading and writing the registered file. So it cannot circumvent the sandbox, which does not
//! see its operations.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::buffer::{Buffer, Pool};
use super::io_channel::{IoCompletion, IoDirection, Transfer};
use super::{Image, io_channel};
use crate::probe;
use crate::ratelimit::log_limited;

/// Entries of the submission queue: more than there are buffers, so it never overflows.
const ENTRIES: u32 = 128;

/// Pause between two attempts to submit.
const PAUSE: Duration = Duration::from_millis(1);

/// Index of the image among the registered files.
const IMAGE: types::Fixed = types::Fixed(0);

/// A ring of one channel.
pub struct Uring {
    ring: IoUring,
    buffers_are_registered: bool,
    in_flight: Slab<InFlight>,
    /// Entries are pushed and not submitted.
    unsubmitted: bool,
    /// The kernel accepts no submissions any more, with this error.
    broken: Option<i32>,
    /// `io_uring_enter(2)`; another one in tests.
    enter: fn(&IoUring) -> io::Result<usize>,
}

/// A transfer in the kernel, with its buffer, which must stay in place until the kernel is done.
struct InFlight {
    token: usize,
    transfer: Transfer,
    /// Bytes moved so far.
    done: usize,
    buffer: Buffer,
}

/// `IOSQE_FIXED_FILE`, and `IORING_UNREGISTER_FILES`, of <linux/io_uring.h>.
const FIXED_FILE: u8 = 1;
const UNREGISTER_FILES: u8 = 3;

/// Whether io_uring is usable: all three of its system calls, and the features that we need.
///
/// # Errors
/// Why not: EPERM where it is forbidden, ENOSYS where it does not exist, EINVAL before Linux 5.10.
pub fn probe() -> io::Result<()> {
    let all = || {
        let mut ring = disabled(1)?;
        restrict(&ring, &[opcode::Nop::CODE], 0)?;
        // SAFETY: it names no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1).map(drop)
    };
    // A filter around this program may kill it for these calls.
    if probe::is_filtered() && !probe::is_allowed(|| all().is_ok()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    all()
}

/// A ring that does nothing until [`restrict`].
fn disabled(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().setup_r_disabled().build(entries)
}

/// Enables a ring, with these operations and flags only.
fn restrict(ring: &IoUring, operations: &[u8], flags: u8) -> io::Result<()> {
    let operations = operations.iter().map(|&operation| Restriction::sqe_op(operation));
    let mut all = vec![
        Restriction::register_op(UNREGISTER_FILES),
        Restriction::sqe_flags_allowed(flags),
        Restriction::sqe_flags_required(flags),
    ];
    all.extend(operations);
    ring.submitter().register_restrictions(&mut all)?;
    ring.submitter().register_enable_rings()
}

impl Uring {
    /// A ring for `image`, with all buffers of `pool`.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn new(image: &Image, pool: &mut Pool) -> io::Result<Self> {
        let ring = disabled(ENTRIES)?;
        ring.submitter().register_files(&[image.file().as_raw_fd()])?;
        if !pool.make_all() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut buffers: Vec<_> = pool.iter_mut().collect();
        buffers.sort_unstable_by_key(|buffer| buffer.index());
        let buffers: Vec<_> = buffers
            .into_iter()
            .map(|buffer| libc::iovec { iov_base: buffer.bytes_mut().as_mut_ptr().cast(), iov_len: buffer.capacity() })
            .collect();
        // SAFETY: the addresses belong to the pool's buffers. The kernel writes a buffer only for an operation that
        // names it, and such an operation owns its buffer (`InFlight`). If a buffer is freed before the ring, the
        // kernel still holds its pages.
        let registered = unsafe { ring.submitter().register_buffers(&buffers) };
        if let Err(error) = &registered {
            log::debug!("io_uring works without registered buffers: {error}");
        }
        let buffers_are_registered = registered.is_ok();
        let operations = match buffers_are_registered {
            true => [opcode::ReadFixed::CODE, opcode::WriteFixed::CODE],
            false => [opcode::Read::CODE, opcode::Write::CODE],
        };
        restrict(&ring, &operations, FIXED_FILE)?;
        let in_flight = Slab::new();
        Ok(Self {
            ring,
            buffers_are_registered,
            in_flight,
            unsubmitted: false,
            broken: None,
            enter: |ring| ring.submit(),
        })
    }

    /// Queues a transfer. A completion at once means that it could not be started.
    pub fn queue(&mut self, token: usize, transfer: Transfer, buffer: Buffer) -> Option<IoCompletion> {
        if let Some(error) = self.broken {
            return Some(IoCompletion { result: Err(io::Error::from_raw_os_error(error)), buffer: Some(buffer) });
        }
        if transfer.len > buffer.capacity() {
            return Some(IoCompletion { result: Err(io::ErrorKind::InvalidInput.into()), buffer: Some(buffer) });
        }
        let flight = self.in_flight.insert(InFlight { token, transfer, done: 0, buffer });
        match self.push(flight) {
            Ok(()) => None,
            Err(error) => self.complete(flight, Err(error)).map(|(_, completion)| completion),
        }
    }

    /// Pushes the rest of a transfer.
    fn push(&mut self, number: usize) -> io::Result<()> {
        let Some(flight) = self.in_flight.get_mut(number) else { return Ok(()) };
        let entry = flight.entry(self.buffers_are_registered)?.user_data(number as u64); // usize to u64 loses nothing
        // SAFETY: the flight owns the entry's buffer, and stays in `in_flight` until the kernel is done. The bytes are
        // on the heap and do not move. The image's file is registered with the ring.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The queue is full of entries that are not submitted yet.
            self.ring.submit()?;
        }
        self.unsubmitted = true;
        Ok(())
    }

    /// Submits queued transfers. The kernel may take only a part, or nothing for now (EAGAIN, EBUSY, EINTR). The rest
    /// is submitted again: at once, or when the kernel completes something and the owner of the ring returns. Only if
    /// there is nothing to complete does this wait.
    pub fn submit(&mut self) {
        while self.unsubmitted && self.broken.is_none() {
            let taken = (self.enter)(&self.ring);
            let left = self.ring.submission().len();
            self.unsubmitted = left > 0;
            match taken {
                Ok(1..) => continue,
                Ok(0) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN | libc::EBUSY) => log::debug!("io_uring: {error}"),
                    code => {
                        log_limited!(error, "io_uring: {error}; please report this");
                        self.broken = Some(code.unwrap_or(libc::EIO));
                    }
                },
            }
            if self.in_flight.len() > left {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether it fails all transfers from now on.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Adds completions.
    pub fn poll_completions(&mut self, completions: &mut Vec<(usize, IoCompletion)>) {
        if self.in_flight.is_empty() {
            return;
        }
        self.submit();
        while let Some(completion) = self.completion() {
            let Ok(number) = usize::try_from(completion.user_data()) else { continue };
            match self.progress(number, completion.result()) {
                Ok(true) => completions.extend(self.complete(number, Ok(()))),
                // The rest is still to be moved.
                Ok(false) => {
                    if let Err(error) = self.push(number) {
                        completions.extend(self.complete(number, Err(error)));
                    }
                }
                Err(error) => completions.extend(self.complete(number, Err(error))),
            }
        }
        self.submit();
        if let Some(error) = self.broken
            && self.in_flight.len() == self.ring.submission().len()
        {
            // The kernel has none of these, and no more are submitted.
            let numbers: Vec<_> = self.in_flight.iter().map(|(number, _)| number).collect();
            let failed = |number| self.complete(number, Err(io::Error::from_raw_os_error(error)));
            completions.extend(numbers.into_iter().filter_map(failed));
        }
    }

    fn completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Records a result of the kernel. Returns true when the transfer is complete.
    fn progress(&mut self, number: usize, result: i32) -> io::Result<bool> {
        let Some(flight) = self.in_flight.get_mut(number) else { return Ok(false) };
        match usize::try_from(result) {
            Ok(0) => Err(match flight.transfer.direction {
                // Somebody has truncated the image.
                IoDirection::Read => io::ErrorKind::UnexpectedEof.into(),
                IoDirection::Write => io::ErrorKind::WriteZero.into(),
            }),
            Ok(moved) => {
                flight.done = flight.done.saturating_add(moved);
                Ok(flight.done >= flight.transfer.len)
            }
            Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => Ok(false),
            Err(_) => Err(io::Error::from_raw_os_error(result.saturating_neg())),
        }
    }

    fn complete(&mut self, number: usize, result: io::Result<()>) -> Option<(usize, IoCompletion)> {
        let flight = self.in_flight.try_remove(number)?;
        Some((flight.token, IoCompletion { result, buffer: Some(flight.buffer) }))
    }
}

impl InFlight {
    fn entry(&mut self, registered: bool) -> io::Result<squeue::Entry> {
        let Transfer { direction, offset, len } = self.transfer;
        let offset = offset + self.done as u64; // within the image; usize to u64 loses nothing
        let index = self.buffer.index() as u16; // a pool has less than 128
        let rest = io_channel::front_mut(&mut self.buffer, len)?.get_mut(self.done..).unwrap_or_default();
        let (start, len) = (rest.as_mut_ptr(), rest.len() as u32); // a buffer has 256 KiB at the most
        Ok(match (direction, registered) {
            (IoDirection::Read, true) => opcode::ReadFixed::new(IMAGE, start, len, index).offset(offset).build(),
            (IoDirection::Write, true) => opcode::WriteFixed::new(IMAGE, start, len, index).offset(offset).build(),
            (IoDirection::Read, false) => opcode::Read::new(IMAGE, start, len).offset(offset).build(),
            (IoDirection::Write, false) => opcode::Write::new(IMAGE, start, len).offset(offset).build(),
        })
    }
}

impl AsFd for Uring {
    /// Readable when there are completions.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor is open as long as the ring lives, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Uring {
    /// Waits for all transfers in flight, and adds them. Returns false if the kernel keeps some forever.
    pub fn drain(&mut self, completions: &mut Vec<(usize, IoCompletion)>) -> bool {
        // The kernel owns the buffers in flight until it is done.
        while !self.in_flight.is_empty() {
            self.poll_completions(completions);
            if self.in_flight.is_empty() {
                break;
            }
            // Completions up to here have been added.
            if let Err(error) = self.ring.submitter().submit_and_wait(1)
                && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
            {
                log_limited!(error, "io_uring: {error}; giving up {} buffers", self.in_flight.len());
                std::mem::forget(std::mem::take(&mut self.in_flight));
                return false;
            }
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain(&mut Vec::new());
        // Otherwise the system keeps the image open, and locked, for a while. A failure is harmless.
        let _ = self.ring.submitter().unregister_files();
    }
}

#[cfg(test)]
mod tests;
