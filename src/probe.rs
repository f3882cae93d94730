// SPDX-License-Identifier: Apache-2.0 OR MIT

//! System calls that are optional for us. A seccomp filter around this process may refuse them, or kill the process for
//! them, as systemd's `SystemCallFilter=` does.

use std::io::{Read, pipe};
use std::os::fd::AsRawFd;

/// Whether a seccomp filter is active.
pub fn is_filtered() -> bool {
    // SAFETY: it only returns a number.
    (unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }) == libc::SECCOMP_MODE_FILTER as libc::c_int
}

/// Whether a system call is allowed. `call` makes it, does nothing else, and returns whether it worked. Under a filter,
/// a child process makes the call, because the filter may kill the process. Call this before our own sandbox starts,
/// which allows no processes.
pub fn is_allowed(call: impl FnOnce() -> bool) -> bool {
    if !is_filtered() {
        return call();
    }
    // The exit status is no use: it is lost when SIGCHLD is ignored, which is inherited.
    let Ok((mut answer, child_end)) = pipe() else { return false };
    // SAFETY: the child makes two system calls and ends, which is allowed even if there are other threads.
    match unsafe { libc::fork() } {
        -1 => false,
        0 => {
            let byte = [u8::from(call())];
            // SAFETY: the descriptor is open and the byte valid. The child ends without running any other code of this
            // program.
            unsafe {
                libc::write(child_end.as_raw_fd(), byte.as_ptr().cast(), 1);
                libc::_exit(0)
            }
        }
        child => {
            drop(child_end);
            let mut byte = [0];
            let allowed = answer.read_exact(&mut byte).is_ok() && byte == [1];
            // SAFETY: the child is ours, and no status is written.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            allowed
        }
    }
}
