// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who connects: one frontend at a time is served, and nobody waits for another without knowing.
//!
//! The first that says something is the frontend. One that says nothing, a health check for example, keeps nobody out. Who
//! comes while a frontend is served is hung up on: a QEMU that waits for an answer stands still, monitor included.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::arrival::{Arrival, Connection, has_hung_up};
use super::backend_channel::Header;
use super::{Listen, Stop};
use crate::descriptors::hint;
use crate::ratelimit::RateLimit;

/// The most connections that have said nothing. With one more the oldest goes.
const MOST_SILENT: usize = 16;
/// How often to look for the rest of a message.
const PAUSE: Duration = Duration::from_millis(5);
/// How long to accept nobody after that has failed.
const REST: Duration = Duration::from_secs(1);

/// How long somebody who connects while a frontend is served is kept. A frontend that hangs up and comes back at once has
/// perhaps not hung up yet: a process that it is just starting has a copy of its socket for a moment.
const GRACE: Duration = Duration::from_millis(100);

/// What the frontend does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendEvent {
    /// It has sent a message, and has room for a reply: neither reading nor replying will wait.
    Message(Header),
    /// It has hung up.
    End,
    /// Somebody has asked to stop.
    Stop,
}

/// All connections but the one that is served.
pub struct Acceptor<'a> {
    listener: Option<&'a UnixListener>,
    stop: &'a Stop,
    silent: Vec<Connection>,
    /// Who has come while a frontend is served, and when it is hung up on.
    latecomer: Option<(Connection, Instant)>,
    /// Nobody is accepted until then.
    rest_until: Option<Instant>,
}

/// What was waited for.
#[derive(Debug, Clone, Copy)]
struct Wait {
    flags: PollFlags,
    until: Option<Instant>,
}

impl Wait {
    /// Not for more of the message that has come in part: its connection would be readable all the time.
    fn pause() -> Self {
        Self { flags: PollFlags::empty(), until: Some(Instant::now() + PAUSE) }
    }
}

impl<'a> Acceptor<'a> {
    /// Nobody has connected so far, unless the only one has.
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

    /// Waits for a frontend: somebody who has sent a message. None when there will be none.
    ///
    /// # Errors
    /// When nobody can be accepted any more.
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
                    // Somebody looked whether anyone is here.
                    Ok(Arrival::End) => drop(self.silent.remove(place)),
                    Err(error) => {
                        drop(self.silent.remove(place));
                        warn(&format!("somebody has connected who is no frontend: {error}"));
                    }
                }
            }
            let wait = if soon { Wait::pause() } else { Wait { flags: PollFlags::IN, until: None } };
            if self.wait(None, wait)?
                && let Some(stream) = self.accept()?
            {
                if self.silent.len() >= MOST_SILENT {
                    drop(self.silent.remove(0));
                    warn("a connection by which nothing has come gives way to others");
                }
                self.silent.push(Connection::new(stream));
            }
        }
    }

    /// Waits for what the frontend does next, until `deadline` if there is one, and hangs up on others meanwhile.
    ///
    /// # Errors
    /// When a message of the frontend cannot be read, or none has come in time.
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
                Arrival::Message(_) => Wait { flags: PollFlags::OUT, until: None },
                Arrival::Nothing if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Err(io::Error::other("it still waits for the rest of a reply that is an error"));
                }
                Arrival::Nothing => Wait { flags: PollFlags::IN, until: deadline },
                Arrival::Part => Wait::pause(),
                Arrival::End => return Ok(FrontendEvent::End),
            };
            wait.until = wait.until.into_iter().chain(self.latecomer.as_ref().map(|(_, until)| *until)).min();
            if self.wait(Some(&frontend.stream), wait)? {
                match self.accept() {
                    // A frontend that hangs up and comes back: what it had sent before is still being served.
                    Ok(Some(stream)) if has_hung_up(&frontend.stream) => self.silent.push(Connection::new(stream)),
                    Ok(Some(stream)) => {
                        let latecomer = (Connection::new(stream), Instant::now() + GRACE);
                        if let Some((caller, _)) = self.latecomer.replace(latecomer) {
                            hang_up(caller);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.rest_until = Some(Instant::now() + REST);
                        warn(&format!("cannot accept and hang up on another frontend: {error}{}", hint(&error)));
                    }
                }
            }
        }
    }

    /// Waits for the frontend, or else the silent ones, for somebody who connects, and for the wish to stop. Returns whether
    /// somebody has connected.
    fn wait(&mut self, frontend: Option<&UnixStream>, wait: Wait) -> io::Result<bool> {
        self.rest_until = self.rest_until.filter(|&until| Instant::now() < until);
        let listener = self.listener.filter(|_| self.rest_until.is_none());
        let mut fds = vec![PollFd::new(self.stop.event(), PollFlags::IN)];
        let streams = self.silent.iter().map(|caller| &caller.stream).chain(frontend);
        fds.extend(streams.filter(|_| !wait.flags.is_empty()).map(|stream| PollFd::new(stream, wait.flags)));
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let timeout = [wait.until, self.rest_until].into_iter().flatten().min().map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            // A few seconds at the most.
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(listener.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
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

/// Whether a reply can be sent without waiting: a socket is writable as long as most of its buffer is empty.
fn has_room(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))? > 0)
}

/// On who has come while a frontend is served.
fn hang_up(caller: Connection) {
    drop(caller);
    warn("another frontend has connected; it is hung up on, because the device is in use: it serves one at a time");
}

/// Anybody who can connect can cause these lines.
fn warn(line: &str) {
    static LIMIT: RateLimit = RateLimit::new();
    if let Some(suppressed) = LIMIT.allow() {
        log::warn!("{line} ({suppressed} such lines left out before)");
    }
}
