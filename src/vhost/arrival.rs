// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Peeks at what a frontend has sent before the `vhost` crate reads it. So reading never waits and never fails halfway.
#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionread, retry_on_intr};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};
use vhost::vhost_user::message::{MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE};

use super::backend_channel::Header;
use crate::descriptors;

/// The maximum time from the first byte of a message to the last.
const PATIENCE: Duration = Duration::from_secs(5);

/// Descriptors that other threads may open between the peek at a message and its reading.
const SPARE_DESCRIPTORS: usize = 4;

/// What has arrived on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing so far.
    Nothing,
    /// Part of a message.
    Part,
    /// A message that can be read at once.
    Message(Header),
    /// The other side has hung up.
    End,
}

/// A connection, and when its incomplete message began.
pub struct Connection {
    /// The socket.
    pub stream: UnixStream,
    /// When the first part of an incomplete message arrived.
    part_since: Option<Instant>,
}

impl Connection {
    /// Nothing has come yet.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, part_since: None }
    }

    /// Peeks at what has arrived. Never waits.
    ///
    /// # Errors
    /// When the message cannot be read: no descriptors are left for it, or its rest does not arrive.
    pub fn look(&mut self) -> io::Result<Arrival> {
        let arrival = look(&self.stream)?;
        if arrival != Arrival::Part {
            self.part_since = None;
        } else if self.part_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(io::Error::other("it has sent part of a message, and nothing for 5 seconds"));
        }
        Ok(arrival)
    }
}

fn look(stream: &UnixStream) -> io::Result<Arrival> {
    let mut bytes = [0; Header::BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags));
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => {
            refuse_out_of_band(stream)?;
            return Ok(Arrival::Nothing);
        }
        Err(Errno::CONNRESET) => return Ok(Arrival::End),
        Err(error) => return Err(error.into()),
    };
    // Copies of the descriptors, closed on return. The message keeps its own.
    let files: Vec<_> = ancillary.drain().collect();
    // Otherwise the crate would read the header, lose the descriptors, and wait for the header again.
    if received.flags.contains(ReturnFlags::CTRUNC) || !files.is_empty() && spare_descriptors(stream).is_err() {
        return Err(io::Error::other(format!(
            "it passes more descriptors than a message may have ({MAX_ATTACHED_FD_ENTRIES}), or than can be open here \
             ({}){}",
            descriptors::limit().map_or_else(|| "no limit".into(), |limit| limit.to_string()),
            descriptors::HINT
        )));
    }
    if received.bytes == 0 {
        return Ok(Arrival::End);
    }
    let header = Header::from_bytes(bytes);
    // The crate refuses a size that no message has, and then reads no further.
    let whole = received.bytes == Header::BYTES
        && (header.size as usize > MAX_MSG_SIZE
            || ioctl_fionread(stream)? >= (Header::BYTES as u64).saturating_add(header.size.into()));
    refuse_out_of_band(stream)?;
    Ok(match whole {
        true => Arrival::Message(header),
        // The rest will not come.
        false if has_hung_up(stream) => Arrival::End,
        false => Arrival::Part,
    })
}

/// A byte that was sent with MSG_OOB counts as one that has arrived, but reading skips it, and then waits for another one.
fn refuse_out_of_band(stream: &UnixStream) -> io::Result<()> {
    let mut fds = [PollFd::new(stream, PollFlags::PRI)];
    retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
    let [socket] = fds;
    if socket.revents().contains(PollFlags::PRI) {
        return Err(io::Error::other("it sends out-of-band data"));
    }
    Ok(())
}

/// Whether the peer sends nothing more. What it sent before may be unread.
pub fn has_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Checks, before a message is read, that a few more descriptors can be opened than it has.
fn spare_descriptors(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    (0..SPARE_DESCRIPTORS).map(|_| Ok(fcntl_dupfd_cloexec(stream.as_fd(), 0)?)).collect()
}
