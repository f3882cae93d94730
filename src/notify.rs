// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tells systemd when frontends can connect, and when the device stops (sd_notify(3), `Type=notify`).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager's socket, if there is one. Connect it before the sandbox starts, which allows no new sockets.
pub struct Notify(Option<UnixDatagram>);

impl Notify {
    /// The socket that NOTIFY_SOCKET names.
    pub fn from_environment() -> Self {
        let connect = |name: OsString| {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect_addr(&address?)?;
            Ok(socket)
        };
        let socket = std::env::var_os("NOTIFY_SOCKET").map(connect).transpose();
        Self(socket.unwrap_or_else(|error: io::Error| {
            log::warn!("cannot connect to the service manager by NOTIFY_SOCKET: {error}");
            None
        }))
    }

    /// Reports that frontends can connect.
    pub fn ready(&self) {
        self.tell("READY=1\n");
    }

    /// Reports that the device stops.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    fn tell(&self, what: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(what.as_bytes())) {
            log::warn!("cannot tell the service manager {}: {error}", what.trim_end());
        }
    }
}
