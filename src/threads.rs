// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Threads that use little memory.

use std::io;
use std::thread::Builder;

use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::ratelimit::log_limited;

/// Bytes of a thread's stack. Commands use most: the 64 KiB that are wiped after them. The bound on memory counts the
/// stacks of 16 helper threads in full, because nothing bounds how much of them is touched.
const STACK_BYTES: usize = 256 << 10;

/// A builder for a thread with a name and a small stack.
pub fn named(name: impl Into<String>) -> Builder {
    Builder::new().name(name.into()).stack_size(STACK_BYTES)
}

/// Binds the calling thread to a CPU. A CPU that does not exist is not fatal.
pub fn bind(cpu: usize) {
    let mut set = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        set.set(cpu);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        log_limited!(warn, "cannot bind a worker to CPU {cpu}: {}", io::Error::from(error));
    }
}

/// Lets the calling thread run where the process may. A new thread is bound as the one that started it.
pub fn unbind() {
    let unbound = sched_getaffinity(None).and_then(|of_thread| {
        let of_process = sched_getaffinity(Some(getpid()))?;
        // Only then: a unit's stricter SystemCallFilter, such as `~@resources`, may kill whoever makes the call.
        if of_thread == of_process { Ok(()) } else { sched_setaffinity(None, &of_process) }
    });
    if let Err(error) = unbound {
        log_limited!(warn, "cannot let a helper thread run on all CPUs: {}", io::Error::from(error));
    }
}

/// Signals that a thread's own instructions raise. If they were blocked, they would end the process.
const OF_THE_THREAD: [libc::c_int; 7] =
    [libc::SIGBUS, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// Sets whether this thread, and those that it creates, take signals from outside. One thread is enough for them. In
/// the others, the kernel would save the CPU's registers, which may hold round keys, on the stack for the handler.
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

/// Limits the number of the allocator's arenas; more threads than that share them. Call it before there are other
/// threads.
///
/// Otherwise glibc creates one per thread, up to eight per CPU. Each takes huge pages where glibc uses these by default
/// (glibc 2.43 for Arm, or its tunable `glibc.malloc.hugetlb`). Other allocators ignore this.
pub fn share_arenas(most: usize) {
    #[cfg(target_env = "gnu")]
    {
        let most = most.try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: it only sets a number of the allocator, which may refuse it.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}
