// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The engine: a key, a data unit number, a data unit size and bytes. No sectors, no descriptors, no slots.

mod dun;
mod xts;

pub use dun::Dun;
pub use xts::{KEY_BYTES, XtsKey};
