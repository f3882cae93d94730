// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Eventfds: our own, and those of frontends, which may be something else.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSliceMut};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, ReadWriteFlags};

use crate::ratelimit::RateLimit;

/// Creates an eventfd.
///
/// # Errors
/// Those of `eventfd`.
pub fn new() -> io::Result<File> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into())
}

/// Whether the file can be read or written now.
pub fn is_ready(file: &File, flags: PollFlags) -> bool {
    poll(&mut [PollFd::new(file, flags)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Empties an eventfd without waiting. Returns false for a file that is not an eventfd and would stay readable.
pub fn drain(event: &File) -> bool {
    let mut count = [0; 8];
    // The frontend can change O_NONBLOCK, so RWF_NOWAIT is needed too. An offset of -1 means none.
    let read = rustix::io::preadv2(event, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT);
    let read = match read {
        // Before Linux 5.8.
        Err(Errno::OPNOTSUPP) if is_ready(event, PollFlags::IN) => rustix::io::read(event, &mut count),
        read => read,
    };
    // Nothing to read is fine: another reader, or a spurious wake-up.
    matches!(read, Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP))
}

/// Adds 1 to an eventfd.
pub fn signal(event: &File) {
    match rustix::io::write(event, &1u64.to_ne_bytes()) {
        Ok(_) => {}
        // The counter is at its maximum, so the eventfd is readable anyway.
        Err(Errno::AGAIN) => {}
        Err(error) => {
            static LIMIT: RateLimit = RateLimit::new();
            if let Some(suppressed) = LIMIT.allow() {
                let error = io::Error::from(error);
                log::warn!("cannot signal an eventfd: {error} ({suppressed} such lines suppressed)");
            }
        }
    }
}
