// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A UFSHCI 3.1 host controller with inline encryption and a UFS device behind it, as a PCI function.
//!
//! It is a second front of the engine, beside [`device`](crate::device) with its virtqueues: registers and descriptors become
//! the same [`Request`](crate::request::Request)s. A driver programs keys by writing registers, and names a keyslot and a data unit number in
//! the descriptor of a transfer request.
//!
//! doorbell -> **descriptor, UPIU, SCSI command** (`transfer`, `scsi`) -> [`engine`](crate::engine) -> OCS, response UPIU ->
//! interrupt
#![forbid(unsafe_code)]

mod abort;
mod attention;
mod controller;
mod crypto;
mod lu;
mod pci;
pub mod protocol;
mod query;
mod registers;
mod scsi;
mod serve;
mod session;
mod stretch;
mod transfer;
mod uic;

pub use controller::{Action, Controller, MOST_TRANSFERS};
pub use crypto::{CryptoRegisters, DUN_BYTES, MOST_SLOTS};
pub use lu::MOST_LUNS;
pub use pci::CONFIG_BYTES;
pub use serve::Server;
pub use stretch::PATIENCE;
