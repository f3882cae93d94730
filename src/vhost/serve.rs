// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The main loop: serves one frontend after the other, until a stop is requested.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vhost::vhost_user::{BackendReqHandler, Error as VhostUserError};

use super::acceptor::{Acceptor, FrontendEvent};
use super::arrival::Connection;
use super::session::Session;
use super::{Listen, VirtioDevice, WorkerConfig, backend_channel, refusal};
use crate::descriptors::hint;
use crate::eventfd;
use crate::lock::lock;
use crate::ratelimit::log_limited;

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket failed.
    #[error("cannot accept a frontend: {0}{hint}", hint = hint(.0))]
    Accept(io::Error),
    /// A session could not be set up.
    #[error("cannot start the worker threads for a frontend: {0}{hint}", hint = hint(.0))]
    Session(io::Error),
    /// Some of the guest's memory is missing.
    #[error(
        "the frontend's session has ended, because part of the guest's memory is missing: its file was truncated, or \
         the host has no memory or no huge page left for it (QEMU reserves both at start with prealloc=on)"
    )]
    GuestMemory,
    /// The last frontend's session ended with this error, and there will be no other.
    #[error("the frontend's session has ended: {0}")]
    Frontend(String),
}

/// Asks a [`Server`] to stop, from any thread.
pub struct Stop {
    requested: AtomicBool,
    event: File,
}

impl Stop {
    /// No stop is requested yet.
    ///
    /// # Errors
    /// When an eventfd cannot be created.
    pub fn new() -> io::Result<Self> {
        let event = eventfd::new()?;
        Ok(Self { requested: AtomicBool::new(false), event })
    }

    /// Ends the current session and the server. The frontend sees the end only after the queues are drained. Otherwise
    /// it would pass requests that are still in flight here to the next backend.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        eventfd::signal(&self.event);
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Becomes readable when a stop is requested.
    pub(crate) fn event(&self) -> &File {
        &self.event
    }
}

/// Serves a device to frontends.
pub struct Server<D: VirtioDevice> {
    device: Arc<D>,
    workers: WorkerConfig,
    stop: Arc<Stop>,
    exit_on_disconnect: bool,
}

impl<D: VirtioDevice> Server<D> {
    /// Serves `device`; with `exit_on_disconnect`, only to the first frontend.
    pub fn new(device: Arc<D>, workers: WorkerConfig, stop: Arc<Stop>, exit_on_disconnect: bool) -> Self {
        Self { device, workers, stop, exit_on_disconnect }
    }

    /// Serves frontends one after the other. After each, when its requests are drained and the device is reset, it
    /// calls `disconnected`. Returns when a stop is requested, or when there will be no other frontend.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn run(&self, listen: &Listen, mut disconnected: impl FnMut()) -> Result<(), ServeError> {
        let only_one = self.exit_on_disconnect || matches!(listen, Listen::Connected(_));
        let mut acceptor = Acceptor::new(listen, &self.stop).map_err(ServeError::Accept)?;
        while let Some(frontend) = acceptor.frontend().map_err(ServeError::Accept)? {
            let result = self.session(frontend, &mut acceptor);
            disconnected();
            if self.stop.requested() {
                return Ok(());
            }
            match result {
                Err(error) if only_one => return Err(error),
                Err(error) => log_limited!(error, "{error}; waiting for the next frontend"),
                Ok(()) if only_one => return Ok(()),
                Ok(()) => log_limited!(info, "the frontend has gone; waiting for the next one"),
            }
        }
        Ok(())
    }

    fn session(&self, mut frontend: Connection, acceptor: &mut Acceptor<'_>) -> Result<(), ServeError> {
        let for_workers = frontend.stream.try_clone().map_err(ServeError::Accept)?;
        let session = Session::new(Arc::clone(&self.device), &self.workers, for_workers);
        let session = Arc::new(Mutex::new(session.map_err(ServeError::Session)?));
        log_limited!(info, "a frontend has connected");
        let stream = frontend.stream.try_clone().map_err(ServeError::Accept)?;
        let mut messages = BackendReqHandler::from_stream(stream, Arc::clone(&session));
        let result = loop {
            let silence_ends = lock(&session).silence_ends();
            let header = match acceptor.next_event(&mut frontend, silence_ends) {
                Ok(FrontendEvent::Message(header)) => header,
                Ok(FrontendEvent::End | FrontendEvent::Stop) => break Ok(()),
                Err(error) => break Err(ServeError::Frontend(error.to_string())),
            };
            let handled = if header.has_channel() {
                let session = lock(&session);
                let set = |given| session.set_channel(given, &frontend.stream).map_err(VhostUserError::SocketBroken);
                backend_channel::receive(&frontend.stream).map_err(VhostUserError::SocketError).and_then(set)
            } else {
                messages.handle_request()
            };
            match handled {
                Ok(()) => {}
                Err(
                    VhostUserError::Disconnected | VhostUserError::PartialMessage | VhostUserError::SocketBroken(_),
                ) => break Ok(()),
                Err(error) => break Err(ServeError::Frontend(refusal::explain(header, &error))),
            }
        };
        let session = lock(&session);
        // Drain while the connection is open, however the session ended.
        session.stop_all();
        // Missing memory is the cause, even if a worker ended the session and the result is another error.
        let result = if session.memory_is_sound() { result } else { Err(ServeError::GuestMemory) };
        drop(session);
        drop(messages);
        // Dropping the session ends the workers and resets the device.
        result
    }
}
