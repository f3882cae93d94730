// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket: one JSON object per line and direction, described in `docs/control.md`.
//!
//! One thread serves all clients. It calls methods of [`Device`](crate::device::Device) and never takes a lock that the data path
//! takes (but that of the faults, if there are any); what clients may cost is bounded: their number, the length of a line, one reply each in memory, and the time
//! that a client may leave a reply unread.

#![forbid(unsafe_code)]

mod client;
mod command;
mod server;

pub use command::{COMMANDS, Error};
pub use server::{ControlServer, Listener};

/// Version of the protocol: raised when something that clients may rely on changes or goes.
pub const VERSION: u32 = 1;
/// The most bytes of a request, its line feed included.
pub const MAX_LINE: usize = 64 << 10;
/// The most clients at the same time; others are turned away.
pub const MAX_CLIENTS: usize = 8;
