// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Accepts connections. The device serves one frontend at a time and lets no other wait without an answer.
//!
//! The first connection that sends something is the frontend. A silent one, such as a health check, keeps nobody out. A
//! connection that comes while a frontend is served is closed: a QEMU that waits for an answer stands still, including
//! its monitor.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::arrival::{Arrival, Connection, has_hung_up};
use super::backend_channel::Header;
use super::{Listen, Stop};
use crate::descriptors::{have_run_out, hint};
use crate::ratelimit::log_limited;

/// The maximum number of silent connections. One more closes the oldest.
const MOST_SILENT: usize = 16;
/// How often to check for the rest of a message.
const PAUSE: Duration = Duration::from_millis(5);
/// How long to accept nothing after accepting has failed.
const REST: Duration = Duration::from_secs(1);

/// How long a connection that comes while a frontend is served is kept. A frontend that reconnects may not have hung up
/// yet: a process that it is starting has a copy of its socket for a moment.
const GRACE: Duration = Duration::from_millis(100);

/// What the frontend does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendEvent {
    /// It has sent a message, and has room for a reply: neither reading nor replying will wait.
    Message(Header),
    /// It has hung up.
    End,
    /// The device must stop.
    Stop,
}

/// All connections but the one that is served.
pub struct Acceptor<'a> {
    listener: Option<&'a UnixListener>,
    stop: &'a Stop,
    silent: Vec<Connection>,
    /// A connection that came while a frontend is served, and when to close it.
    latecomer: Option<(Connection, Instant)>,
    rest_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    flags: PollFlags,
    until: Option<Instant>,
}

impl Wait {
    /// A pause after part of a message: its connection would be readable all the time.
    fn pause() -> Self {
        Self { flags: PollFlags::empty(), until: Some(Instant::now() + PAUSE) }
    }
}

impl<'a> Acceptor<'a> {
    /// Starts with no connection, or with the inherited one.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn new(listen: &'a Listen, stop: &'a Stop) -> io::Result<Self> {
        let (listener, silent) = match listen {
            Listen::Listening(listener, _) => (Some(listener), Vec::new()),
            Listen::Connected(stream) => (None, vec![Connection::new(stream.try_clone()?)]),
        };
        if let Some(listener) = listener {
            // `poll` decides when to accept; it also returns for other reasons, a signal for example.
            listener.set_nonblocking(true)?;
        }
        Ok(Self { listener, stop, silent, latecomer: None, rest_until: None })
    }

    /// Waits for a frontend: a connection that has sent a message. Returns `None` when there will be none.
    ///
    /// # Errors
    /// When no connection can be accepted any more.
    pub fn frontend(&mut self) -> io::Result<Option<Connection>> {
        self.silent.extend(self.latecomer.take().map(|(caller, _)| caller));
        loop {
            if self.stop.requested() || self.listener.is_none() && self.silent.is_empty() {
                return Ok(None);
            }
            let mut soon = false;
            let mut place = 0;
            while let Some(caller) = self.silent.get_mut(place) {
                match caller.look() {
                    Ok(Arrival::Message(_)) => {
                        let frontend = self.silent.remove(place);
                        self.silent.clear();
                        return Ok(Some(frontend));
                    }
                    Ok(Arrival::Nothing) => place += 1,
                    Ok(Arrival::Part) => {
                        soon = true;
                        place += 1;
                    }
                    // Somebody only checked whether the device listens.
                    Ok(Arrival::End) => drop(self.silent.remove(place)),
                    Err(error) => {
                        drop(self.silent.remove(place));
                        log_limited!(warn, "a connection is closed, because it is not a frontend's: {error}");
                    }
                }
            }
            let wait = if soon { Wait::pause() } else { Wait { flags: PollFlags::IN, until: None } };
            if !self.wait(None, wait)? {
                continue;
            }
            match self.accept() {
                Ok(None) => {}
                Ok(Some(stream)) => {
                    if self.silent.len() >= MOST_SILENT {
                        drop(self.silent.remove(0));
                        log_limited!(warn, "the oldest silent connection is closed to make room for others");
                    }
                    self.silent.push(Connection::new(stream));
                }
                Err(error) if have_run_out(&error) => self.rest(&error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the frontend's next event, until `deadline` if there is one. Closes other connections meanwhile.
    ///
    /// # Errors
    /// When a message of the frontend cannot be read, or does not come in time.
    pub fn next_event(&mut self, frontend: &mut Connection, deadline: Option<Instant>) -> io::Result<FrontendEvent> {
        loop {
            if self.stop.requested() {
                return Ok(FrontendEvent::Stop);
            }
            let arrival = frontend.look()?;
            if let Some((caller, _)) = self.latecomer.take_if(|(_, until)| *until <= Instant::now()) {
                if has_hung_up(&frontend.stream) {
                    self.silent.push(caller);
                } else {
                    hang_up(caller);
                }
            }
            let mut wait = match arrival {
                Arrival::Message(header) if has_room(&frontend.stream)? => return Ok(FrontendEvent::Message(header)),
                // Nobody will read the replies.
                Arrival::Message(_) if has_hung_up(&frontend.stream) => return Ok(FrontendEvent::End),
                Arrival::Message(_) => Wait { flags: PollFlags::OUT | PollFlags::RDHUP, until: None },
                Arrival::Nothing if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Err(io::Error::other("it waits for the rest of a reply that reports an error"));
                }
                Arrival::Nothing => Wait { flags: PollFlags::IN, until: deadline },
                Arrival::Part => Wait::pause(),
                Arrival::End => return Ok(FrontendEvent::End),
            };
            wait.until = wait.until.into_iter().chain(self.latecomer.as_ref().map(|(_, until)| *until)).min();
            if self.wait(Some(&frontend.stream), wait)? {
                match self.accept() {
                    // A frontend that reconnects: requests of its old connection are still being served.
                    Ok(Some(stream)) if has_hung_up(&frontend.stream) => self.silent.push(Connection::new(stream)),
                    Ok(Some(stream)) => {
                        let latecomer = (Connection::new(stream), Instant::now() + GRACE);
                        if let Some((caller, _)) = self.latecomer.replace(latecomer) {
                            hang_up(caller);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => self.rest(&error),
                }
            }
        }
    }

    /// Waits for the frontend, or without one for the silent connections, for a new connection, and for a request to
    /// stop. Returns whether there is a new connection.
    fn wait(&mut self, frontend: Option<&UnixStream>, wait: Wait) -> io::Result<bool> {
        self.rest_until = self.rest_until.filter(|&until| Instant::now() < until);
        let listener = self.listener.filter(|_| self.rest_until.is_none());
        let mut fds = vec![PollFd::new(self.stop.event(), PollFlags::IN)];
        let silent = self.silent.iter().map(|caller| &caller.stream).filter(|_| frontend.is_none());
        let streams = silent.chain(frontend);
        fds.extend(streams.filter(|_| !wait.flags.is_empty()).map(|stream| PollFd::new(stream, wait.flags)));
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let timeout = [wait.until, self.rest_until].into_iter().flatten().min().map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            // At most a few seconds.
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(listener.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Accepts nothing for a while, because that has failed.
    fn rest(&mut self, error: &io::Error) {
        self.rest_until = Some(Instant::now() + REST);
        log_limited!(warn, "cannot accept a connection, and tries again: {error}{}", hint(error));
    }

    fn accept(&mut self) -> io::Result<Option<UnixStream>> {
        let Some(listener) = self.listener else { return Ok(None) };
        match listener.accept() {
            Ok((stream, _)) => {
                // An inherited listener may be non-blocking, and pass that on.
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// Whether a reply can be sent without waiting: a socket is writable while most of its buffer is empty.
fn has_room(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))? > 0)
}

/// Closes a connection that came while a frontend is served.
fn hang_up(caller: Connection) {
    drop(caller);
    log_limited!(
        warn,
        "another frontend has connected and is refused: the device is in use and serves one frontend at a time"
    );
}
