// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Frontends that connect, stop queues and vanish: no head is lost, nothing is served afterwards, no key stays.

mod common;

use common::*;
use std::time::{Duration, Instant};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// GET_VRING_BASE under load: all heads before the returned index are completed, the rest is untouched.
#[test]
fn stopping_a_queue_drains_it() {
    for delay in 0..20 {
        let mut guest = Guest::new();
        let data = pattern(1, 64 << 10);
        let mut pending = Vec::new();
        for n in 0..20u64 {
            pending.push(guest.rings[0].add(&write_request(n * 128, &data), 1));
        }
        guest.rings[0].kick();
        std::thread::sleep(Duration::from_micros(delay * 200));
        let base = guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
        let used = guest.rings[0].used_index();
        assert_eq!(base, u32::from(used), "taken, but not returned when the frontend got the reply");
        guest.rings[0].assert_silent_from(used);
        for n in 0..20u64 {
            let done = n < u64::from(used);
            assert_eq!(guest.image_bytes(n * 128 * 512, data.len()) == data, done, "request {n} of {used}");
        }
        // The queue continues where it stopped.
        let ring = &mut guest.rings[0];
        let (next_avail, next_used) = (ring.next_avail, ring.next_used);
        guest.rings[0].next_avail = base as u16;
        guest.start_ring(0);
        guest.rings[0].next_avail = next_avail;
        guest.rings[0].next_used = next_used;
        guest.rings[0].kick();
        for buffers in pending {
            let (head, used) = guest.rings[0].wait();
            assert_eq!((head, used), (buffers.head, 1));
        }
    }
}

#[test]
fn a_disabled_queue_waits() {
    let mut guest = Guest::new();
    guest.frontend().set_vring_enable(0, false).expect("SET_VRING_ENABLE");
    guest.frontend().get_features().expect("GET_FEATURES");
    let buffers = guest.rings[0].add(&write_request(0, &[1; 512]), 1);
    guest.rings[0].assert_silent();
    let running = |guest: &Guest| guest.device.stats().queues.iter().any(|queue| queue.queue == 0 && queue.running);
    assert!(!running(&guest));
    // Enabling is enough, because a notification may have been lost before.
    guest.frontend().set_vring_enable(0, true).expect("SET_VRING_ENABLE");
    assert_eq!(guest.rings[0].wait(), (buffers.head, 1));
    assert!(running(&guest));
}

/// A frontend dies: requests that were taken complete, the keys are lost, and the next frontend finds a fresh device.
#[test]
fn disconnect_drains_and_the_next_frontend_is_served() {
    let mut guest = Guest::new();
    let control = guest.control();
    for round in 0..10u64 {
        guest.request(control, &Program::new(0, &key(round), 12).bytes(), 1).assert_only_status(OK);
        let data = pattern(round, 1 << 20);
        let before = guest.rings[0].used_index();
        for n in 0..4 {
            let request = crypto_write(n * 2048, 0, [0; 4], &data);
            guest.rings[0].add(&request, 1);
        }
        guest.rings[0].kick();
        std::thread::sleep(Duration::from_millis(round));
        guest.disconnect();
        // Every request was either executed completely or not begun.
        let expected = openssl_xts(&key(round), 0, 4096, &data);
        let returned = guest.rings[0].used_index().wrapping_sub(before);
        for n in 0..4u64 {
            let whole = guest.image_bytes(n << 20, data.len()) == expected;
            assert_eq!(whole, n < u64::from(returned), "request {n}, {returned} returned");
        }
        assert_eq!(guest.stat("keyslots.lost"), round + 1);
        guest.connect();
        guest.start();
        guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(NOKEY);
    }
}

/// Frontends come and go, and the process does not grow.
#[test]
fn sessions_leak_no_descriptors_or_threads() {
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).expect("proc").count();
    let mut guest = Guest::new();
    guest.disconnect();
    // Other tests of this binary run beside this one, so only a steady growth counts.
    let before = (count("fd"), count("task"));
    for _ in 0..200 {
        guest.connect();
        guest.negotiate();
        guest.disconnect();
    }
    let deadline = Instant::now() + ring::PATIENCE;
    while count("fd") > before.0 + 100 || count("task") > before.1 + 50 {
        assert!(Instant::now() < deadline, "{before:?} -> {:?}", (count("fd"), count("task")));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// QEMU starts and enables a queue first and sets its interrupt eventfd afterwards. The driver must get an interrupt
/// for completions in between.
#[test]
fn an_interrupt_that_is_handed_over_late() {
    let mut guest = Guest::new();
    guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
    let buffers = guest.rings[0].add(&write_request(0, &[1; 512]), 1);
    let base = guest.rings[0].next_avail - 1;
    let frontend = guest.frontend.as_mut().expect("connected");
    let ring = &mut guest.rings[0];
    frontend.set_vring_base(0, base).expect("SET_VRING_BASE");
    frontend.set_vring_kick(0, &ring.kick).expect("SET_VRING_KICK");
    frontend.set_vring_enable(0, true).expect("SET_VRING_ENABLE");
    ring.kick();
    let (head, _) = ring.wait();
    assert_eq!(head, buffers.head);
    // On each eventfd that the frontend hands over.
    let other = EventFd::new(EFD_NONBLOCK).expect("eventfd");
    for call in [&other, &ring.call] {
        frontend.set_vring_call(0, call).expect("SET_VRING_CALL");
        let deadline = Instant::now() + ring::PATIENCE;
        while call.read().is_err() {
            assert!(Instant::now() < deadline, "the driver would wait for ever");
            std::thread::yield_now();
        }
    }
}

/// The device stops on request. It closes the connection only after it has returned all heads; otherwise the frontend
/// would give the same requests to the next backend.
#[test]
fn stopping_drains_before_the_frontend_sees_the_end() {
    use std::io::Read;
    for round in 0..10u64 {
        let mut guest = Guest::new();
        let data = pattern(round, 1 << 20);
        for n in 0..7 {
            guest.rings[0].add(&write_request(n * 2048, &data), 1);
        }
        guest.rings[0].kick();
        std::thread::sleep(Duration::from_micros(round * 300));
        let mut connection = guest.connection.take().expect("connected");
        guest.stop.request();
        assert_eq!(connection.read(&mut [0; 16]).unwrap_or(0), 0, "the end of the connection");
        let used = guest.rings[0].used_index();
        for n in 0..7u64 {
            let done = guest.image_bytes(n << 20, data.len()) == data;
            assert_eq!(done, n < u64::from(used), "request {n}, {used} returned at the end of the connection");
        }
        guest.rings[0].assert_silent_from(used);
    }
}

/// The memory table changes under load: no request is lost, and none fails.
#[test]
fn memory_changes_under_load() {
    let mut guest = Guest::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut ring = guest.rings.remove(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round += 1;
                ring.request(&write_request(round % 64 * 8, &[1; 4096]), 1).assert_only_status(OK);
            }
        });
        for _ in 0..300 {
            guest.set_memory();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Senseless messages end the session or are refused. The device survives.
#[test]
fn nonsense_messages() {
    let mut guest = Guest::new();
    let _ = guest.frontend().set_features(u64::MAX);
    guest.disconnect();
    for action in [
        |guest: &mut Guest| drop(guest.frontend().set_vring_num(0, 0)),
        |guest: &mut Guest| drop(guest.frontend().set_vring_num(0, 3)),
        |guest: &mut Guest| drop(guest.frontend().set_vring_num(0, 512)),
        |guest: &mut Guest| {
            let config = vhost::VringConfigData {
                queue_max_size: 256,
                queue_size: 64,
                flags: 0,
                desc_table_addr: 0x1234_5000,
                used_ring_addr: 0x2000,
                avail_ring_addr: 0xffff_ffff_ffff_f000,
                log_addr: None,
            };
            drop(guest.frontend().set_vring_addr(0, &config));
        },
    ] {
        guest.connect();
        guest.negotiate();
        action(&mut guest);
        guest.disconnect();
    }
    guest.connect();
    guest.start();
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
}

/// Several queues at once, each with its own key and place, while keys change: all data is right.
#[test]
fn queues_run_in_parallel() {
    let mut options = Options::default();
    options.config.num_queues = 4;
    options.workers.workers = 4;
    options.queues = 4;
    let mut guest = Guest::with(options);
    let control = guest.control();
    for slot in 0..4 {
        guest.request(control, &Program::new(slot, &key(slot.into()), 12).bytes(), 1).assert_only_status(OK);
    }
    let mut rings = std::mem::take(&mut guest.rings);
    let mut control_ring = rings.pop().expect("control queue");
    std::thread::scope(|scope| {
        for (slot, ring) in rings.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut request = |readable: &[u8], writable| ring.request(readable, writable);
                for round in 0..300u64 {
                    let sector = slot as u64 * 4096 + round % 50 * 8;
                    let data = pattern(round, 4096);
                    let dun = [round, 0, 0, 0];
                    request(&crypto_write(sector, slot as u32, dun, &data), 1).assert_only_status(OK);
                    let read = request(&crypto_header(CRYPTO_IN, sector, slot as u32, dun), 4097);
                    assert!(read.data == data && read.status == OK, "slot {slot}, round {round}");
                    let cipher = request(&header(IN, sector), 4097);
                    assert!(cipher.data == openssl_xts(&key(slot as u64), round.into(), 4096, &data));
                }
            });
        }
        // The same keys again and again: every program command waits for the slot's requests, and changes nothing.
        for round in 0..400u32 {
            let slot = round % 4;
            let command = Program::new(slot, &key(slot.into()), 12).bytes();
            control_ring.request(&command, 1).assert_only_status(OK);
        }
    });
    assert_eq!(guest.stat("keyslots.nokey"), 0);
    assert_eq!(guest.stat("keyslots.replace"), 400);
}
