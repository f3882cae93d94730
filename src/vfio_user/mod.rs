// SPDX-License-Identifier: Apache-2.0 OR MIT

//! vfio-user: a PCI device in this process, attached to a virtual machine by a Unix socket (QEMU's `vfio-user-pci`).
//!
//! It serves messages, guest memory and the interrupt line. It gives the device one [`Access`] to registers after the other, in
//! the client's order, and the device answers each. Nothing here waits or has a thread.

mod client;
mod connection;
mod info;
mod interrupt;
mod listener;
mod memory;
pub mod protocol;

pub use client::{Access, Client, Next};
pub use connection::{Connection, MOST_BYTES, MOST_FILES, Received};
pub use info::Regions;
pub use interrupt::Line;
pub use listener::Listener;
pub use memory::{DmaMemory, MOST_RANGES};
