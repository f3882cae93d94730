// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A worker's bounce buffers, and the requests that wait for one.

use std::future::poll_fn;
use std::task::Poll;

use vm_memory::VolatileSlice;

use super::worker::Worker;
use crate::disk;
use crate::tasks::Token;

impl Worker {
    /// Waits for a bounce buffer for a transfer of `len` bytes, or as many of them as fit. `None`: there is no memory.
    pub(super) async fn buffer(&self, token: Token, len: u64) -> Option<BounceBuffer<'_>> {
        let buffer = poll_fn(|_| match self.disk.borrow_mut().get_buffer(len) {
            // Otherwise nobody would return one.
            None if self.bounce_buffers.get() > 0 => {
                self.buffer_waiters.borrow_mut().push_back(token);
                Poll::Pending
            }
            buffer => Poll::Ready(buffer),
        });
        Some(self.bounce_buffer(buffer.await?))
    }

    /// As [`buffer`](Self::buffer), if there is one now.
    pub(super) fn buffer_now(&self, len: u64) -> Option<BounceBuffer<'_>> {
        let buffer = self.disk.borrow_mut().get_buffer(len)?;
        Some(self.bounce_buffer(buffer))
    }

    fn bounce_buffer(&self, buffer: disk::Buffer) -> BounceBuffer<'_> {
        self.bounce_buffers.set(self.bounce_buffers.get() + 1);
        BounceBuffer { worker: self, buffer: Some(buffer) }
    }
}

/// A bounce buffer: private memory between guest memory and the disk. Dropping it returns it to the pool.
pub(super) struct BounceBuffer<'w> {
    worker: &'w Worker,
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
        let worker = self.worker;
        if let Some(buffer) = self.buffer.take() {
            worker.disk.borrow_mut().put_buffer(buffer);
        }
        worker.bounce_buffers.set(worker.bounce_buffers.get() - 1);
        worker.ready.borrow_mut().extend(worker.buffer_waiters.borrow_mut().pop_front());
    }
}
