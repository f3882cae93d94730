// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Accepts clients. They are served one after the other.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::descriptors::{have_run_out, hint};
use crate::ratelimit::log_limited;
use crate::vhost::{Listen, Stop};

/// How long to accept nothing after accepting has failed.
const REST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A source of clients.
pub struct Listener<'a> {
    listener: Option<&'a UnixListener>,
    /// The next client, already accepted.
    next: Option<UnixStream>,
    stop: &'a Stop,
}

impl<'a> Listener<'a> {
    /// A source without an accepted client.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn new(listen: &'a Listen, stop: &'a Stop) -> io::Result<Self> {
        let (listener, next) = match listen {
            Listen::Listening(listener, _) => (Some(listener), None),
            Listen::Connected(stream) => (None, Some(stream.try_clone()?)),
        };
        if let Some(listener) = listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { listener, next, stop })
    }

    /// Readable when a client has connected.
    pub fn socket(&self) -> Option<&UnixListener> {
        self.listener
    }

    /// Waits for a client. `None`: there will be no other one, or the process stops.
    ///
    /// # Errors
    /// When no client can be accepted any more.
    pub fn wait(&mut self) -> io::Result<Option<UnixStream>> {
        if let Some(stream) = self.next.take() {
            return Ok(Some(stream));
        }
        let Some(listener) = self.listener else { return Ok(None) };
        loop {
            if self.stop.requested() {
                return Ok(None);
            }
            let rest = match self.accept() {
                Ok(None) => None,
                Err(error) if have_run_out(&error) => {
                    warn(&error);
                    Some(REST)
                }
                accepted => return accepted,
            };
            let mut fds = vec![PollFd::new(self.stop.event(), PollFlags::IN)];
            if rest.is_none() {
                fds.push(PollFd::new(listener, PollFlags::IN));
            }
            match poll(&mut fds, rest.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts back an accepted client, which is served next. Until then no other one is accepted.
    pub fn keep(&mut self, stream: UnixStream) {
        self.next = Some(stream);
    }

    /// Accepts a client, if one has connected. Never blocks.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        let Some(listener) = self.listener.filter(|_| self.next.is_none()) else { return Ok(None) };
        match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

fn warn(error: &io::Error) {
    log_limited!(warn, "cannot accept a client, and tries again: {error}{}", hint(error));
}
