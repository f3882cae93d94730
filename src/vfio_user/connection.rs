// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Messages from and to the client, whole ones only: what has come of a message waits here until the rest is there.
//!
//! Nothing here waits. No message takes more memory than [`MOST_BYTES`]: a longer one is read to its end and dropped, so that the
//! next one is found.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroize;

use super::protocol::{Header, header_flag};

/// The longest message that is served: REGION_WRITE_MULTI with all its writes has 4824 bytes.
pub const MOST_BYTES: usize = 8192;
/// The most descriptors of a message.
pub const MOST_FILES: usize = 8;

const HEADER: usize = size_of::<Header>();

/// What has come.
#[derive(Debug)]
pub enum Received {
    /// Not a whole message.
    Nothing,
    /// A message: see [`Connection::body`] and [`Connection::take_files`].
    Message(Header),
    /// A part of a message that is too long has been dropped.
    Dropped,
    /// All of a message that is too long has been dropped.
    TooLong(Header),
    /// The client has hung up.
    End,
}

/// A connection to a client.
pub struct Connection {
    stream: UnixStream,
    input: Box<[u8; MOST_BYTES]>,
    filled: usize,
    /// Bytes that are left to be dropped of a message that is too long.
    excess: usize,
    files: Vec<File>,
    /// Replies that the client has not taken yet, and how far they have been sent.
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Nothing has come yet.
    pub fn new(stream: UnixStream) -> Self {
        let input = Box::new([0; MOST_BYTES]);
        Self { stream, input, filled: 0, excess: 0, files: Vec::new(), output: Vec::new(), sent: 0 }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Looks for the next message; the one before is forgotten.
    ///
    /// # Errors
    /// When the stream makes no sense any more, or descriptors are lost.
    pub fn receive(&mut self) -> io::Result<Received> {
        if self.is_whole() {
            // It may have been a part of a key.
            self.input.get_mut(..self.filled).unwrap_or_default().zeroize();
            self.filled = 0;
            self.files.clear();
        }
        loop {
            let end = match self.header() {
                None => HEADER,
                Some(header) => {
                    // u32 to usize loses nothing
                    let size = header.size.get() as usize;
                    if size < HEADER {
                        return Err(io::Error::other(format!(
                            "a message has {size} bytes, which is less than its header"
                        )));
                    }
                    if size > MOST_BYTES {
                        if self.filled == HEADER && self.excess == 0 {
                            self.excess = size - HEADER;
                        }
                        match self.drop_excess()? {
                            Some(0) => return Ok(Received::End),
                            None => return Ok(Received::Nothing),
                            // There may be gigabytes of it.
                            Some(_) if self.excess > 0 => return Ok(Received::Dropped),
                            Some(_) => {
                                self.filled = 0;
                                self.files.clear();
                                return Ok(Received::TooLong(header));
                            }
                        }
                    }
                    if self.filled == size {
                        return Ok(Received::Message(header));
                    }
                    size
                }
            };
            match self.read(end)? {
                None => return Ok(Received::Nothing),
                Some(0) => return Ok(Received::End),
                Some(bytes) => self.filled += bytes,
            }
        }
    }

    /// What follows the header of the message that has come.
    pub fn body(&self) -> &[u8] {
        self.input.get(HEADER..self.filled).unwrap_or_default()
    }

    /// The descriptors of the message that has come.
    pub fn take_files(&mut self) -> Vec<File> {
        std::mem::take(&mut self.files)
    }

    fn header(&self) -> Option<Header> {
        Header::read_from_bytes(self.input.get(..HEADER.min(self.filled))?).ok()
    }

    fn is_whole(&self) -> bool {
        self.header().is_some_and(|header| header.size.get() as usize == self.filled)
    }

    /// Reads up to byte `end` of the message. `None`: nothing has come.
    fn read(&mut self, end: usize) -> io::Result<Option<usize>> {
        let Some(room) = self.input.get_mut(self.filled..end) else { return Ok(Some(0)) };
        receive(&self.stream, room, &mut self.files)
    }

    /// Drops bytes of a message that is too long. Like [`Connection::read`].
    fn drop_excess(&mut self) -> io::Result<Option<usize>> {
        let mut bytes = [0; 1024];
        let wanted = self.excess.min(bytes.len());
        let room = bytes.get_mut(..wanted).unwrap_or_default();
        let dropped = receive(&self.stream, room, &mut self.files)?;
        self.excess -= dropped.unwrap_or(0);
        Ok(dropped)
    }

    /// Replies to a command. Without effect if it wants no reply.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn reply(&mut self, to: &Header, parts: &[&[u8]]) -> io::Result<()> {
        let size = parts.iter().fold(HEADER, |sum, part| sum + part.len());
        self.send(to, header_flag::REPLY, 0, size, parts)
    }

    /// Replies that a command has failed.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn reply_error(&mut self, to: &Header, error: Errno) -> io::Result<()> {
        let error = error.raw_os_error().unsigned_abs();
        self.send(to, header_flag::REPLY | header_flag::ERROR, error, HEADER, &[])
    }

    fn send(&mut self, to: &Header, flags: u32, error: u32, size: usize, parts: &[&[u8]]) -> io::Result<()> {
        if to.flags.get() & header_flag::NO_REPLY != 0 {
            return Ok(());
        }
        let header = Header {
            size: u32::try_from(size).unwrap_or(u32::MAX).into(),
            flags: flags.into(),
            error: error.into(),
            ..*to
        };
        self.output.extend_from_slice(header.as_bytes());
        parts.iter().for_each(|part| self.output.extend_from_slice(part));
        self.flush()
    }

    /// Whether a reply has not been sent as a whole. Then no command is to be taken, or replies would pile up.
    pub fn is_full(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what has not been sent, as far as the client takes it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.stream, &[IoSlice::new(rest)], &mut SendAncillaryBuffer::default(), flags) {
                Ok(bytes) => self.sent += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.input.zeroize();
    }
}

/// Reads bytes and descriptors. `None`: nothing has come; 0 bytes: nothing will.
fn receive(stream: &UnixStream, room: &mut [u8], files: &mut Vec<File>) -> io::Result<Option<usize>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(stream, &mut [IoSliceMut::new(room)], &mut ancillary, flags) {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(Errno::CONNRESET) => return Ok(Some(0)),
        Err(error) => return Err(error.into()),
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors.map(File::from));
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || files.len() > MOST_FILES {
        return Err(io::Error::other(format!(
            "a message passes more descriptors than it may have ({MOST_FILES}), or than can be open here{}",
            crate::descriptors::HINT
        )));
    }
    Ok(Some(received.bytes))
}
