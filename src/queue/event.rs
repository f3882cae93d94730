// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Eventfds of the frontend, which can do anything with them at any time.
//!
//! They are never set to non-blocking: that would affect the frontend, too.

use std::fs::File;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use super::STUCK;
use crate::eventfd::{self, is_ready};
use crate::lock::lock;

/// An eventfd of the frontend to write to.
#[derive(Debug)]
pub struct Event {
    file: File,
    /// A write waits while the counter is at its maximum. The frontend may change this flag.
    blocks: bool,
}

/// All eventfds: a thread may hang in a write to any of them.
static ALL: Mutex<Vec<Weak<Event>>> = Mutex::new(Vec::new());

impl Event {
    /// Takes an eventfd of the frontend.
    ///
    /// # Errors
    /// When it is not an eventfd.
    pub fn new(file: File) -> io::Result<Arc<Self>> {
        check_eventfd(&file)?;
        let blocks = !fcntl_getfl(&file)?.contains(OFlags::NONBLOCK);
        let event = Arc::new(Self { file, blocks });
        let mut all = lock(&ALL);
        all.retain(|event| event.strong_count() > 0);
        all.push(Arc::downgrade(&event));
        Ok(event)
    }

    /// Adds 1, if there is room. If not, the frontend has not read the counter for a long time and finds the eventfd
    /// readable anyway.
    ///
    /// A frontend can fill the counter between our check and our write, or make the eventfd blocking meanwhile. This
    /// blocks the calling thread until somebody calls [`Event::unblock_all`]. So only workers may call this, and
    /// without a lock that such a caller needs.
    pub fn signal(&self) {
        if !self.blocks || is_ready(&self.file, PollFlags::OUT) {
            eventfd::signal(&self.file);
        }
    }

    /// Makes room for all threads that hang in [`Event::signal`]. Never waits. For threads that have waited long for a
    /// worker.
    pub fn unblock_all() {
        let all: Vec<_> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
        for event in all {
            if !is_ready(&event.file, PollFlags::OUT) {
                eventfd::drain(&event.file);
            }
        }
    }
}

/// Waits for what only workers can end, such as their use of a key, and frees those that hang in [`Event::signal`].
pub fn wait_for_workers<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let start = Instant::now();
        thread::park_timeout(STUCK);
        if start.elapsed() >= STUCK {
            Event::unblock_all();
        }
    }
}

/// Refuses files that could block us in other ways than an eventfd: pipes, sockets, regular files.
///
/// # Errors
/// When it has one of these types.
pub fn check_eventfd(file: &File) -> io::Result<()> {
    let mode = fstat(file)?.st_mode;
    // Eventfds and similar files have no file type.
    if FileType::from_raw_mode(mode) == FileType::Unknown {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an eventfd"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eventfds_that_are_gone_are_forgotten() {
        let event = || Event::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?.into());
        let kept = event().expect("eventfd");
        (0..1000).for_each(|_| drop(event().expect("eventfd")));
        let all = lock(&ALL);
        assert!(all.iter().any(|known| std::ptr::eq(known.as_ptr(), &*kept)));
        // Other tests have some at the same time.
        assert!(all.len() < 200, "{}", all.len());
    }
}
