// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One worker's access to one disk, and its bounce buffers.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::wait_queue::WaitQueue;
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
    buffer_waiters: WaitQueue,
}

impl Channel {
    pub(super) fn new((number, disk): (usize, &Arc<Disk>)) -> io::Result<Self> {
        Ok(Self {
            io: RefCell::new(disk.io_channel()?),
            disk: Arc::clone(disk),
            number,
            bounce_buffers: Cell::new(0),
            buffer_waiters: WaitQueue::default(),
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
        let take = || match self.io.borrow_mut().get_buffer(len) {
            // Somebody returns one.
            None if self.bounce_buffers.get() > 0 => None,
            buffer => Some(buffer.map(|buffer| self.bounce_buffer(ready, buffer))),
        };
        self.buffer_waiters.take(token, ready, take).await
    }

    /// How many requests may start.
    pub(super) fn room(&self) -> usize {
        self.io.borrow().room().saturating_sub(self.buffer_waiters.len())
    }

    /// As [`buffer`](Self::buffer), if there is one now for which nobody waits.
    pub(super) fn buffer_now<'w>(&'w self, ready: &'w RefCell<Vec<Token>>, len: u64) -> Option<BounceBuffer<'w>> {
        if self.buffer_waiters.len() > 0 {
            return None;
        }
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
        channel.buffer_waiters.announce(self.ready);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::disk::{Aio, OpenOptions};

    /// A request that has waited gets the buffer that is returned, not one that comes later.
    #[test]
    fn buffers_go_to_whom_has_waited() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(1 << 20).expect("size");
        let options = OpenOptions { read_only: false, discard: true, direct: false, logical_block_size: 512 };
        let disk = Arc::new(Disk::new(options.open(file.path()).expect("image"), Some(Aio::Threads)).expect("disk"));
        let channel = Channel::new((0, &disk)).expect("channel");
        let ready = RefCell::default();
        let mut taken: Vec<_> = std::iter::from_fn(|| channel.buffer_now(&ready, 4096)).collect();
        assert!(taken.len() > 1 && channel.room() == 0);

        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(channel.buffer(&ready, 1, 4096));
        let mut second = pin!(channel.buffer(&ready, 2, 4096));
        assert!(first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending());
        taken.pop();
        assert_eq!(ready.take(), [1]);
        assert_eq!(channel.room(), 0, "nothing new starts");
        assert!(channel.buffer_now(&ready, 4096).is_none() && second.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(Some(buffer)) = first.as_mut().poll(&mut context) else { panic!("no buffer") };
        drop(buffer);
        assert_eq!(ready.take(), [2]);
        assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Some(_))));
    }
}
