// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kernels for x86-64.
//!
//! All of them work the same way: on groups of blocks, with the tweaks in registers and every AES round over the whole
//! group, so that the AES units never wait for a result. Each group loads the round keys again, through a pointer that
//! is opaque to the compiler ([`opaque`]). Otherwise it would keep all 15 in registers, and spill some of them to the
//! stack, where nobody wipes them.

pub(super) mod aesni;
mod expand;
pub(super) mod vaes256;
pub(super) mod vaes512;

/// See [`store_fence`](crate::store_fence).
#[inline]
pub(super) fn store_fence() {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

/// The same pointer, which the compiler must take for another one: it cannot reuse what was loaded through it before.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is accessed through it")]
fn opaque<T>(mut to: *const T) -> *const T {
    // SAFETY: there is no instruction.
    unsafe { std::arch::asm!("/* {} */", inout(reg) to, options(nomem, nostack, preserves_flags)) };
    to
}
