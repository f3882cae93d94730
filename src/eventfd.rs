// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Eventfds: our own, and those of frontends, which may be something else.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, ReadWriteFlags};

use crate::ratelimit::log_limited;

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

/// Whether this kernel reads eventfds with RWF_NOWAIT: Linux 5.8 and later.
fn reads_without_waiting() -> bool {
    static READS: OnceLock<bool> = OnceLock::new();
    *READS.get_or_init(|| {
        // Of one that is empty and may wait, so that only the flag keeps the read from waiting.
        let empty = eventfd(0, EventfdFlags::CLOEXEC);
        empty.is_ok_and(|empty| matches!(read_now(&empty), Err(Errno::AGAIN)))
    })
}

fn read_now(event: impl AsFd) -> rustix::io::Result<usize> {
    let mut count = [0; 8];
    // The frontend can change O_NONBLOCK, so RWF_NOWAIT is needed too. An offset of -1 means none.
    rustix::io::preadv2(event, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT)
}

/// Empties an eventfd without waiting. Returns false for a file that is not an eventfd and would stay readable.
pub fn drain(event: &File) -> bool {
    match read_now(event) {
        // Nothing to read is fine: another reader, or a spurious wake-up.
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => true,
        // A timerfd, say, which another reader can empty between our check and a read that waits.
        Err(Errno::OPNOTSUPP) if reads_without_waiting() => false,
        Err(Errno::OPNOTSUPP) => !is_ready(event, PollFlags::IN) || rustix::io::read(event, &mut [0; 8]).is_ok(),
        Err(_) => false,
    }
}

/// Adds 1 to an eventfd.
pub fn signal(event: &File) {
    match rustix::io::write(event, &1u64.to_ne_bytes()) {
        Ok(_) => {}
        // The counter is at its maximum, so the eventfd is readable anyway.
        Err(Errno::AGAIN) => {}
        Err(error) => log_limited!(warn, "cannot signal an eventfd: {}", io::Error::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::inotify;

    #[test]
    fn what_waits_when_it_is_read_is_refused() {
        let file = File::from(inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify"));
        assert!(!drain(&file), "it is no eventfd, and a read would wait");
        let event = File::from(eventfd(1, EventfdFlags::CLOEXEC).expect("eventfd"));
        assert!(drain(&event) && !is_ready(&event, PollFlags::IN));
        assert!(drain(&event), "one that is empty");
    }
}
