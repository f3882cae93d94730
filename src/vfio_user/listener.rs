// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where clients come from: one after the other is served.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::vhost::{Listen, Stop};

/// A source of clients.
pub struct Listener<'a> {
    listener: Option<&'a UnixListener>,
    /// Who is served next.
    next: Option<UnixStream>,
    stop: &'a Stop,
}

impl<'a> Listener<'a> {
    /// Nobody has been accepted yet.
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

    /// Readable when somebody has connected.
    pub fn socket(&self) -> Option<&UnixListener> {
        self.listener
    }

    /// Waits for a client. None when there will be none, or somebody wants to stop.
    ///
    /// # Errors
    /// When nobody can be accepted any more.
    pub fn wait(&mut self) -> io::Result<Option<UnixStream>> {
        if let Some(stream) = self.next.take() {
            return Ok(Some(stream));
        }
        let Some(listener) = self.listener else { return Ok(None) };
        loop {
            if self.stop.requested() {
                return Ok(None);
            }
            if let Some(stream) = self.accept()? {
                return Ok(Some(stream));
            }
            let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(self.stop.event(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Somebody who has been accepted is served next. Until then nobody else is accepted.
    pub fn keep(&mut self, stream: UnixStream) {
        self.next = Some(stream);
    }

    /// Who has connected, if somebody has. Never waits.
    ///
    /// # Errors
    /// The system's.
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
