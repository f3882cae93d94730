// SPDX-License-Identifier: Apache-2.0 OR MIT

//! AES-256-XTS from scattered memory to scattered memory.
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

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod arm;
mod dun;
mod implementation;
mod key;
mod native;
mod pieces;
mod portable;
pub mod prefetch;
mod tweak;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;

pub use dun::Dun;
pub use implementation::{Engine, UnknownEngine};
pub use key::{KEY_BYTES, XtsKey};
pub use prefetch::Soon;

/// Lets other CPUs see what [`XtsKey::encrypt_past_caches`] has stored before they see anything that is stored after this.
#[inline]
pub fn settle() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86::settle();
}

#[cfg(test)]
mod tests;
