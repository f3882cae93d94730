// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The backend channel: a second socket, on which the backend sends messages of its own.
//!
//! The `vhost` crate takes the socket (SET_BACKEND_REQ_FD). But it cannot send the one message that a block device
//! needs, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, and does not give the socket away. So this module takes that request
//! from the connection before the crate sees it. QEMU's docs/interop/vhost-user.rst has the layout of all messages: a
//! header of three 32-bit numbers (request, flags, size of the payload) in the host's byte order.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketType, recv, recvmsg, send,
    sockopt,
};

use crate::lock::lock;
use crate::ratelimit::log_limited;

/// VHOST_USER_SET_BACKEND_REQ_FD, a request of the frontend.
const SET_BACKEND_REQ_FD: u32 = 21;
/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, a request of the backend.
const CONFIG_CHANGE_MSG: u32 = 2;
/// Version of the protocol, in the flags.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The maximum time for a frontend to confirm a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// A header, as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub request: u32,
    flags: u32,
    /// Bytes that follow.
    pub size: u32,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 12;

    /// Whether the message passes the socket of the backend channel.
    pub fn has_channel(&self) -> bool {
        self.request == SET_BACKEND_REQ_FD
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (to, from) in bytes.chunks_exact_mut(4).zip([self.request, self.flags, self.size]) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        bytes
    }

    /// Parses a header.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let number = u32::from_ne_bytes;
        Self { request: number([a, b, c, d]), flags: number([e, f, g, h]), size: number([i, j, k, l]) }
    }
}

/// A reply, or the body of one: a header and one number, 0 for success.
fn reply(request: u32, value: u64) -> Vec<u8> {
    [&Header { request, flags: VERSION | REPLY, size: 8 }.to_bytes()[..], &value.to_ne_bytes()].concat()
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The message that passes the socket of the backend channel.
pub struct BackendSocket {
    /// The socket, or why it is not usable.
    pub socket: io::Result<UnixStream>,
    need_reply: bool,
}

impl BackendSocket {
    /// Tells the frontend whether the socket was taken, if it wants to know.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn answer(&self, connection: &UnixStream, replies_are_negotiated: bool, taken: bool) -> io::Result<()> {
        if !self.need_reply || !replies_are_negotiated {
            return Ok(());
        }
        let mut connection = connection;
        connection.write_all(&reply(SET_BACKEND_REQ_FD, u64::from(!taken)))
    }
}

/// Receives a message for which [`Header::has_channel`] holds.
///
/// # Errors
/// When the message is broken. The connection is then unusable.
pub fn receive(connection: &UnixStream) -> io::Result<BackendSocket> {
    let mut bytes = [0; Header::BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(connection, &mut [io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let sockets = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let socket = sockets.flatten().last();
    let mut rest = connection;
    rest.read_exact(bytes.get_mut(received.bytes..).unwrap_or_default())?;
    let header = Header::from_bytes(bytes);
    if header.flags & (VERSION_MASK | REPLY) != VERSION || header.size != 0 {
        return Err(wrong("a request to set up the backend channel is malformed"));
    }
    let socket = socket.ok_or_else(|| wrong("the backend channel is missing")).and_then(stream);
    Ok(BackendSocket { socket, need_reply: header.flags & NEED_REPLY != 0 })
}

/// Refuses all but Unix stream sockets: others could block, or lose message boundaries.
fn stream(socket: OwnedFd) -> io::Result<UnixStream> {
    let kind = (sockopt::socket_domain(&socket)?, sockopt::socket_type(&socket)?);
    if kind != (AddressFamily::UNIX, SocketType::STREAM) {
        return Err(wrong("the backend channel is not a Unix stream socket"));
    }
    Ok(socket.into())
}

/// Tells a frontend by its backend channel that the configuration space has changed.
pub struct Notifier {
    socket: UnixStream,
    replies: Mutex<Replies>,
}

struct Replies {
    /// The frontend confirms messages (VHOST_USER_PROTOCOL_F_REPLY_ACK).
    confirms: bool,
    /// Messages without a reply so far; replies come in order.
    open: u32,
    /// Reading failed, so it is not known where the next reply begins.
    broken: bool,
}

impl Notifier {
    /// Uses the frontend's socket; `confirms` if VHOST_USER_PROTOCOL_F_REPLY_ACK was negotiated.
    pub fn new(socket: UnixStream, confirms: bool) -> Self {
        Self { socket, replies: Mutex::new(Replies { confirms, open: 0, broken: false }) }
    }

    /// The frontend has gone: nobody waits for its reply any more.
    pub fn close(&self) {
        // It fails if the frontend has closed its end.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Tells the frontend, and waits for its reply if it sends one. The frontend may read the configuration space
    /// before it replies. So the thread that serves its messages must not call this, and no caller may hold a lock that
    /// this thread takes.
    ///
    /// # Errors
    /// When the channel is closed or full, when the frontend refuses, or when it does not reply in time.
    pub fn config_changed(&self) -> io::Result<()> {
        let mut replies = lock(&self.replies);
        replies.send_config_changed(&self.socket)?;
        replies.wait(&self.socket)
    }

    /// Tells the frontend without waiting, for the thread that serves its messages.
    pub fn send_config_changed(&self) {
        // If another thread is telling it right now, that is enough.
        if let Ok(mut replies) = self.replies.try_lock()
            && let Err(error) = replies.send_config_changed(&self.socket)
        {
            log_limited!(warn, "cannot tell the frontend the new size of the disk: {error}");
        }
    }
}

impl Replies {
    fn send_config_changed(&mut self, socket: &UnixStream) -> io::Result<()> {
        if self.broken {
            return Err(wrong("the backend channel is broken"));
        }
        let flags = VERSION | if self.confirms { NEED_REPLY } else { 0 };
        let message = Header { request: CONFIG_CHANGE_MSG, flags, size: 0 }.to_bytes();
        let sent = send(socket, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        if sent != message.len() {
            return Err(wrong("the backend channel is full"));
        }
        self.open = self.open.saturating_add(self.confirms.into());
        Ok(())
    }

    fn wait(&mut self, socket: &UnixStream) -> io::Result<()> {
        if !self.confirms {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.read(socket, deadline)?;
            self.open = self.open.saturating_sub(1);
            match (self.open, value) {
                (0, 0) => return Ok(()),
                (0, _) => return Err(io::Error::other("the frontend refuses the message")),
                // A late reply to an older message.
                _ => {}
            }
        }
    }

    fn read(&mut self, socket: &UnixStream, deadline: Instant) -> io::Result<u64> {
        let mut bytes = [0; Header::BYTES + 8];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            if !readable(socket, deadline)? {
                self.broken = done > 0;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the frontend has not replied within 5 seconds"));
            }
            match recv(socket, rest, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok((read, _)) => done += read,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (header, value) = bytes.split_at(Header::BYTES);
        let expected = Header { request: CONFIG_CHANGE_MSG, flags: VERSION | REPLY, size: 8 };
        if header.first_chunk().is_none_or(|header| Header::from_bytes(*header) != expected) {
            self.broken = true;
            return Err(wrong("the frontend's reply is malformed"));
        }
        Ok(value.first_chunk().map_or(0, |value| u64::from_ne_bytes(*value)))
    }
}

/// Waits for data. Returns false at the deadline.
fn readable(socket: &UnixStream, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
