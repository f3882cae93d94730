// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The disk image: offsets and bytes, which may be ciphertext or not. No keys, no DUNs, no virtio.

mod bounce;
mod image;
mod open;

pub use bounce::Bounce;
pub use image::{Image, ZeroMode};
pub use open::{OpenError, OpenOptions};

#[cfg(test)]
mod tests;
