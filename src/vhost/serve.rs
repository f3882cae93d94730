// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The main loop: one frontend after the other, until somebody says stop.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vhost::vhost_user::{BackendReqHandler, Error as VhostUserError};

use super::session::Session;
use super::{Listen, VirtioDevice, WorkerConfig, channel};
use crate::queue::signal;

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket failed.
    #[error("cannot accept a frontend: {0}")]
    Accept(io::Error),
    /// A session could not be set up.
    #[error("cannot start the worker threads: {0}")]
    Session(io::Error),
    /// The last frontend's session ended with an error, and there will be no other.
    #[error("the frontend's session failed: {0}")]
    Frontend(VhostUserError),
}

/// Asks a [`Server`] to stop, from any thread.
pub struct Stop {
    requested: AtomicBool,
    event: File,
    connection: Mutex<Option<UnixStream>>,
}

impl Stop {
    /// Nothing asked for yet.
    ///
    /// # Errors
    /// When an eventfd cannot be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            requested: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into(),
            connection: Mutex::new(None),
        })
    }

    /// Ends the current session and the server.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        signal(&self.event);
        if let Some(connection) = &*self.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            // Only our side: the frontend must not see the end before the queues are drained, or it would hand
            // requests to the next backend that are still in flight here. It may be closed already.
            let _ = connection.shutdown(Shutdown::Read);
        }
    }

    /// Whether stopping was asked for.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    fn set_connection(&self, connection: Option<UnixStream>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}

/// How a session went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The other side hung up without a word.
    Unused,
    /// A frontend was there and has gone.
    Gone,
}

/// Serves a device to frontends.
pub struct Server<D: VirtioDevice> {
    device: Arc<D>,
    workers: WorkerConfig,
    stop: Arc<Stop>,
    exit_on_disconnect: bool,
}

impl<D: VirtioDevice> Server<D> {
    /// Serves `device`; with `exit_on_disconnect` for the first frontend only.
    pub fn new(device: Arc<D>, workers: WorkerConfig, stop: Arc<Stop>, exit_on_disconnect: bool) -> Self {
        Self { device, workers, stop, exit_on_disconnect }
    }

    /// Serves frontends one after the other. After each, with its requests drained and the device reset, calls
    /// `disconnected`. Returns when stopping is asked for, or there will be no other frontend.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn run(&self, listen: &Listen, mut disconnected: impl FnMut()) -> Result<(), ServeError> {
        let mut only_one = self.exit_on_disconnect;
        if let Listen::Listening(listener, _) = listen {
            // `poll` decides when to accept; it also returns for other reasons, a signal for example.
            listener.set_nonblocking(true).map_err(ServeError::Accept)?;
        }
        loop {
            let stream = match listen {
                Listen::Listening(listener, _) => {
                    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&self.stop.event, PollFlags::IN)];
                    match poll(&mut fds, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(ServeError::Accept(error.into())),
                    }
                    if self.stop.requested() {
                        return Ok(());
                    }
                    match listener.accept() {
                        Ok((stream, _)) => stream,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                        Err(error) => return Err(ServeError::Accept(error)),
                    }
                }
                Listen::Connected(stream) => {
                    only_one = true;
                    stream.try_clone().map_err(ServeError::Accept)?
                }
            };
            let result = self.session(stream);
            if matches!((&result, listen), (Ok(Ended::Unused), Listen::Listening(..))) && !self.stop.requested() {
                // Somebody looked whether anyone is here. That is no frontend.
                continue;
            }
            disconnected();
            if self.stop.requested() {
                return Ok(());
            }
            match result {
                Err(error @ ServeError::Session(_)) => return Err(error),
                Err(error) if only_one => return Err(error),
                Err(error) => log::error!("{error}; waiting for the next frontend"),
                Ok(_) if only_one => return Ok(()),
                Ok(_) => log::info!("the frontend has gone; waiting for the next one"),
            }
        }
    }

    fn session(&self, stream: UnixStream) -> Result<Ended, ServeError> {
        // An inherited listener may be non-blocking, and pass that on.
        stream.set_nonblocking(false).map_err(ServeError::Accept)?;
        self.stop.set_connection(Some(stream.try_clone().map_err(ServeError::Accept)?));
        let session =
            Arc::new(Mutex::new(Session::new(Arc::clone(&self.device), &self.workers).map_err(ServeError::Session)?));
        let connection = stream.try_clone().map_err(ServeError::Accept)?;
        let mut messages = BackendReqHandler::from_stream(stream, Arc::clone(&session));
        let mut ended = Ended::Unused;
        let result = loop {
            // Looked at after the connection is known to `Stop`, so no request to stop is missed.
            if self.stop.requested() {
                break Ok(());
            }
            let given = match channel::take(&connection) {
                Ok(given) => given,
                Err(_) if self.stop.requested() => break Ok(()),
                Err(error) => break Err(ServeError::Frontend(VhostUserError::SocketError(error))),
            };
            let handled = match given {
                Some(given) => {
                    let session = session.lock().unwrap_or_else(PoisonError::into_inner);
                    session.set_channel(given, &connection).map_err(VhostUserError::SocketBroken)
                }
                None => messages.handle_request(),
            };
            match handled {
                Ok(()) if ended == Ended::Unused => {
                    log::info!("a frontend has connected");
                    ended = Ended::Gone;
                }
                Ok(()) => {}
                Err(
                    VhostUserError::Disconnected | VhostUserError::PartialMessage | VhostUserError::SocketBroken(_),
                ) => break Ok(()),
                Err(_) if self.stop.requested() => break Ok(()),
                Err(error) => break Err(ServeError::Frontend(error)),
            }
        };
        self.stop.set_connection(None);
        // Drained while the connection is open, however the session has ended.
        session.lock().unwrap_or_else(PoisonError::into_inner).stop_all();
        drop(messages);
        // Dropping the session ends the workers and resets the device.
        result.map(|()| ended)
    }
}
