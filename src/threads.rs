// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Threads, and how little memory each of them takes.

use std::thread::Builder;

/// Bytes of a thread's stack. Commands use most: the 64 KiB that are wiped after them. The stacks of 16 helper threads are in the
/// bound on memory as a whole, because nothing says how much of them is touched.
const STACK_BYTES: usize = 256 << 10;

/// A thread to be, with a name and a small stack.
pub fn named(name: impl Into<String>) -> Builder {
    Builder::new().name(name.into()).stack_size(STACK_BYTES)
}

/// Signals that come of what a thread does itself. Blocked, they would end the process.
const OF_THE_THREAD: [libc::c_int; 7] =
    [libc::SIGBUS, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// Whether this thread, and those that it makes from now on, are interrupted by signals from outside. One thread is enough for those. In
/// the others a handler would have the kernel put the CPU's registers, which may hold round keys, on the thread's stack.
pub fn take_signals(take: bool) {
    // SAFETY: the set is written before it is used; the signals exist.
    unsafe {
        let mut signals = std::mem::MaybeUninit::uninit();
        libc::sigfillset(signals.as_mut_ptr());
        for signal in OF_THE_THREAD {
            libc::sigdelset(signals.as_mut_ptr(), signal);
        }
        let how = if take { libc::SIG_UNBLOCK } else { libc::SIG_BLOCK };
        libc::pthread_sigmask(how, signals.as_ptr(), std::ptr::null_mut());
    }
}

/// Lets the allocator have at most so many arenas, which threads share once there are more of them. To be called before
/// there are threads.
///
/// Otherwise glibc makes one for each thread, up to eight for each CPU; each takes memory by the huge page where it uses these
/// by itself (glibc 2.43 for Arm, or its tunable `glibc.malloc.hugetlb`). Other allocators do not know of this.
pub fn share_arenas(most: usize) {
    #[cfg(target_env = "gnu")]
    {
        let most = most.try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: only a number of the allocator is set. That it may refuse does no harm.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}
