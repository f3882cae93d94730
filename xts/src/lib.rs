// SPDX-License-Identifier: Apache-2.0 OR MIT

#![doc = include_str!("../README.md")]
//!
//! ## Inside
//!
//! | module | what | unsafe |
//! |---|---|---|
//! | `implementation` | the implementations and which of them this CPU has | |
//! | `key` | the key, and the calls that users make | |
//! | `pieces` | from scattered memory to scattered memory, as runs of blocks that are contiguous on both sides | |
//! | `tweak` | the tweaks of the data units of a request, some at a time | |
//! | `native` | a schedule and its kernel: checks lengths and calls | the calls |
//! | `x86`, `arm` | one kernel per instruction set | intrinsics, loads and stores |
//! | `portable` | the same with the `aes` crate | |
//! | `crc32c` | the CRC-32C of the ciphertext: what a kernel has to digest | |
//! | `prefetch` | prefetching into the CPU's caches | one instruction without effect on memory |

// Where `unsafe` is needed it is allowed here, by name.
#![deny(unsafe_code)]

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[allow(unsafe_code)]
mod arm;
mod crc32c;
mod dun;
mod implementation;
mod key;
#[allow(unsafe_code)]
mod native;
mod pieces;
mod portable;
#[allow(unsafe_code)]
mod prefetch;
mod tweak;
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[allow(unsafe_code)]
mod x86;

pub use dun::Dun;
pub use implementation::{Implementation, UnknownImplementation};
pub use key::{KEY_BYTES, XtsKey};
pub use prefetch::Prefetch;

/// Lets other CPUs see the results of [`XtsKey::encrypt_nontemporal`] before anything that is stored after this call.
///
/// Non-temporal stores are not ordered with later ones. Only x86-64 has them here; elsewhere this does nothing.
#[inline]
pub fn store_fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86::store_fence();
}

#[cfg(test)]
mod tests;
