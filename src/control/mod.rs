// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket: one JSON object per line in each direction, described in `docs/control.md`.
//!
//! One thread serves all clients. It calls methods of [`Device`](crate::device::Device) and takes none of the data
//! path's locks, except that of the faults, if there are any. The cost of clients is bounded: their number, the length
//! of a line, one reply each in memory, and the time that a client may leave a reply unread.

#![forbid(unsafe_code)]

mod client;
mod command;
mod server;

pub use command::{COMMANDS, Error};
pub use server::{ControlServer, Listener};

/// Version of the protocol, raised by each incompatible change.
pub const VERSION: u32 = 1;
/// The maximum length of a request in bytes, its line feed included.
pub const MAX_LINE: usize = 64 << 10;
/// The maximum number of clients at the same time; others are refused.
pub const MAX_CLIENTS: usize = 8;
