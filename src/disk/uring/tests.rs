// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::cell::Cell;
use std::os::unix::fs::FileExt;

use super::*;
use crate::disk::OpenOptions;

fn ring(pool: &mut Pool) -> Option<(std::fs::File, Uring)> {
    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(1 << 20).expect("size");
    let options = OpenOptions { read_only: false, discard: false, direct: false, logical_block_size: 512 };
    let image = options.open(file.path()).expect("image");
    // Where io_uring is forbidden, there is nothing to test.
    probe().ok()?;
    Some((file.into_file(), Uring::new(&image, pool).expect("ring")))
}

/// Writes by a ring with this submit function, and compares. Nobody wakes the owner of the ring: it returns only when
/// the descriptor is readable.
fn writes_all(enter: fn(&IoUring) -> io::Result<usize>) {
    let mut pool = Pool::new();
    let Some((file, mut ring)) = ring(&mut pool) else { return };
    ring.enter = enter;
    for round in 1..4u8 {
        for token in 0..40usize {
            let mut buffer = pool.get(4096).expect("buffer");
            buffer.bytes_mut()[..4096].fill(token as u8 ^ round);
            let transfer = Transfer { direction: IoDirection::Write, offset: token as u64 * 4096, len: 4096 };
            assert!(ring.queue(token, transfer, buffer).is_none());
        }
        ring.submit();
        let mut completions = Vec::new();
        while completions.len() < 40 {
            let event = &mut [rustix::event::PollFd::new(&ring, rustix::event::PollFlags::IN)];
            let wait = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(event, Some(&wait)), Ok(1), "{} of 40 are answered", completions.len());
            ring.poll_completions(&mut completions);
        }
        let mut bytes = [0; 4096];
        for (token, completion) in completions.drain(..) {
            completion.result.expect("written");
            pool.put(completion.buffer.expect("buffer"));
            file.read_exact_at(&mut bytes, token as u64 * 4096).expect("read");
            assert_eq!(bytes, [token as u8 ^ round; 4096]);
        }
    }
}

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn what_the_kernel_has_not_taken_is_submitted_again() {
    // SAFETY: the arguments are two numbers, and no signals.
    writes_all(|ring| unsafe { ring.submitter().enter::<libc::sigset_t>(1, 0, 0, None) });
    for error in [libc::EAGAIN, libc::EBUSY, libc::EINTR] {
        CALLS.set(error.unsigned_abs() << 16);
        writes_all(|ring| {
            let calls = CALLS.get();
            CALLS.set(calls + 1);
            match calls & 7 {
                // SAFETY: as above.
                6 => unsafe { ring.submitter().enter::<libc::sigset_t>(3, 0, 0, None) },
                7 => ring.submit(),
                _ => Err(io::Error::from_raw_os_error((calls >> 16) as i32)),
            }
        });
    }
}

#[test]
fn a_kernel_that_takes_nothing_any_more_is_an_error() {
    let mut pool = Pool::new();
    let Some((_file, mut ring)) = ring(&mut pool) else { return };
    ring.enter = |_| Err(io::Error::from_raw_os_error(libc::EPERM));
    let transfer = Transfer { direction: IoDirection::Read, offset: 0, len: 512 };
    for token in 0..3 {
        assert!(ring.queue(token, transfer, pool.get(512).expect("buffer")).is_none());
    }
    ring.submit();
    let mut completions = Vec::new();
    ring.poll_completions(&mut completions);
    assert_eq!(completions.len(), 3);
    assert!(completions.iter().all(|(_, completion)| completion.result.is_err()));
    let completion = ring.queue(3, transfer, pool.get(512).expect("buffer")).expect("an answer");
    assert!(completion.result.is_err());
}

#[test]
fn a_ring_can_only_read_and_write_the_image() {
    let mut pool = Pool::new();
    let Some((_file, mut ring)) = ring(&mut pool) else { return };
    let mut bytes = [0u8; 512];
    let (at, len) = (bytes.as_mut_ptr(), 512);
    let other = types::Fd(std::io::stdin().as_raw_fd());
    let path = c"/etc/passwd";
    let refused = [
        opcode::Nop::new().build(),
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
        opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build(),
        opcode::Fsync::new(IMAGE).build(),
        opcode::ReadFixed::new(other, at, len, 0).build(),
        opcode::Read::new(other, at, len).build(),
        opcode::WriteFixed::new(IMAGE, at, len, 0).build().flags(squeue::Flags::IO_LINK),
    ];
    for (number, entry) in refused.into_iter().enumerate() {
        // SAFETY: what the entries name lives until they are answered, which is before the next one.
        unsafe { ring.ring.submission().push(&entry.user_data(77)) }.expect("room");
        ring.ring.submit_and_wait(1).expect("submitted");
        let completion = ring.completion().expect("an answer");
        assert_eq!(completion.result(), -libc::EACCES, "{number}");
    }
    assert!(ring.ring.submitter().register_files(&[0]).is_err());
    assert!(ring.ring.submitter().register_eventfd(0).is_err());
}
