// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The frontend's eventfds may be full, blocking, read by another process, or no eventfds. The device never waits for
//! them.

mod common;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use common::process::{Files, Running, talk};
use common::*;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vhost::VhostBackend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A device that hangs must not hang the test.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if wait.recv_timeout(ring::PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the device hangs");
    }
    thread.join().expect("no panic");
}

/// An eventfd's maximum. The next write would block.
const FULL: u64 = u64::MAX - 1;

fn flags(event: &EventFd) -> OFlags {
    fcntl_getfl(borrow(event)).expect("flags")
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd lives as long as the result.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

fn set_nonblocking(event: &EventFd, on: bool) {
    let flags = flags(event);
    fcntl_setfl(borrow(event), if on { flags | OFlags::NONBLOCK } else { flags - OFlags::NONBLOCK }).expect("flags");
}

#[test]
fn full_eventfds_hold_up_nobody() {
    in_time(|| {
        let mut guest = Guest::new();
        let full = EventFd::new(0).expect("eventfd");
        full.write(FULL).expect("room");
        guest.frontend().set_vring_call(0, &full).expect("SET_VRING_CALL");
        guest.frontend().set_vring_err(0, &full).expect("SET_VRING_ERR");
        for sector in 0..50 {
            guest.request(0, &write_request(sector, &[1; 512]), 1).assert_only_status(OK);
        }
        guest.frontend().get_features().expect("GET_FEATURES");
        // A broken queue signals the error eventfd.
        let next = guest.rings[0].next_avail;
        guest.rings[0].set_avail_index(next.wrapping_add(5000));
        guest.rings[0].kick();
        while guest.stat("events.broken_queue") == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
        guest.disconnect();
        // The frontend's file status flags have not changed.
        assert!(!flags(&full).contains(OFlags::NONBLOCK));
    });
}

/// The eventfd was non-blocking and empty when the device got it.
#[test]
fn an_eventfd_that_turns_against_us() {
    in_time(|| {
        let mut guest = Guest::new();
        for round in 0..3 {
            let call = EventFd::new(EFD_NONBLOCK).expect("eventfd");
            guest.frontend().set_vring_call(0, &call).expect("SET_VRING_CALL");
            // The device must find it among others.
            let other = EventFd::new(EFD_NONBLOCK).expect("eventfd");
            guest.frontend().set_vring_call(1, &other).expect("SET_VRING_CALL");
            guest.frontend().get_features().expect("GET_FEATURES");
            // The driver may be waiting for the interrupt that it gets now.
            while call.read().is_err() {}
            call.write(FULL).expect("room");
            set_nonblocking(&call, false);
            guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
            std::thread::sleep(Duration::from_millis(20));
            guest.frontend().get_features().expect("GET_FEATURES");
            if round == 2 {
                return guest.disconnect();
            }
            let base = guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
            assert_eq!(base, u32::from(guest.rings[0].next_avail));
            guest.start_ring(0);
        }
    });
}

/// A worker hangs at an eventfd while a long request has a key, and then a queue begins afresh: the keys are another driver's, and nobody
/// can wipe them before the request ends.
fn hang_with_a_key(by_command: bool) {
    in_time(move || {
        let mut options = Options { image_bytes: 64 << 20, ..Options::default() };
        options.workers.workers = 1;
        let mut guest = Guest::with(options);
        let control = guest.control();
        guest.request(control, &Program::new(0, &key(1), 9).bytes(), 1).assert_only_status(OK);
        guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
        for queue in 0..=control {
            guest.frontend().get_vring_base(queue).expect("GET_VRING_BASE");
        }
        // It goes on where it was, so the keys are still the driver's.
        guest.start_ring(0);
        let call = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        guest.frontend().set_vring_call(0, &call).expect("SET_VRING_CALL");
        guest.frontend().get_features().expect("GET_FEATURES");
        call.write(FULL).or_else(|_| call.read().and_then(|_| call.write(FULL))).expect("room");
        set_nonblocking(&call, false);
        guest.rings[0].use_buffers(MEMORY_START + (64 << 20)..MEMORY_START + MEMORY_BYTES);
        guest.rings[0].add(&crypto_header(CRYPTO_IN, 0, 0, [0; 4]), (48 << 20) + 1);
        guest.rings[0].add(&header(IN, 0), 513);
        guest.rings[0].kick();
        std::thread::sleep(Duration::from_millis(20));
        if by_command {
            // `ctl reset-engine`
            assert_eq!(guest.device.reset_engine(), 1);
        } else {
            guest.rings[1].next_avail = 5;
            guest.start_ring(1);
            guest.frontend().get_features().expect("GET_FEATURES");
        }
        assert_eq!(guest.stat("keyslots.lost"), 1);
        guest.disconnect();
    });
}

#[test]
fn an_eventfd_that_keeps_a_key() {
    hang_with_a_key(false);
    hang_with_a_key(true);
}

/// Another process reads the eventfd, so that a read would block.
#[test]
fn a_notification_that_is_gone_before_it_is_read() {
    in_time(|| {
        let mut guest = Guest::new();
        let kick = guest.rings[0].kick.try_clone().expect("eventfd");
        let thief = kick.try_clone().expect("eventfd");
        let over = std::time::Instant::now() + Duration::from_millis(300);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while std::time::Instant::now() < over {
                    set_nonblocking(&thief, true);
                    let _ = thief.read();
                    set_nonblocking(&thief, false);
                }
            });
            while std::time::Instant::now() < over {
                kick.write(1).expect("kick");
            }
        });
        guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
    });
}

/// A descriptor that is no eventfd can block, or be readable for ever.
#[test]
fn what_is_no_eventfd_is_refused() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let (pipe, _other) = std::io::pipe().expect("pipe");
    let pipe = OwnedFd::from(pipe);
    let (socket, _peer) = UnixStream::pair().expect("socket");
    for fd in [pipe, OwnedFd::from(socket), File::open(files.image()).expect("file").into()] {
        for set in [VhostBackend::set_vring_call, VhostBackend::set_vring_err, VhostBackend::set_vring_kick] {
            let frontend = talk(files.connect());
            // SAFETY: this clone owns the descriptor and is not used otherwise.
            let event = unsafe { eventfd_of(fd.try_clone().expect("descriptor")) };
            set(&frontend, 0, &event).expect("sent");
            assert!(frontend.get_features().is_err(), "the session has ended");
        }
    }
    // The device serves this frontend, because the previous session has ended.
    drop(talk(files.connect()));
    let (code, text) = running.terminate();
    assert_eq!((code, text.matches("is not an eventfd").count()), (Some(0), 9), "{text}");
}

/// # Safety
/// The descriptor must allow all that an eventfd allows.
unsafe fn eventfd_of(fd: OwnedFd) -> EventFd {
    // SAFETY: the caller guarantees it.
    unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
}

/// A descriptor that looks like an eventfd and cannot be written: each interrupt fails, the log stays short.
#[test]
fn failed_interrupts_do_not_flood_the_log() {
    let files = Files::new();
    let running = Running::start(&files, &["--num-queues", "2"]);
    let mut guest = files.guest();
    let timer =
        rustix::time::timerfd_create(rustix::time::TimerfdClockId::Monotonic, rustix::time::TimerfdFlags::NONBLOCK)
            .expect("timer");
    // SAFETY: writing to it fails, which is the point.
    let timer = unsafe { eventfd_of(timer) };
    guest.frontend().set_vring_call(0, &timer).expect("SET_VRING_CALL");
    for _ in 0..200 {
        guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    }
    drop(guest);
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    let lines = text.matches("cannot signal").count();
    assert!((1..=12).contains(&lines), "{lines} lines: {text}");
}
