// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The main loop: serves one client after the other, until the process stops.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::session::Session;
use crate::device::Device;
use crate::queue::Event;
use crate::ratelimit::log_limited;
use crate::vfio_user::Listener;
use crate::vhost::{Listen, ServeError, Stop, VirtioDevice, WorkerConfig};
use crate::{eventfd, threads};

/// A session that should end and has not ended after this time may hang.
const STUCK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Serves a device to clients as a UFS host controller.
pub struct Server {
    device: Arc<Device>,
    config: WorkerConfig,
    stop: Arc<Stop>,
    exit_on_disconnect: bool,
}

impl Server {
    /// Serves `device`, with `exit_on_disconnect` for the first client only. There is one worker, whatever `config` says: the
    /// session's thread.
    pub fn new(device: Arc<Device>, config: WorkerConfig, stop: Arc<Stop>, exit_on_disconnect: bool) -> Self {
        Self { device, config, stop, exit_on_disconnect }
    }

    /// Serves clients one after the other. After each, with its requests drained and the device reset, calls `disconnected`.
    /// Returns when the process stops, or there will be no other client.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn run(&self, listen: &Listen, mut disconnected: impl FnMut()) -> Result<(), ServeError> {
        let only_one = self.exit_on_disconnect || matches!(listen, Listen::Connected(_));
        let mut listener = Listener::new(listen, &self.stop).map_err(ServeError::Accept)?;
        while let Some(client) = listener.wait().map_err(ServeError::Accept)? {
            let (result, negotiated) = self.session(client, &mut listener);
            if result.is_ok() && !negotiated && !matches!(listen, Listen::Connected(_)) && !self.stop.requested() {
                // The client connected only to see whether it can.
                continue;
            }
            disconnected();
            if self.stop.requested() {
                return Ok(());
            }
            match result {
                Err(error) if only_one => return Err(error),
                Err(error) => log_limited!(error, "{error}; waiting for the next client"),
                Ok(()) if only_one => return Ok(()),
                Ok(()) => log_limited!(info, "the client has gone; waiting for the next one"),
            }
        }
        Ok(())
    }

    /// Serves a client on a thread of its own. Also returns whether it has ever sent VERSION.
    fn session(&self, client: UnixStream, listener: &mut Listener<'_>) -> (Result<(), ServeError>, bool) {
        let failed = |error| (Err(ServeError::Session(error)), true);
        let (watched, done) = match client.try_clone().and_then(|client| Ok((client, eventfd::new()?))) {
            Ok(both) => both,
            Err(error) => return failed(error),
        };
        thread::scope(|scope| {
            let serve = || {
                if let Some(&cpu) = self.config.cpus.first() {
                    threads::bind(cpu);
                }
                let result = self.serve(client, listener);
                eventfd::signal(&done);
                result
            };
            match threads::named("ufs").spawn_scoped(scope, serve) {
                Ok(session) => {
                    self.watch(&watched, &done, || session.is_finished());
                    session.join().unwrap_or_else(|_| failed(io::Error::other("its thread has panicked")))
                }
                Err(error) => failed(error),
            }
        })
    }

    /// Waits for the end of a session. A client may have filled its interrupt's eventfd at the very moment of a signal. Then the
    /// session's thread hangs until there is room, which this makes.
    fn watch(&self, client: &UnixStream, done: &File, is_finished: impl Fn() -> bool) {
        let mut timeout = None;
        while !is_finished() {
            let mut fds = vec![PollFd::new(done, PollFlags::IN)];
            if timeout.is_none() {
                fds.extend([PollFd::new(client, PollFlags::RDHUP), PollFd::new(self.stop.event(), PollFlags::IN)]);
            }
            // The wait also ends when the session must end, or the process got a signal.
            let _ = poll(&mut fds, timeout.as_ref());
            if timeout.is_some() {
                Event::unblock_all();
            }
            timeout = Some(STUCK);
        }
    }

    fn serve(&self, client: UnixStream, listener: &mut Listener<'_>) -> (Result<(), ServeError>, bool) {
        let mut session = match Session::new(&self.device, client, self.config.poll) {
            Ok(session) => session,
            Err(error) => return (Err(ServeError::Session(error)), true),
        };
        let device = &*self.device;
        device.connected();
        device.queue_running(0, true);
        let result = session.run(listener, &self.stop);
        device.queue_running(0, false);
        let negotiated = session.is_negotiated();
        // The session's worker holds no key any more, and nothing is in flight.
        drop(session);
        device.disconnected();
        device.hung_up();
        (result, negotiated)
    }
}
