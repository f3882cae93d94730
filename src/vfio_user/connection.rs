// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Messages from and to the client. The first part of a message waits here until the rest has arrived.
//!
//! Nothing here blocks. One read takes all that has arrived, because the guest waits for a register during each system call. No
//! message takes more memory than [`MOST_BYTES`]: a longer one is read to its end and dropped, so that the next one is found.
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

/// The maximum size of a message. REGION_WRITE_MULTI with all its writes has 4824 bytes.
pub const MOST_BYTES: usize = 8192;
/// The maximum number of descriptors of a message.
pub const MOST_FILES: usize = 8;

const HEADER: usize = size_of::<Header>();

/// What [`Connection::receive`] has found.
#[derive(Debug)]
pub enum Received {
    /// No complete message.
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
    /// Received bytes. Those from `start` to `filled` begin with a message.
    input: Box<[u8; MOST_BYTES]>,
    start: usize,
    filled: usize,
    /// Size of the message that [`Connection::receive`] returned last.
    whole: usize,
    /// Descriptors, each with the place in `input` where its message begins.
    files: Vec<(usize, File)>,
    /// The last read returned less than it had room for, so the socket is empty.
    drained: bool,
    /// The client has hung up, so a read never drains the socket: the end follows.
    ended: bool,
    /// The header of a message that is too long, and the bytes of it that are still to be dropped.
    too_long: Option<(Header, usize)>,
    /// Replies that are not sent yet, and how many bytes of them are.
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// A new connection.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Box::new([0; MOST_BYTES]),
            start: 0,
            filled: 0,
            whole: 0,
            files: Vec::new(),
            drained: false,
            ended: false,
            too_long: None,
            output: Vec::new(),
            sent: 0,
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The socket had an event: there is something to read, or the client has hung up.
    pub fn woken(&mut self, hung_up: bool) {
        self.drained = false;
        self.ended |= hung_up;
    }

    /// Returns the next message, and forgets the one before.
    ///
    /// # Errors
    /// When a header is invalid, or descriptors were lost.
    pub fn receive(&mut self) -> io::Result<Received> {
        let whole = std::mem::take(&mut self.whole);
        self.forget(whole);
        let drained = std::mem::take(&mut self.drained);
        loop {
            if let Some((header, left)) = self.too_long {
                match self.drop_part(left)? {
                    None => return Ok(Received::Nothing),
                    Some(0) => return Ok(Received::End),
                    Some(bytes) if bytes < left => {
                        self.too_long = Some((header, left - bytes));
                        // It may have gigabytes.
                        return Ok(Received::Dropped);
                    }
                    Some(_) => {
                        self.too_long = None;
                        return Ok(Received::TooLong(header));
                    }
                }
            }
            if let Some(header) = self.header(self.start) {
                // u32 to usize loses nothing
                let (size, there) = (header.size.get() as usize, self.filled - self.start);
                if size < HEADER {
                    let short = format!("a message has {size} bytes, which is less than its header");
                    return Err(io::Error::other(short));
                }
                if size <= there {
                    self.whole = size;
                    return Ok(Received::Message(header));
                }
                if size > MOST_BYTES {
                    self.too_long = Some((header, size - there));
                    self.forget(there);
                    continue;
                }
            }
            // The next call finds what arrives from now on.
            if drained || std::mem::take(&mut self.drained) {
                return Ok(Received::Nothing);
            }
            match self.read()? {
                None => return Ok(Received::Nothing),
                Some(0) => return Ok(Received::End),
                Some(_) => {}
            }
        }
    }

    /// The bytes that follow the message's header.
    pub fn body(&self) -> &[u8] {
        self.input.get(self.start + HEADER..self.start + self.whole).unwrap_or_default()
    }

    /// The message's descriptors.
    pub fn take_files(&mut self) -> Vec<File> {
        let start = self.start;
        self.files.extract_if(.., |(place, _)| *place == start).map(|(_, file)| file).collect()
    }

    /// Removes the first bytes, and wipes them: they may be a part of a key.
    fn forget(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.take_files();
        let end = self.start + bytes;
        self.input.get_mut(self.start..end).unwrap_or_default().zeroize();
        (self.start, self.filled) = if end < self.filled { (end, self.filled) } else { (0, 0) };
    }

    fn header(&self, place: usize) -> Option<Header> {
        let there = self.input.get(place..self.filled)?;
        Header::read_from_prefix(there).ok().map(|(header, _)| header)
    }

    /// Reads all that has arrived, and appends it. `None`: there is nothing; 0 bytes: the client has hung up.
    fn read(&mut self) -> io::Result<Option<usize>> {
        if self.start > 0 {
            let part = self.filled - self.start;
            self.input.copy_within(self.start..self.filled, 0);
            self.input.get_mut(part..self.filled).unwrap_or_default().zeroize();
            let moved = self.start;
            self.files.iter_mut().for_each(|(place, _)| *place -= moved);
            (self.start, self.filled) = (0, part);
        }
        let Some(room) = self.input.get_mut(self.filled..) else { return Ok(Some(0)) };
        let (wanted, mut files) = (room.len(), Vec::new());
        let read = receive(&self.stream, room, &mut files)?;
        self.filled += read.unwrap_or(0);
        self.drained = !self.ended && files.is_empty() && read.is_some_and(|bytes| bytes < wanted);
        // A read ends with the bytes that descriptors belong to, and the client sends each message by itself.
        let place = self.last_begun();
        self.files.extend(files.into_iter().map(|file| (place, file)));
        if self.files.iter().filter(|(of, _)| *of == place).count() > MOST_FILES {
            return Err(too_many_files());
        }
        Ok(read)
    }

    /// Where the last message begins, be it complete or not.
    fn last_begun(&self) -> usize {
        let mut place = 0;
        while let Some(header) = self.header(place) {
            let size = header.size.get() as usize; // u32 to usize loses nothing
            if size < HEADER || size >= self.filled - place {
                break;
            }
            place += size;
        }
        place
    }

    /// Drops at most `left` bytes of a message that is too long. Returns as [`Connection::read`] does.
    fn drop_part(&mut self, left: usize) -> io::Result<Option<usize>> {
        let mut bytes = [0; 1024];
        let wanted = left.min(bytes.len());
        let room = bytes.get_mut(..wanted).unwrap_or_default();
        let dropped = receive(&self.stream, room, &mut Vec::new());
        bytes.zeroize();
        dropped
    }

    /// Replies to a command, unless it wants no reply.
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

    /// Whether a reply is not sent completely. Serve no command then, or replies would pile up.
    pub fn is_full(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends as much of the replies as the socket takes.
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

/// Reads bytes and descriptors. `None`: there is nothing; 0 bytes: the client has hung up.
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
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(too_many_files());
    }
    Ok(Some(received.bytes))
}

fn too_many_files() -> io::Error {
    io::Error::other(format!(
        "a message passes more descriptors than it may have ({MOST_FILES}), or than can be open here{}",
        crate::descriptors::HINT
    ))
}
