// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One client: lines in, replies out, both bounded.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde_json::Value;

use super::{Error, MAX_LINE, command};

/// How long a client may leave a reply unread.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that has sent nothing keeps its place when others want it.
const SILENCE: Duration = Duration::from_secs(5);
const CHUNK: usize = 4096;

pub struct Client {
    pub stream: UnixStream,
    /// Bytes of an incomplete line.
    line: Vec<u8>,
    /// The rest of a reply being sent. Only then is the next line read.
    reply: VecDeque<u8>,
    /// Since when the client has read nothing of the reply.
    stuck_since: Option<Instant>,
    /// Close the connection after this reply.
    closing: bool,
    since: Instant,
    asked: bool,
}

/// Whether to keep a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientState {
    Open,
    Closed,
}

impl Client {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let since = Instant::now();
        Ok(Self {
            stream,
            line: Vec::new(),
            reply: VecDeque::new(),
            stuck_since: None,
            closing: false,
            since,
            asked: false,
        })
    }

    /// Whether the client yields its place: it has connected and sent nothing for a while.
    pub fn gives_way(&self) -> bool {
        !self.asked && self.since.elapsed() > SILENCE
    }

    /// The events to wait for.
    pub fn events(&self) -> PollFlags {
        if self.reply.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// When to drop the client.
    pub fn deadline(&self) -> Option<Instant> {
        self.stuck_since.map(|since| since + PATIENCE)
    }

    /// Refuses a client.
    pub fn refuse(&mut self, error: Error) {
        self.queue_reply(&command::reply(Err(error), Value::Null));
        self.closing = true;
    }

    /// Reads, answers and writes as far as possible without waiting.
    pub fn serve(&mut self, answer: impl Fn(&[u8]) -> Value) -> ClientState {
        if !self.reply.is_empty() {
            return self.write();
        }
        let mut chunk = [0; CHUNK];
        match (&self.stream).read(&mut chunk) {
            Ok(0) => return ClientState::Closed,
            Ok(count) => self.line.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if is_transient(&error) => return ClientState::Open,
            Err(_) => return ClientState::Closed,
        }
        self.answer_lines(&answer)
    }

    /// Answers the lines received so far, as long as replies can be sent.
    pub fn answer_lines(&mut self, answer: &impl Fn(&[u8]) -> Value) -> ClientState {
        while self.reply.is_empty() && !self.closing {
            let Some(end) = self.line.iter().position(|&byte| byte == b'\n') else {
                if self.line.len() >= MAX_LINE {
                    let message = format!("a line has more than {MAX_LINE} bytes");
                    self.refuse(Error::new("too-long", message));
                    break;
                }
                return ClientState::Open;
            };
            self.asked = true;
            let rest = self.line.split_off(end + 1);
            let line = std::mem::replace(&mut self.line, rest);
            if !line.trim_ascii().is_empty() {
                self.queue_reply(&answer(&line));
                if self.write() == ClientState::Closed {
                    return ClientState::Closed;
                }
            }
        }
        self.write()
    }

    fn queue_reply(&mut self, reply: &Value) {
        self.reply.extend(reply.to_string().into_bytes());
        self.reply.push_back(b'\n');
        self.stuck_since = Some(Instant::now());
    }

    fn write(&mut self) -> ClientState {
        while !self.reply.is_empty() {
            match (&self.stream).write(self.reply.as_slices().0) {
                Ok(0) => return ClientState::Closed,
                Ok(count) => {
                    self.reply.drain(..count);
                    self.stuck_since = Some(Instant::now());
                }
                Err(error) if is_transient(&error) => return ClientState::Open,
                Err(_) => return ClientState::Closed,
            }
        }
        self.stuck_since = None;
        if self.closing { ClientState::Closed } else { ClientState::Open }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
