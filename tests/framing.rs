// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests cut into descriptors in every way, and chains that are too short for a request.

mod common;

use common::*;

/// Cuts a request once at every place, on either side, in a chain and in an indirect table.
#[test]
fn chains_cut_at_every_byte() {
    let mut guest = Guest::new();
    let control = guest.control();
    let key = key(1);
    let plain = pattern(1, 512);
    let expected = openssl_xts(&key, 3, 512, &plain);
    let program = Program::new(0, &key, 9).bytes();
    let write = crypto_write(2, 0, [3, 0, 0, 0], &plain);
    let read = crypto_header(CRYPTO_IN, 2, 0, [3, 0, 0, 0]);
    for indirect in [false, true] {
        for at in 1..program.len() {
            let cut = Cut { readable: vec![at], writable: vec![], indirect };
            guest.request(control, &evict(0), 1).assert_only_status(OK);
            guest.request_cut(control, &program, 1, &cut).assert_only_status(OK);
        }
        for at in 1..write.len() {
            guest.request(0, &write_request(2, &[0; 512]), 1).assert_only_status(OK);
            let cut = Cut { readable: vec![at], writable: vec![], indirect };
            guest.request_cut(0, &write, 1, &cut).assert_only_status(OK);
            assert_eq!(guest.image_bytes(1024, 512), expected, "cut at {at}");
        }
        for at in 1..513 {
            let cut = Cut { readable: vec![at.min(55)], writable: vec![at], indirect };
            let answer = guest.request_cut(0, &read, 513, &cut);
            assert_eq!((answer.status, answer.used), (OK, 513), "cut at {at}");
            assert_eq!(answer.data, plain, "cut at {at}");
        }
    }
}

#[test]
fn chains_of_one_byte_descriptors() {
    let mut guest = Guest::with(Options { ring_size: 256, ..Options::default() });
    let cut = Cut { readable: vec![1; 100], writable: vec![1; 100], indirect: false };
    let plain = pattern(1, 512);
    guest.request_cut(0, &write_request(0, &plain), 1, &cut).assert_only_status(OK);
    let answer = guest.request_cut(0, &header(IN, 0), 513, &cut);
    assert_eq!((answer.status, answer.data), (OK, plain.clone()));
    let cut = Cut { indirect: true, ..cut };
    assert_eq!(guest.request_cut(1, &header(IN, 0), 513, &cut).data, plain);
}

/// Chains too short for a header, a crypto message or a key: returned with length 0, with a status if there is room.
#[test]
fn requests_that_are_too_short() {
    let mut guest = Guest::new();
    let control = guest.control();
    let crypto = crypto_header(CRYPTO_OUT, 0, 0, [0; 4]);
    let program = Program::new(0, &key(1), 12).bytes();
    for (queue, whole, from) in [(0, &crypto, 0), (control, &program, 0)] {
        for len in from..whole.len() {
            for room in [1, 513] {
                let answer = guest.request(queue, &whole[..len], room);
                assert_eq!((answer.used, answer.status), (0, IOERR), "{len} bytes");
                assert!(answer.data.iter().all(|&byte| byte == FILL));
            }
        }
    }
    // An evict command needs only the slot.
    guest.request(control, &program, 1).assert_only_status(OK);
    for len in 0..4 {
        assert_eq!(guest.request(control, &evict(0)[..16 + len], 1).used, 0, "{len} bytes");
    }
    guest.request(0, &crypto_write(0, 0, [0; 4], &[0; 4096]), 1).assert_only_status(OK);
    for len in [4, 5, 151, 152] {
        guest.request(control, &program, 1).assert_only_status(OK);
        guest.request(control, &evict(0)[..16 + len], 1).assert_only_status(OK);
        guest.request(0, &crypto_write(0, 0, [0; 4], &[0; 4096]), 1).assert_only_status(NOKEY);
    }
    let programs = guest.stat("keyslots.program");
    guest.request(0, &write_request(0, &[0; 4096]), 1).assert_only_status(OK);
    // Without room for a status, the head is still returned.
    for (queue, request) in [
        (0, write_request(0, &[1; 512])),
        (0, header(IN, 0)),
        (0, header(FLUSH, 0)),
        (0, crypto_write(0, 0, [0; 4], &[1; 4096])),
        (0, vec![1; 3]),
        (control, program),
        (control, header(GET_CRYPTO_MODES, 0)),
    ] {
        assert_eq!(guest.request(queue, &request, 0).used, 0);
    }
    assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
    assert_eq!(guest.stat("keyslots.program"), programs);
    // The queues still work.
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
}

/// Heads never leak: many rounds of the ring, with several requests at a time.
#[test]
fn every_head_comes_back_once() {
    let mut guest = Guest::with(Options { ring_size: 16, ..Options::default() });
    let mut served = 0;
    for round in 0..3000u64 {
        let count = 1 + round as usize % 5;
        let mut pending: Vec<_> = (0..count as u64)
            .map(|n| {
                let request = if n % 2 == 0 { write_request(n, &pattern(n, 512)) } else { header(99, 0) };
                guest.rings[0].add(&request, 1)
            })
            .collect();
        guest.rings[0].kick();
        for _ in 0..count {
            let (head, used) = guest.rings[0].wait();
            let at = pending.iter().position(|buffers| buffers.head == head).expect("a head that is pending");
            let buffers = pending.swap_remove(at);
            assert_eq!(used, 1);
            guest.rings[0].free(&buffers);
            served += 1;
        }
        assert_eq!(guest.rings[0].take_used(), None);
    }
    assert!(served > 65536 / 16, "{served} requests: more than once around");
}

/// With EVENT_IDX the driver notifies only when the device asks for it, and the device interrupts only when asked.
#[test]
fn no_notification_is_lost_with_event_idx() {
    for accept in [ALL_FEATURES, !feature::EVENT_IDX] {
        let mut guest = Guest::with(Options { accept, ..Options::default() });
        let mut kicks = 0;
        for round in 0..2000u64 {
            let old = guest.rings[0].next_avail;
            let request = write_request(round % 100, &pattern(round, 512));
            let buffers = guest.rings[0].add(&request, 1);
            if guest.rings[0].device_wants_kick(old) {
                kicks += 1;
                guest.rings[0].kick();
            }
            guest.rings[0].wait();
            guest.rings[0].free(&buffers);
        }
        assert!(kicks > 0);
    }
}

/// The driver wants an interrupt at its tenth request only.
#[test]
fn no_interrupt_comes_before_it_is_wanted() {
    let mut guest = Guest::new();
    let ring = &mut guest.rings[0];
    // When the interrupt has come, the device has looked at what was wanted.
    let buffers = ring.add(&header(99, 0), 1);
    ring.kick();
    let deadline = std::time::Instant::now() + ring::PATIENCE;
    while ring.call.read().is_err() {
        assert!(std::time::Instant::now() < deadline, "no interrupt");
    }
    ring.wait();
    ring.free(&buffers);
    let before = ring.next_used;
    ring.set_used_event(before.wrapping_add(9));
    for number in 1..=10u16 {
        let buffers = ring.add(&header(99, 0), 1);
        ring.kick();
        let deadline = std::time::Instant::now() + ring::PATIENCE;
        while ring.used_index().wrapping_sub(before) < number {
            assert!(std::time::Instant::now() < deadline, "not served");
        }
        ring.free(&buffers);
        if number == 9 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(ring.call.read().is_err(), "an interrupt that was not wanted");
        }
    }
    let deadline = std::time::Instant::now() + ring::PATIENCE;
    while ring.call.read().is_err() {
        assert!(std::time::Instant::now() < deadline, "no interrupt");
    }
}

/// A driver adds requests while the device serves others, and notifies only when the device asks. All complete.
#[test]
fn no_notification_is_lost_in_a_stream() {
    for accept in [ALL_FEATURES, !feature::EVENT_IDX] {
        let mut guest = Guest::with(Options { accept, ..Options::default() });
        let ring = &mut guest.rings[0];
        let (mut added, mut returned, mut kicks) = (0u64, 0u64, 0u64);
        let mut pending = std::collections::HashMap::new();
        let mut last = std::time::Instant::now();
        while returned < 30_000 {
            // One to three at a time, so that the device often becomes idle just as the next one arrives.
            for _ in 0..=added % 3 {
                if pending.len() < 16 && added < 30_000 {
                    let old = ring.next_avail;
                    let buffers = ring.add(&header(FLUSH + 100, 0), 1);
                    pending.insert(buffers.head, buffers);
                    added += 1;
                    if ring.device_wants_kick(old) {
                        kicks += 1;
                        ring.kick();
                    }
                }
            }
            while let Some((head, _)) = ring.take_used() {
                let buffers = pending.remove(&head).expect("a head that is pending");
                ring.free(&buffers);
                returned += 1;
                last = std::time::Instant::now();
            }
            assert!(last.elapsed() < ring::PATIENCE, "stuck after {returned} of {added}, {kicks} notifications");
        }
        assert!(kicks > 0 && kicks <= added);
    }
}

/// The driver may sleep: the interrupt comes for the completion that it asked for.
#[test]
fn interrupts_come_when_asked_for() {
    let mut guest = Guest::new();
    for round in 0..200u64 {
        let request = write_request(round, &pattern(round, 512));
        let buffers = guest.rings[0].add(&request, 1);
        guest.rings[0].kick();
        let deadline = std::time::Instant::now() + ring::PATIENCE;
        while guest.rings[0].call.read().is_err() {
            assert!(std::time::Instant::now() < deadline, "no interrupt");
            std::thread::yield_now();
        }
        assert!(guest.rings[0].take_used().is_some());
        guest.rings[0].free(&buffers);
    }
}
