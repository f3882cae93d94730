// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The main loop: one client after the other, until somebody says stop.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::session::Session;
use crate::device::Device;
use crate::vfio_user::Listener;
use crate::vhost::{Listen, ServeError, Stop, VirtioDevice};

/// Serves a device to clients as a UFS host controller.
pub struct Server {
    device: Arc<Device>,
    poll: Duration,
    stop: Arc<Stop>,
    exit_on_disconnect: bool,
}

impl Server {
    /// Serves `device`, looking for more work for up to `poll` before sleeping; with `exit_on_disconnect` for the first client
    /// only.
    pub fn new(device: Arc<Device>, poll: Duration, stop: Arc<Stop>, exit_on_disconnect: bool) -> Self {
        Self { device, poll, stop, exit_on_disconnect }
    }

    /// Serves clients one after the other. After each, with its requests drained and the device reset, calls `disconnected`.
    /// Returns when stopping is asked for, or there will be no other client.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn run(&self, listen: &Listen, mut disconnected: impl FnMut()) -> Result<(), ServeError> {
        let only_one = self.exit_on_disconnect || matches!(listen, Listen::Connected(_));
        let mut listener = Listener::new(listen, &self.stop).map_err(ServeError::Accept)?;
        while let Some(client) = listener.wait().map_err(ServeError::Accept)? {
            let (result, negotiated) = self.session(client, &mut listener);
            if result.is_ok() && !negotiated && !matches!(listen, Listen::Connected(_)) && !self.stop.requested() {
                // Somebody looked whether anyone is here.
                continue;
            }
            disconnected();
            if self.stop.requested() {
                return Ok(());
            }
            match result {
                Err(error) if only_one => return Err(error),
                Err(error) => log::error!("{error}; waiting for the next client"),
                Ok(()) if only_one => return Ok(()),
                Ok(()) => log::info!("the client has gone; waiting for the next one"),
            }
        }
        Ok(())
    }

    /// Serves a client. Says also whether it has ever spoken the protocol.
    fn session(&self, client: UnixStream, listener: &mut Listener<'_>) -> (Result<(), ServeError>, bool) {
        let mut session = match Session::new(&self.device, client, self.poll) {
            Ok(session) => session,
            Err(error) => return (Err(ServeError::Session(error)), true),
        };
        let device = &*self.device;
        device.connected();
        device.queue_running(0, true);
        let result = session.run(listener, &self.stop);
        device.queue_running(0, false);
        let negotiated = session.is_negotiated();
        // Its worker keeps no key any more, and nothing is in flight.
        drop(session);
        device.disconnected();
        device.hung_up();
        (result, negotiated)
    }
}
