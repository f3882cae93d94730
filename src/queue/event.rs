// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Eventfds: our own, and those of the frontend, which may do anything with them at any time.
//!
//! They are never set to non-blocking: that would hold for the frontend's side, too.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use rustix::event::PollFlags;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use crate::eventfd::{self, is_ready};
use crate::lock::lock;

/// An eventfd of the frontend that is written to.
#[derive(Debug)]
pub struct Event {
    file: File,
    /// A write waits while the counter is at its maximum. The frontend may change that.
    blocks: bool,
}

/// All that there are: a thread may hang in a write to any of them.
static ALL: Mutex<Vec<Weak<Event>>> = Mutex::new(Vec::new());

impl Event {
    /// Takes what the frontend gave.
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

    /// Adds 1, if there is room. If there is none, the frontend has not looked for a long time, and will find it readable.
    ///
    /// A frontend that fills the counter between our look and our write, or lets writes wait that did not before, can hold up
    /// the calling thread until somebody calls [`Event::unblock_all`]. So this is for workers, and not to be called with a lock
    /// held that such a caller needs.
    pub fn signal(&self) {
        if !self.blocks || is_ready(&self.file, PollFlags::OUT) {
            eventfd::signal(&self.file);
        }
    }

    /// Makes room for all who hang in [`Event::signal`]. Never waits. For who waits for a worker, and has waited for long.
    pub fn unblock_all() {
        let all: Vec<_> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
        for event in all {
            if !is_ready(&event.file, PollFlags::OUT) {
                eventfd::drain(&event.file);
            }
        }
    }
}

/// Refuses what could block us in other ways than an eventfd: pipes, sockets, files.
///
/// # Errors
/// When it has the type of one of those.
pub fn check_eventfd(file: &File) -> io::Result<()> {
    let mode = fstat(file)?.st_mode;
    // Eventfds, and their like, have no type of file.
    if FileType::from_raw_mode(mode) == FileType::Unknown {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an eventfd"))
    }
}
