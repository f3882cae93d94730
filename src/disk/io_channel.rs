// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One worker's access to the image: which system call moves the data, and who waits for it.
//!
//! | [`Aio`] | data | what would wait |
//! |---|---|---|
//! | `Sync` | `preadv2`, `pwritev` in the worker: quickest for cached files | reads of pages that are not cached, flushes, discards and so on: helper threads |
//! | `IoUring` | io_uring with registered file and buffers: for O_DIRECT and block devices | helper threads, for all but data |
//! | `Threads` | helper threads | helper threads |
//!
//! With `Sync`, data is moved in place instead if possible: see [`Disk::read_in_place`].

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::buffer::{Buffer, Pool};
use super::helpers::{Action, CompletionQueue, Task};
use super::uring::Uring;
use super::{Disk, Image};

/// How data is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aio {
    /// In the worker.
    Sync,
    /// By io_uring.
    IoUring,
    /// By helper threads.
    Threads,
}

impl Aio {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoDirection {
    /// From the image.
    Read,
    /// To the image.
    Write,
}

/// A transfer between the front of a buffer and the image.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Reading or writing.
    pub direction: IoDirection,
    /// First byte in the image.
    pub offset: u64,
    /// Bytes; the buffer has room for them.
    pub len: usize,
}

impl Transfer {
    /// Moves the data in this thread.
    pub(super) fn run(self, image: &Image, buffer: &mut Buffer) -> io::Result<()> {
        match self.direction {
            IoDirection::Read => image.read(self.offset, front_mut(buffer, self.len)?),
            IoDirection::Write => image.write(self.offset, front(buffer, self.len)?),
        }
    }
}

pub(super) fn front(buffer: &Buffer, len: usize) -> io::Result<&[u8]> {
    buffer.bytes().get(..len).ok_or(io::ErrorKind::InvalidInput.into())
}

pub(super) fn front_mut(buffer: &mut Buffer, len: usize) -> io::Result<&mut [u8]> {
    buffer.bytes_mut().get_mut(..len).ok_or(io::ErrorKind::InvalidInput.into())
}

/// The result of a task for the disk.
#[derive(Debug)]
#[must_use = "the buffer must go back to the channel"]
pub struct IoCompletion {
    /// Whether it succeeded.
    pub result: io::Result<()>,
    /// The buffer of a transfer.
    pub buffer: Option<Buffer>,
}

/// One worker's access to the image.
pub struct IoChannel {
    disk: Arc<Disk>,
    pool: Pool,
    ring: Option<Uring>,
    completion_queue: Arc<CompletionQueue>,
    /// How many tasks the helpers have.
    with_helpers: usize,
}

/// Up to this many bytes of a memory disk, a worker executes an action itself.
const QUICK: u64 = 1 << 20;

/// The maximum number of tasks of a channel that the helpers have.
const MOST_WITH_HELPERS: usize = 256;

impl IoChannel {
    pub(super) fn new(disk: Arc<Disk>) -> io::Result<Self> {
        let completion_queue = Arc::new(CompletionQueue::new()?);
        let ring = if disk.aio == Aio::IoUring { disk.get_ring()? } else { None };
        let (pool, ring) = ring.map_or_else(|| (Pool::new(), None), |(pool, ring)| (pool, Some(ring)));
        Ok(Self { disk, pool, ring, completion_queue, with_helpers: 0 })
    }

    /// The image.
    pub fn image(&self) -> &Image {
        self.disk.image()
    }

    /// A buffer for a transfer of `len` bytes, or as many of them as fit. `None` when all are taken.
    pub fn get_buffer(&mut self, len: u64) -> Option<Buffer> {
        self.pool.get(len)
    }

    /// Returns a buffer.
    pub fn put_buffer(&mut self, buffer: Buffer) {
        self.pool.put(buffer);
    }

    /// How many requests may start that need a buffer or a helper.
    pub fn room(&self) -> usize {
        self.pool.available().min(MOST_WITH_HELPERS.saturating_sub(self.with_helpers))
    }

    /// How many tasks the helpers have.
    pub fn with_helpers(&self) -> usize {
        self.with_helpers
    }

    /// Moves data. Returns `None` if the completion comes later, under `token`.
    pub fn transfer(&mut self, token: usize, transfer: Transfer, mut buffer: Buffer) -> Option<IoCompletion> {
        if let Some(ring) = &mut self.ring {
            return ring.queue(token, transfer, buffer);
        }
        if self.disk.aio == Aio::Sync {
            let result = match transfer.direction {
                IoDirection::Read => front_mut(&mut buffer, transfer.len)
                    .and_then(|data| self.image().read_now(transfer.offset, &[VolatileSlice::from(data)])),
                IoDirection::Write => transfer.run(self.image(), &mut buffer).map(|()| true),
            };
            match result {
                Ok(true) => return Some(IoCompletion { result: Ok(()), buffer: Some(buffer) }),
                Ok(false) => {}
                Err(error) => return Some(IoCompletion { result: Err(error), buffer: Some(buffer) }),
            }
        }
        self.help(token, Task::Transfer(transfer, buffer));
        None
    }

    /// Makes earlier writes durable. The completion comes under `token` and has no buffer.
    pub fn flush(&mut self, token: usize) -> Option<IoCompletion> {
        if self.image().is_in_memory() {
            return Some(IoCompletion { result: self.image().flush(), buffer: None });
        }
        self.help(token, Task::Flush);
        None
    }

    /// Runs an action that may wait, on `bytes` bytes of the image. The completion comes under `token` and has no
    /// buffer.
    pub fn run(&mut self, token: usize, bytes: u64, action: Action) -> Option<IoCompletion> {
        if self.image().is_in_memory() && bytes <= QUICK {
            return Some(IoCompletion { result: action(self.image()), buffer: None });
        }
        self.help(token, Task::Action(action));
        None
    }

    fn help(&mut self, token: usize, task: Task) {
        self.with_helpers += 1;
        self.disk.helpers.submit(task, token, &self.completion_queue);
    }

    /// Submits what has been queued.
    pub fn submit(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.submit();
        }
    }

    /// Adds completions. Never waits.
    pub fn poll_completions(&mut self, completions: &mut Vec<(usize, IoCompletion)>) {
        if let Some(ring) = &mut self.ring {
            ring.poll_completions(completions);
        }
        if self.with_helpers > 0 {
            let before = completions.len();
            self.completion_queue.drain_into(completions);
            self.with_helpers -= completions.len() - before;
        }
    }

    /// Descriptors that are readable when there are completions.
    pub fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.ring.iter().map(AsFd::as_fd).chain([self.completion_queue.as_fd()]).collect()
    }
}

impl Drop for IoChannel {
    fn drop(&mut self) {
        let Some(mut ring) = self.ring.take() else { return };
        let mut completions = Vec::new();
        if ring.drain(&mut completions) && !ring.is_broken() {
            completions
                .into_iter()
                .filter_map(|(_, completion)| completion.buffer)
                .for_each(|buffer| self.pool.put(buffer));
            self.disk.put_ring(std::mem::replace(&mut self.pool, Pool::new()), ring);
        }
    }
}
