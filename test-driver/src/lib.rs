// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a driver of virtio-blk with inline encryption does, for tests, fuzz targets and benches.
//!
//! It depends on nothing of the device's: layouts and numbers are written down from the text of the protocol, and the
//! reference for encrypted data is OpenSSL. A mistake in the device is therefore not repeated here.

pub mod data;
mod virtqueue;
pub mod wire;

pub use virtqueue::{Descriptor, GuestMemory, INDIRECT, NEXT, Piece, Virtqueue, WRITE};
