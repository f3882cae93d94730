// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vfio-user client in this process, written from the protocol's specification: it shares nothing with the server but the socket.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_INFO: u16 = 4;
pub const GET_REGION_INFO: u16 = 5;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const RESET: u16 = 13;
pub const REGION_WRITE_MULTI: u16 = 15;
pub const NO_REPLY: u32 = 0x10;

/// The errno of an error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub u32);

/// A connection to a server.
pub struct Vfio {
    pub stream: UnixStream,
    next_id: u16,
}

impl Vfio {
    /// Says nothing yet.
    pub fn silent(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        Self { stream, next_id: 1 }
    }

    /// Has agreed on the version.
    pub fn new(stream: UnixStream) -> Self {
        let mut client = Self::silent(stream);
        let text = b"{\"capabilities\":{\"max_msg_fds\":16,\"write_multiple\":true}}\0";
        let reply = client.ask(VERSION, &[&[0; 4][..], text].concat(), &[]).expect("VERSION");
        assert_eq!((&reply[..4], reply.last()), (&[0; 4][..], Some(&0)));
        let text = std::str::from_utf8(&reply[4..reply.len() - 1]).expect("text");
        let capabilities: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(capabilities["capabilities"]["write_multiple"], true);
        client
    }

    pub fn message(&mut self, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
        self.next_id = self.next_id.wrapping_add(1);
        let size = 16 + body.len() as u32;
        let header =
            [&self.next_id.to_le_bytes()[..], &command.to_le_bytes(), &size.to_le_bytes(), &flags.to_le_bytes()];
        [&header.concat()[..], &[0; 4], body].concat()
    }

    pub fn send(&mut self, command: u16, flags: u32, body: &[u8], files: &[BorrowedFd<'_>]) {
        let message = self.message(command, flags, body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)));
        }
        let parts = [std::io::IoSlice::new(&message)];
        assert_eq!(sendmsg(&self.stream, &parts, &mut ancillary, SendFlags::NOSIGNAL).expect("send"), message.len());
    }

    /// The next reply: the command that it is to, and its body.
    pub fn reply(&mut self) -> (u16, Result<Vec<u8>, Refused>) {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).expect("a reply");
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(word(8) & 0xf, 1, "it is a reply");
        let mut body = vec![0; word(4) as usize - 16];
        self.stream.read_exact(&mut body).expect("the rest");
        let command = u16::from_le_bytes([header[2], header[3]]);
        (command, if word(8) & 0x20 == 0 { Ok(body) } else { Err(Refused(word(12))) })
    }

    pub fn ask(&mut self, command: u16, body: &[u8], files: &[BorrowedFd<'_>]) -> Result<Vec<u8>, Refused> {
        self.send(command, 0, body, files);
        let (to, reply) = self.reply();
        assert_eq!(to, command);
        reply
    }

    /// Bytes as they are, in pieces.
    pub fn send_raw(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.stream.write_all(piece).expect("send");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn map(&mut self, file: Option<&File>, offset: u64, address: u64, size: u64) -> Result<(), Refused> {
        let body = [&32u32.to_le_bytes()[..], &3u32.to_le_bytes(), &words(&[offset, address, size])].concat();
        let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        self.ask(DMA_MAP, &body, &files).map(drop)
    }

    pub fn unmap(&mut self, address: u64, size: u64) -> Result<(), Refused> {
        let body = [&24u32.to_le_bytes()[..], &0u32.to_le_bytes(), &words(&[address, size])].concat();
        self.ask(DMA_UNMAP, &body, &[]).map(drop)
    }

    pub fn read(&mut self, region: u32, offset: u64, len: u32) -> Result<Vec<u8>, Refused> {
        let reply = self.ask(REGION_READ, &access(region, offset, len), &[])?;
        assert_eq!(reply[..16], access(region, offset, len));
        Ok(reply[16..].to_vec())
    }

    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let body = [&access(region, offset, data.len() as u32)[..], data].concat();
        self.ask(REGION_WRITE, &body, &[]).map(drop)
    }

    pub fn set_irqs(
        &mut self,
        flags: u32,
        index: u32,
        count: u32,
        event: Option<BorrowedFd<'_>>,
    ) -> Result<(), Refused> {
        let body: Vec<u8> = [20, flags, index, 0, count].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        self.ask(SET_IRQS, &body, event.as_slice()).map(drop)
    }
}

pub fn access(region: u32, offset: u64, count: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..12].copy_from_slice(&region.to_le_bytes());
    bytes[12..].copy_from_slice(&count.to_le_bytes());
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
