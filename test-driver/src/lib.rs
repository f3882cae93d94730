// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The driver's side of virtio-blk with inline encryption, for tests, fuzz targets and benches.
//!
//! It uses nothing of the device: layouts and numbers come from the text of the protocol, and OpenSSL is the reference
//! for encrypted data. So it does not repeat a mistake in the device.

pub mod data;
mod virtqueue;
pub mod wire;

pub use virtqueue::{Descriptor, GuestMemory, INDIRECT, NEXT, Piece, Virtqueue, WRITE};
