// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Moving data by io_uring, with the image's file and the pool's buffers registered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::buffer::{Buffer, Pool};
use super::lane::{Answer, Direction, Transfer};
use super::{Image, lane};

/// Entries of the submission queue: more than there are buffers, so it never runs over.
const ENTRIES: u32 = 128;

/// Place of the image among the registered files.
const IMAGE: types::Fixed = types::Fixed(0);

/// A ring of one lane.
pub struct Ring {
    ring: IoUring,
    buffers_are_registered: bool,
    flights: Slab<Flight>,
    /// Pushed and not submitted.
    unsubmitted: bool,
}

/// A transfer that the kernel has, with its buffer: that stays where it is until the kernel is done.
struct Flight {
    token: usize,
    transfer: Transfer,
    /// Bytes moved so far.
    done: usize,
    buffer: Buffer,
}

/// Whether the system lets us use io_uring.
///
/// # Errors
/// Why not: EPERM where it is forbidden, ENOSYS where it does not exist.
pub fn probe() -> io::Result<()> {
    IoUring::new(1).map(drop)
}

impl Ring {
    /// A ring for `image`, with all buffers of `pool`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(image: &Image, pool: &mut Pool) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
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
        // SAFETY: the addresses are of the pool's buffers, which are written by the kernel only for an operation that
        // names them, and such an operation owns its buffer (`Flight`). Should a buffer be freed earlier than the ring,
        // the kernel still holds its pages.
        let registered = unsafe { ring.submitter().register_buffers(&buffers) };
        if let Err(error) = &registered {
            log::debug!("io_uring works without registered buffers: {error}");
        }
        Ok(Self { ring, buffers_are_registered: registered.is_ok(), flights: Slab::new(), unsubmitted: false })
    }

    /// Starts a transfer. An answer at once means that it could not be started.
    pub fn start(&mut self, token: usize, transfer: Transfer, buffer: Buffer) -> Option<Answer> {
        if transfer.len > buffer.capacity() {
            return Some(Answer { result: Err(io::ErrorKind::InvalidInput.into()), buffer: Some(buffer) });
        }
        let flight = self.flights.insert(Flight { token, transfer, done: 0, buffer });
        match self.push(flight) {
            Ok(()) => None,
            Err(error) => self.land(flight, Err(error)).map(|(_, answer)| answer),
        }
    }

    /// Queues what is left of a transfer.
    fn push(&mut self, number: usize) -> io::Result<()> {
        let Some(flight) = self.flights.get_mut(number) else { return Ok(()) };
        let entry = flight.entry(self.buffers_are_registered)?.user_data(number as u64); // usize to u64 loses nothing
        // SAFETY: the entry's buffer is owned by the flight, which stays in `flights` until the kernel has answered,
        // and does not move: the bytes are on the heap. The image's file is registered with the ring.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Full of entries that were not submitted yet.
            self.ring.submit()?;
        }
        self.unsubmitted = true;
        Ok(())
    }

    /// Tells the kernel of what was started.
    pub fn submit(&mut self) {
        if std::mem::take(&mut self.unsubmitted)
            && let Err(error) = self.ring.submit()
        {
            // EAGAIN, EBUSY, EINTR: next time. Whoever has flights comes again.
            log::debug!("io_uring: {error}");
            self.unsubmitted = true;
        }
    }

    /// Adds what has been answered.
    pub fn answers(&mut self, answers: &mut Vec<(usize, Answer)>) {
        if self.flights.is_empty() {
            return;
        }
        self.submit();
        while let Some(completion) = self.completion() {
            let Ok(number) = usize::try_from(completion.user_data()) else { continue };
            match self.progress(number, completion.result()) {
                Ok(true) => answers.extend(self.land(number, Ok(()))),
                // There is a rest to do.
                Ok(false) => {
                    if let Err(error) = self.push(number) {
                        answers.extend(self.land(number, Err(error)));
                    }
                }
                Err(error) => answers.extend(self.land(number, Err(error))),
            }
        }
        self.submit();
    }

    fn completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Notes a result of the kernel. True when the transfer is complete.
    fn progress(&mut self, number: usize, result: i32) -> io::Result<bool> {
        let Some(flight) = self.flights.get_mut(number) else { return Ok(false) };
        match usize::try_from(result) {
            Ok(0) => Err(match flight.transfer.direction {
                // Somebody has truncated the image.
                Direction::Read => io::ErrorKind::UnexpectedEof.into(),
                Direction::Write => io::ErrorKind::WriteZero.into(),
            }),
            Ok(moved) => {
                flight.done = flight.done.saturating_add(moved);
                Ok(flight.done >= flight.transfer.len)
            }
            Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => Ok(false),
            Err(_) => Err(io::Error::from_raw_os_error(result.saturating_neg())),
        }
    }

    fn land(&mut self, number: usize, result: io::Result<()>) -> Option<(usize, Answer)> {
        let flight = self.flights.try_remove(number)?;
        Some((flight.token, Answer { result, buffer: Some(flight.buffer) }))
    }
}

impl Flight {
    fn entry(&mut self, registered: bool) -> io::Result<squeue::Entry> {
        let Transfer { direction, offset, len } = self.transfer;
        let offset = offset + self.done as u64; // within the image; usize to u64 loses nothing
        let index = self.buffer.index() as u16; // a pool has less than 128
        let rest = lane::front_mut(&mut self.buffer, len)?.get_mut(self.done..).unwrap_or_default();
        let (start, len) = (rest.as_mut_ptr(), rest.len() as u32); // a buffer has 256 KiB at the most
        Ok(match (direction, registered) {
            (Direction::Read, true) => opcode::ReadFixed::new(IMAGE, start, len, index).offset(offset).build(),
            (Direction::Write, true) => opcode::WriteFixed::new(IMAGE, start, len, index).offset(offset).build(),
            (Direction::Read, false) => opcode::Read::new(IMAGE, start, len).offset(offset).build(),
            (Direction::Write, false) => opcode::Write::new(IMAGE, start, len).offset(offset).build(),
        })
    }
}

impl AsFd for Ring {
    /// Readable when there are answers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor is open as long as the ring lives, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The buffers of what is in flight belong to the kernel until it answers.
        let mut answers = Vec::new();
        while !self.flights.is_empty() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.raw_os_error() != Some(libc::EINTR)
            {
                log::error!("io_uring: {error}; giving up {} buffers", self.flights.len());
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            self.answers(&mut answers);
            answers.clear();
        }
        // Else the system keeps the image open, and locked, for a while. It cannot do more than fail.
        let _ = self.ring.submitter().unregister_files();
    }
}
