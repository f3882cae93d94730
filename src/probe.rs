// SPDX-License-Identifier: Apache-2.0 OR MIT

//! System calls that we can do without, and that a filter around this process may refuse, or kill it for: systemd's
//! `SystemCallFilter=` does.

use std::io::{Read, pipe};
use std::os::fd::AsRawFd;

/// Whether there is a filter around this process.
pub fn is_filtered() -> bool {
    // SAFETY: it asks for a number.
    (unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }) == libc::SECCOMP_MODE_FILTER as libc::c_int
}

/// Whether a system call can be made. `call` makes it and nothing else, and says whether it has worked. Where there is a filter
/// that happens in a child process, which alone is killed for it. To be asked before there is a sandbox of our own: that allows
/// no processes.
pub fn is_allowed(call: impl FnOnce() -> bool) -> bool {
    if !is_filtered() {
        return call();
    }
    // Not the exit status: whoever has SIGCHLD ignored, which is inherited, does not get that.
    let Ok((mut answer, child_end)) = pipe() else { return false };
    // SAFETY: the child makes two system calls and ends, which is all that it may do should there be other threads.
    match unsafe { libc::fork() } {
        -1 => false,
        0 => {
            let byte = [u8::from(call())];
            // SAFETY: the descriptor is open, and the byte there; the child ends without running anything else of this program.
            unsafe {
                libc::write(child_end.as_raw_fd(), byte.as_ptr().cast(), 1);
                libc::_exit(0)
            }
        }
        child => {
            drop(child_end);
            let mut byte = [0];
            let allowed = answer.read_exact(&mut byte).is_ok() && byte == [1];
            // SAFETY: the child is ours; the status is not asked for.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            allowed
        }
    }
}
