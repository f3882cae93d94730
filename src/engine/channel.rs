// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One worker's access to one disk, and its bounce buffers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use vm_memory::VolatileSlice;

use crate::disk::{self, Disk, IoChannel};
use crate::tasks::Token;

/// A disk, and a worker's channel to it.
pub(super) struct Channel {
    pub(super) disk: Arc<Disk>,
    /// The disk's number.
    pub(super) number: usize,
    pub(super) io: RefCell<IoChannel>,
    /// Bounce buffers in use.
    bounce_buffers: Cell<usize>,
    /// Requests that wait for a bounce buffer.
    buffer_waiters: RefCell<VecDeque<Token>>,
}

impl Channel {
    pub(super) fn new((number, disk): (usize, &Arc<Disk>)) -> io::Result<Self> {
        Ok(Self {
            io: RefCell::new(disk.io_channel()?),
            disk: Arc::clone(disk),
            number,
            bounce_buffers: Cell::new(0),
            buffer_waiters: RefCell::default(),
        })
    }

    /// Waits for a bounce buffer for a transfer of `len` bytes, or as many of them as fit. `None`: there is no memory. `ready`: whom
    /// the worker polls next.
    pub(super) async fn buffer<'w>(
        &'w self,
        ready: &'w RefCell<Vec<Token>>,
        token: Token,
        len: u64,
    ) -> Option<BounceBuffer<'w>> {
        let buffer = poll_fn(|_| match self.io.borrow_mut().get_buffer(len) {
            // Otherwise nobody would return one.
            None if self.bounce_buffers.get() > 0 => {
                self.buffer_waiters.borrow_mut().push_back(token);
                Poll::Pending
            }
            buffer => Poll::Ready(buffer),
        });
        Some(self.bounce_buffer(ready, buffer.await?))
    }

    /// As [`buffer`](Self::buffer), if there is one now.
    pub(super) fn buffer_now<'w>(&'w self, ready: &'w RefCell<Vec<Token>>, len: u64) -> Option<BounceBuffer<'w>> {
        let buffer = self.io.borrow_mut().get_buffer(len)?;
        Some(self.bounce_buffer(ready, buffer))
    }

    fn bounce_buffer<'w>(&'w self, ready: &'w RefCell<Vec<Token>>, buffer: disk::Buffer) -> BounceBuffer<'w> {
        self.bounce_buffers.set(self.bounce_buffers.get() + 1);
        BounceBuffer { channel: self, ready, buffer: Some(buffer) }
    }
}

/// A bounce buffer: private memory between guest memory and the disk. Dropping it returns it to the pool.
pub(super) struct BounceBuffer<'w> {
    channel: &'w Channel,
    ready: &'w RefCell<Vec<Token>>,
    /// `None` while the disk has it.
    pub(super) buffer: Option<disk::Buffer>,
}

impl BounceBuffer<'_> {
    /// How many of `len` bytes fit.
    pub(super) fn capacity_for(&self, len: u64) -> usize {
        let capacity = self.buffer.as_ref().map_or(0, disk::Buffer::capacity);
        usize::try_from(len).unwrap_or(usize::MAX).min(capacity)
    }

    /// Its first `len` bytes.
    pub(super) fn piece(&mut self, len: usize) -> VolatileSlice<'_> {
        match &mut self.buffer {
            Some(buffer) => buffer.piece(len),
            None => VolatileSlice::from(&mut [][..]),
        }
    }

    /// What its first `len` bytes hold.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        self.buffer.as_ref().and_then(|buffer| buffer.bytes().get(..len)).unwrap_or_default()
    }
}

impl Drop for BounceBuffer<'_> {
    fn drop(&mut self) {
        let channel = self.channel;
        if let Some(buffer) = self.buffer.take() {
            channel.io.borrow_mut().put_buffer(buffer);
        }
        channel.bounce_buffers.set(channel.bounce_buffers.get() - 1);
        self.ready.borrow_mut().extend(channel.buffer_waiters.borrow_mut().pop_front());
    }
}
