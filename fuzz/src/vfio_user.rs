// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The transport of vfio-user: messages, and bytes that are none. However the stream is cut, the replies and the accesses to the
//! device are the same.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use arbitrary::{Arbitrary, Unstructured};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost_user_blk_crypto::vfio_user::{Access, Client, MOST_FILES, Next, Regions};

use crate::wire::{all, number};

const REGIONS: Regions = Regions { bar0: 0x10000, config: 256 };
const NO_REPLY: u32 = 0x10;
const HEADER: usize = 16;
/// Bytes of the file that is guest memory.
const MEMORY: u64 = 0x10000;

#[derive(Debug, Arbitrary)]
enum Op {
    Message(Message),
    Raw(Vec<u8>),
}

/// Mostly one that makes sense.
#[derive(Debug)]
struct Message {
    command: u16,
    flags: u32,
    body: Vec<u8>,
    /// Bytes that are announced and do not come, or the other way round.
    lie: i32,
    /// Files that go along: guest memory, or eventfds.
    files: Vec<bool>,
}

impl<'a> Arbitrary<'a> for Message {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let command = if u.ratio(1, 20)? { u.arbitrary()? } else { u.int_in_range(1..=16)? };
        let mut body = Vec::new();
        let mut long = |numbers: &[u64]| body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        let pages = |u: &mut Unstructured<'a>| number(u, 20).map(|page| page.wrapping_mul(0x1000));
        let mut files = Vec::new();
        match command {
            // argsz with flags, offset, address, size.
            2 => {
                long(&[32 | number(u, 3)? << 32, pages(u)?, pages(u)?, pages(u)?]);
                files = (0..u.int_in_range(0..=2)?).map(|_| u.ratio(1, 10)).collect::<Result<_, _>>()?;
            }
            3 => long(&[24 | number(u, 2)? << 32, pages(u)?, pages(u)?]),
            4 => long(&[number(u, 20)?, 0]),
            5 => long(&[number(u, 40)?, number(u, 9)?, 0, 0]),
            7 => long(&[number(u, 20)?, number(u, 5)?]),
            8 => {
                long(&[20 | number(u, 63)? << 32, number(u, 5)?]);
                body.extend((number(u, 2)? as u32).to_le_bytes());
                body.extend(u.bytes(u.len().min(2))?);
                files = (0..u.int_in_range(0..=2)?).map(|_| u.ratio(9, 10)).collect::<Result<_, _>>()?;
            }
            9 | 10 => {
                let (offset, region, count) = (number(u, 300)?, number(u, 8)? as u32, number(u, 16)? as u32);
                long(&[offset, u64::from(region) | u64::from(count) << 32]);
                body.extend(u.bytes(u.len().min(if command == 9 { 0 } else { count.min(64) as usize }))?);
            }
            15 => {
                let count = number(u, 4)?;
                long(&[count]);
                for _ in 0..count.min(6) {
                    let (offset, region, count) = (number(u, 300)?, number(u, 8)? as u32, number(u, 8)? as u32);
                    long(&[offset, u64::from(region) | u64::from(count) << 32, u.arbitrary()?]);
                }
            }
            _ => body.extend(u.bytes(u.len().min(40))?),
        }
        if u.ratio(1, 30)? {
            files = vec![false; u.int_in_range(0..=MOST_FILES)?];
        }
        let lie = if u.ratio(1, 20)? { u.int_in_range(-20..=10_000)? } else { 0 };
        let flags = if u.ratio(1, 10)? { u.arbitrary()? } else { u32::from(u.arbitrary::<bool>()?) * NO_REPLY };
        Ok(Self { command, flags, body, lie, files })
    }
}

impl Message {
    fn bytes(&self, id: u16) -> Vec<u8> {
        let size = (HEADER + self.body.len()) as i32 + self.lie;
        let mut bytes = [id.to_le_bytes(), self.command.to_le_bytes()].concat();
        bytes.extend([size.to_le_bytes(), self.flags.to_le_bytes(), [0; 4]].concat());
        bytes.extend(&self.body);
        bytes
    }
}

/// What came of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    replies: Vec<u8>,
    accesses: Vec<Access>,
    broken: bool,
}

impl Outcome {
    /// Whether one is how the other one began: an error may be noticed before what came with it is served.
    fn agrees(&self, other: &Self) -> bool {
        match (self.broken, other.broken) {
            (true, _) => other.replies.starts_with(&self.replies) && other.accesses.starts_with(&self.accesses),
            (false, true) => other.agrees(self),
            (false, false) => self == other,
        }
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let (Ok(silent), Ok(piece)) = (u.ratio(1, 16), u.int_in_range(1..=100usize)) else { return };
    let ops = all::<Op>(u, 40);
    let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd"));
    memory.set_len(MEMORY).expect("memfd");
    let event = File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd"));
    let version = Message { command: 1, flags: 0, body: vec![0; 4], lie: 0, files: vec![] };
    let mut stream: Vec<(Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![];
    if !silent {
        stream.push((version.bytes(0), vec![]));
    }
    for (id, op) in (1..).zip(&ops) {
        stream.push(match op {
            Op::Message(message) => {
                let files = message.files.iter().map(|is_event| if *is_event { event.as_fd() } else { memory.as_fd() });
                (message.bytes(id), files.collect())
            }
            Op::Raw(bytes) => (bytes.clone(), vec![]),
        });
    }
    stream.retain(|(bytes, _)| !bytes.is_empty());
    if crate::shown() {
        ops.iter().for_each(|op| println!("{op:?}"));
    }
    let at_once = serve(&stream, usize::MAX, false);
    let apart = serve(&stream, usize::MAX, true);
    assert!(at_once.agrees(&apart), "at once {at_once:?}, one by one {apart:?}");
    // If a message is not where the server takes it to be, its files may go with another one.
    if ops.iter().all(|op| matches!(op, Op::Message(Message { lie: 0, .. }))) {
        let pieces = serve(&stream, piece, true);
        assert!(pieces.agrees(&apart), "in pieces of {piece} {pieces:?}, whole {apart:?}");
    }
    check(&apart.replies);
}

/// Sends all of it, in pieces of so many bytes; with `apart`, everything is served before the next piece is sent.
fn serve(stream: &[(Vec<u8>, Vec<BorrowedFd<'_>>)], piece: usize, apart: bool) -> Outcome {
    let (mut ours, theirs) = UnixStream::pair().expect("socket pair");
    ours.set_nonblocking(true).expect("socket");
    let mut client = Client::new(theirs, REGIONS);
    let mut outcome = Outcome::default();
    for (bytes, files) in stream {
        // Files go with the first byte.
        let mut files = files.as_slice();
        for bytes in bytes.chunks(piece) {
            let mut rest = bytes;
            while !rest.is_empty() && !outcome.broken {
                match send(&ours, rest, files) {
                    Ok(sent) => (rest, files) = (&rest[sent..], &[]),
                    Err(Errno::AGAIN) => work(&mut client, &mut ours, &mut outcome),
                    Err(error) => panic!("cannot send: {error}"),
                }
            }
            if apart {
                work(&mut client, &mut ours, &mut outcome);
            }
        }
    }
    work(&mut client, &mut ours, &mut outcome);
    outcome
}

fn send(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)));
    }
    sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
}

/// Serves what has come, and takes the replies, until there is nothing to do.
fn work(client: &mut Client, ours: &mut UnixStream, outcome: &mut Outcome) {
    let mut idle = 0;
    while idle < 3 && !outcome.broken {
        idle += 1;
        match step(client, outcome) {
            Ok(true) => idle = 0,
            Ok(false) => {}
            Err(_) => outcome.broken = true,
        }
        let mut bytes = [0; 4096];
        match ours.read(&mut bytes) {
            Ok(count) => {
                outcome.replies.extend(&bytes[..count]);
                idle = 0;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// The client's next message; whether there was one.
fn step(client: &mut Client, outcome: &mut Outcome) -> std::io::Result<bool> {
    let access = match client.receive()? {
        Next::Nothing => return Ok(false),
        Next::Served => return Ok(true),
        Next::End => panic!("nobody has hung up"),
        Next::Access(access) => access,
    };
    match &access {
        Access::Read { region, offset, len } => {
            inside(*region, *offset, *len);
            client.read_done(&vec![*offset as u8; *len])?;
        }
        Access::Write { region, offset, data } => {
            inside(*region, *offset, data.len());
            client.done()?;
        }
        Access::Reset | Access::Unmap => client.done()?,
    }
    outcome.accesses.push(access);
    Ok(true)
}

fn inside(region: u32, offset: u64, len: usize) {
    let bytes = match region {
        0 => REGIONS.bar0,
        7 => REGIONS.config,
        other => panic!("an access to region {other}"),
    };
    assert!(len > 0 && offset < bytes && len as u64 <= bytes - offset, "{region} {offset:#x} {len}");
}

/// Replies are whole messages, of commands that were sent.
fn check(mut replies: &[u8]) {
    while !replies.is_empty() {
        let word = |at: usize| u32::from_le_bytes(replies[at..at + 4].try_into().expect("4 bytes"));
        let (size, flags) = (word(4) as usize, word(8));
        assert!(size >= HEADER && size <= replies.len(), "a reply has {size} bytes");
        assert!(flags == 1 || flags == 0x21 && size == HEADER && word(12) != 0, "flags of a reply: {flags:#x}");
        replies = &replies[size..];
    }
}
