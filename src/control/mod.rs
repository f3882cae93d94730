// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket: one JSON object per line and direction, described in `docs/control.md`.
//!
//! One thread serves all clients. It talks to the device through [`Controlled`] and never takes a lock that the data path
//! takes (but that of the faults, if there are any); what clients may cost is bounded: their number, the length of a line, one reply each in memory, and the time
//! that a client may leave a reply unread.

#![forbid(unsafe_code)]

mod client;
mod command;
mod server;

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::faults::FaultStatus;
use crate::observe::Stats;
use crate::observe::trace::TraceStatus;

pub use command::{COMMANDS, Error};
pub use server::{Listener, Server};

/// Version of the protocol: raised when something that clients may rely on changes or goes.
pub const VERSION: u32 = 1;
/// The most bytes of a request, its line feed included.
pub const MAX_LINE: usize = 64 << 10;
/// The most clients at the same time; others are turned away.
pub const MAX_CLIENTS: usize = 8;

/// What the control socket needs of a device.
pub trait Controlled: Send + Sync + 'static {
    /// What the device is and how it stands.
    fn status(&self) -> Status;
    /// All numbers.
    fn stats(&self) -> Stats;
    /// The keyslots, in order.
    fn keyslots(&self) -> Vec<Keyslot>;
    /// Records latencies, or stops to.
    fn set_latency(&self, on: bool);
    /// Loses all keys, as an engine that was reset. Returns how many there were, when no request uses them any more.
    fn reset_engine(&self) -> usize;
    /// Takes over the size that the image has now, or enlarges it to `bytes` before.
    ///
    /// # Errors
    /// Why the disk keeps its size.
    fn resize(&self, bytes: Option<u64>) -> Result<Resized, String>;
    /// Adds a fault, see `docs/faults.md`. Returns its number.
    ///
    /// # Errors
    /// What is wrong with the description.
    fn add_fault(&self, spec: &str) -> Result<u64, String>;
    /// The faults that there are.
    fn faults(&self) -> Vec<FaultStatus>;
    /// Removes a fault, or all. Returns how many.
    ///
    /// # Errors
    /// When there is none of this number.
    fn clear_faults(&self, id: Option<u64>) -> Result<usize, String>;
    /// Starts a trace into a file, ending the one before.
    ///
    /// # Errors
    /// When the file cannot be had.
    fn start_trace(&self, file: &Path) -> io::Result<()>;
    /// Ends the trace, with all that belongs to it in its file. Returns what it was, if there was one.
    fn stop_trace(&self) -> Option<TraceStatus>;
    /// Has all that was recorded so far written to the file of the trace, if there is one.
    fn sync_trace(&self) -> Option<TraceStatus>;
}

/// Answer to `status`: the device's part.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The engine.
    pub engine: Engine,
    /// The image.
    pub image: Image,
    /// A frontend is connected.
    pub connected: bool,
    /// Features that the driver has negotiated.
    pub features: Features,
    /// Latencies are recorded.
    pub latency: bool,
    /// The trace that is being written.
    pub trace: Option<TraceStatus>,
    /// All queues that run.
    pub queues: Vec<Queue>,
}

/// What the engine offers.
#[derive(Debug, Clone, Serialize)]
pub struct Engine {
    /// What encrypts and decrypts, as `--crypto-engine` names it.
    pub crypto_engine: &'static str,
    /// Crypto modes.
    pub modes: Vec<&'static str>,
    /// Number of keyslots.
    pub keyslots: u16,
    /// Slots that hold a key.
    pub keyslots_in_use: usize,
    /// `raw`, `wrapped`.
    pub key_types: Vec<&'static str>,
    /// Bytes.
    pub data_unit_sizes: Vec<u32>,
    /// The most bytes a DUN may have.
    pub max_dun_bytes: u8,
}

/// The image.
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// Its size.
    pub bytes: u64,
    /// There is no file: it is lost when the device ends.
    pub in_memory: bool,
    /// How data that is not moved in place gets there, as `--aio` names it.
    pub aio: &'static str,
    /// Writes are refused.
    pub read_only: bool,
    /// Space can be given back.
    pub discard: bool,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// Completed writes may be in the cache until a flush.
    pub writeback: bool,
}

/// Feature bits.
#[derive(Debug, Clone, Serialize)]
pub struct Features {
    /// As a number in hexadecimal.
    pub bits: String,
    /// Names of those that are known.
    pub names: Vec<&'static str>,
}

/// A queue that is started and enabled.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    /// Its number.
    pub queue: usize,
    /// `request` or `control`.
    pub role: &'static str,
}

/// Answer to `resize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resized {
    /// The size now.
    pub bytes: u64,
    /// The size before.
    pub before: u64,
    /// Whether the frontend knows.
    pub frontend: FrontendKnows,
    /// Why it was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether the frontend knows of a new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendKnows {
    /// It was told, and tells the guest.
    Told,
    /// It is connected, and could not be told.
    NotTold,
    /// There is none.
    NotConnected,
    /// There was nothing to tell: the size is the same.
    Unchanged,
}

/// What is known of a keyslot. Never a key.
#[derive(Debug, Clone, Serialize)]
pub struct Keyslot {
    /// Its number.
    pub slot: usize,
    /// What it holds now; nothing when it is empty.
    #[serde(flatten)]
    pub key: Option<KeyInfo>,
    /// Successful program commands.
    pub programs: u64,
    /// Evict commands that found a key.
    pub evictions: u64,
    /// Encrypted requests that found a key here.
    pub hits: u64,
}

/// What a key was programmed for.
#[derive(Debug, Clone, Serialize)]
pub struct KeyInfo {
    /// Which programming it is; rises with every program command of the device.
    pub generation: u64,
    /// Crypto mode.
    pub mode: &'static str,
    /// Bytes of a data unit.
    pub data_unit_size: u32,
    /// Bytes a DUN may have.
    pub dun_bytes: u8,
}
