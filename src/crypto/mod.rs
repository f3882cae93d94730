// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The engine: a key, a data unit number, a data unit size and bytes. No sectors, no descriptors, no slots.
//!
//! | module | what | unsafe |
//! |---|---|---|
//! | [`engine`] | the implementations and which of them this CPU has | |
//! | [`xts`] | the key, and the calls that the device makes | |
//! | `pieces` | from scattered memory to scattered memory, as runs of blocks that are contiguous on both sides | |
//! | `tweak` | the tweaks of the data units of a request, some at a time | |
//! | `native` | a schedule and its kernel: checks lengths and calls | the calls |
//! | `x86`, `arm` | one kernel per instruction set | intrinsics, loads and stores |
//! | `portable` | the same with the `aes` crate | |

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod arm;
mod dun;
pub mod engine;
mod native;
mod pieces;
mod portable;
mod tweak;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;
pub mod xts;

pub use dun::Dun;
pub use engine::Engine;
pub use xts::{KEY_BYTES, XtsKey};

/// Lets other CPUs see what [`XtsKey::encrypt_past_caches`] has stored before they see anything that is stored after this.
#[inline]
pub fn settle() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86::settle();
}

#[cfg(test)]
mod tests;
