// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The thread that serves the control socket.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::client::{Client, ClientState};
use super::{Error, MAX_CLIENTS, command};
use crate::device::Device;
use crate::eventfd;
use crate::own_path::OwnPath;
use crate::threads;
use crate::vhost::{SocketAccess, bind_socket};

/// A bound control socket. Clients can connect and then wait until it is served. Dropping it removes the socket.
pub struct Listener {
    // Dropped first: its inode is not reused while the socket is open.
    _path: OwnPath,
    socket: UnixListener,
}

/// A running control socket. Dropping it ends the thread and removes the socket.
pub struct ControlServer {
    shared: Arc<ServerState>,
    thread: Option<thread::JoinHandle<()>>,
}

struct ServerState {
    stop: AtomicBool,
    wake: File,
}

impl Listener {
    /// Listens at `path`, for this user only.
    ///
    /// # Errors
    /// When the path exists and is not a stale socket, or the socket cannot be created.
    pub fn at_path(path: &Path) -> Result<Self> {
        let (socket, path) = bind_socket(path, "--control", SocketAccess::PRIVATE)?;
        socket.set_nonblocking(true)?;
        Ok(Self { _path: path, socket })
    }
}

impl ControlServer {
    /// Starts the thread that answers clients. `about` is added to the reply to `status`.
    ///
    /// # Errors
    /// When the thread cannot be created.
    pub fn start(listener: Listener, device: Arc<Device>, about: Value) -> Result<Self> {
        let wake = eventfd::new()?;
        let shared = Arc::new(ServerState { stop: AtomicBool::new(false), wake });
        let thread = threads::named("control").spawn({
            let shared = Arc::clone(&shared);
            // The thread owns the listener: the socket is removed when it ends.
            move || {
                // Moves all fields, including the path.
                let listener = listener;
                shared.run(&listener.socket, &device, &about);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        eventfd::signal(&self.shared.wake);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the control socket's thread has panicked; please report this");
        }
    }
}

impl ServerState {
    fn run(&self, listener: &UnixListener, device: &Device, about: &Value) {
        let answer = |line: &[u8]| command::answer(device, about, line);
        let mut clients: Vec<Client> = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            let ready = match self.wait(listener, &clients) {
                Ok(ready) => ready,
                Err(error) => {
                    log::error!("the control socket has failed and is closed: {error}");
                    return;
                }
            };
            let now = Instant::now();
            let mut flags = ready.into_iter();
            let accept = flags.next().is_some_and(|flags| !flags.is_empty());
            clients.retain_mut(|client| {
                let flags = flags.next().unwrap_or(PollFlags::empty());
                if flags.contains(PollFlags::PRI) {
                    // Out-of-band data, which nobody reads: it would be news for ever.
                    return false;
                }
                if flags.is_empty() {
                    return client.deadline().is_none_or(|deadline| now < deadline);
                }
                client.serve(answer) == ClientState::Open && client.answer_lines(&answer) == ClientState::Open
            });
            if accept {
                Self::accept(listener, &mut clients);
            }
        }
    }

    /// Waits for events. Returns those of the listener, then of each client.
    fn wait(&self, listener: &UnixListener, clients: &[Client]) -> io::Result<Vec<PollFlags>> {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        fds.extend(clients.iter().map(|client| PollFd::new(&client.stream, client.events() | PollFlags::PRI)));
        let timeout = clients.iter().filter_map(Client::deadline).min().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() } // seconds: at most 10
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds.iter().skip(1).map(PollFd::revents).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
        // The client has gone again, or there are no descriptors: keep serving the others.
        let Ok((stream, _)) = listener.accept() else {
            return thread::sleep(Duration::from_millis(10));
        };
        let Ok(mut client) = Client::new(stream) else { return };
        if clients.len() >= MAX_CLIENTS
            && let Some(silent) = clients.iter().position(Client::gives_way)
        {
            clients.remove(silent);
        }
        if clients.len() < MAX_CLIENTS {
            clients.push(client);
        } else {
            client.refuse(Error::new("busy", format!("{MAX_CLIENTS} clients are connected already")));
            // A short line fits in an empty socket buffer. Otherwise the client gets no reason.
            let _ = client.answer_lines(&|_: &[u8]| Value::Null);
        }
    }
}
