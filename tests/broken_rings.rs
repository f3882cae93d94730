// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Drivers that break the rules of the ring: the device stops the queue and reports it; all else continues.

mod common;

use common::process::{Files, Running, wait_for};
use common::*;
use test_driver::{Descriptor, INDIRECT, NEXT, WRITE};
use vm_memory::{Bytes, GuestAddress};

const OUTSIDE: u64 = 0x1000; // below guest memory

/// Breaks queue 0 and checks what must be true after any break. `head` is returned with length 0 if it was taken.
fn breaks(what: &str, head: Option<u16>, action: impl FnOnce(&mut Guest)) {
    let mut guest = Guest::new();
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    action(&mut guest);
    guest.rings[0].kick();
    if let Some(head) = head {
        assert_eq!(guest.rings[0].wait(), (head, 0), "{what}");
    }
    // The error eventfd reports it.
    let deadline = std::time::Instant::now() + ring::PATIENCE;
    while guest.rings[0].err.read().is_err() {
        assert!(std::time::Instant::now() < deadline, "{what}: not reported");
        std::thread::yield_now();
    }
    while guest.stat("events.broken_queue") == 0 {
        assert!(std::time::Instant::now() < deadline, "{what}: not counted");
        std::thread::yield_now();
    }
    assert_eq!(guest.stat("events.broken_queue"), 1, "{what}");
    // The queue has stopped, and the worker does not spin.
    let next = guest.rings[0].next_avail;
    guest.rings[0].set_avail_index(next);
    let _ = guest.rings[0].add(&write_request(0, &[2; 512]), 1);
    guest.rings[0].kick();
    guest.rings[0].assert_silent();
    assert_eq!(guest.image_bytes(0, 512), [1; 512], "{what}");
    // The other queue and the control queue work.
    guest.request(1, &write_request(8, &[3; 512]), 1).assert_only_status(OK);
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
    // After a reset, all queues work.
    guest.restart();
    guest.request(0, &write_request(0, &[4; 512]), 1).assert_only_status(OK);
}

fn put(guest: &mut Guest, index: u16, address: u64, len: u32, flags: u16, next: u16) {
    let ring = &guest.rings[0];
    ring.write_descriptor(ring.descriptors, index, Descriptor { address, len, flags, next });
}

fn publish(guest: &mut Guest, head: u16) {
    guest.rings[0].publish(head);
}

#[test]
fn a_loop() {
    breaks("loop", Some(0), |guest| {
        put(guest, 0, MEMORY_START, 16, NEXT, 1);
        put(guest, 1, MEMORY_START, 16, NEXT, 0);
        publish(guest, 0);
    });
    breaks("a descriptor that is its own next", Some(5), |guest| {
        put(guest, 5, MEMORY_START, 16, NEXT, 5);
        publish(guest, 5);
    });
}

#[test]
fn addresses_outside_guest_memory() {
    for (address, len, flags) in [
        (OUTSIDE, 16, 0),
        (OUTSIDE, 16, WRITE),
        (MEMORY_START + MEMORY_BYTES - 8, 16, 0),
        (u64::MAX - 8, 16, 0),
        (MEMORY_START, u32::MAX, WRITE),
        (0, u32::MAX, WRITE),
    ] {
        breaks("address", Some(3), |guest| {
            put(guest, 3, address, len, flags, 0);
            publish(guest, 3);
        });
    }
}

/// The used ring ends where guest memory ends, without the index at which the device wants a notification. Not all drivers use that, so
/// the queue starts, and fails when it is idle for the first time.
#[test]
fn a_ring_without_its_notification_index() {
    let mut guest = Guest::new();
    guest.reset();
    guest.set_features_again();
    guest.rings[0].used = MEMORY_START + MEMORY_BYTES - 4 - 8 * u64::from(guest.rings[0].size);
    guest.rings[0].next_avail = 0;
    guest.start_ring(0);
    guest.rings[0].kick();
    wait_for(|| guest.rings[0].err.read().is_ok());
    wait_for(|| guest.stat("events.broken_queue") == 1);
}

#[test]
fn descriptor_indices_out_of_range() {
    breaks("next", Some(3), |guest| {
        put(guest, 3, MEMORY_START, 16, NEXT, 64);
        publish(guest, 3);
    });
    for head in [64, 65, u16::MAX] {
        breaks("head", None, |guest| publish(guest, head));
    }
}

#[test]
fn a_head_made_available_twice() {
    breaks("twice", None, |guest| {
        // One notification for both, so the device sees the second before it has returned the first.
        let request = header(99, 0);
        let buffers = guest.rings[0].add(&request, 1);
        publish(guest, buffers.head);
        guest.rings[0].kick();
        let (head, used) = guest.rings[0].wait();
        assert_eq!((head, used), (buffers.head, 1), "the first is served, once");
        assert_eq!(guest.rings[0].take_used(), None);
    });
}

#[test]
fn an_available_index_that_jumps() {
    breaks("jump", None, |guest| {
        let index = guest.rings[0].next_avail.wrapping_add(65);
        guest.rings[0].set_avail_index(index);
        guest.rings[0].kick();
        guest.rings[0].assert_silent();
    });
    breaks("backwards", None, |guest| {
        let index = guest.rings[0].next_avail.wrapping_sub(1);
        guest.rings[0].set_avail_index(index);
        guest.rings[0].kick();
        guest.rings[0].assert_silent();
    });
}

#[test]
fn readable_after_writable() {
    breaks("order", Some(0), |guest| {
        put(guest, 0, MEMORY_START, 16, NEXT | WRITE, 1);
        put(guest, 1, MEMORY_START, 16, 0, 0);
        publish(guest, 0);
    });
}

#[test]
fn bad_indirect_tables() {
    let table = MEMORY_START + (100 << 20);
    for (address, len, what) in [
        (table, 15, "not a multiple of 16"),
        (table, 0, "empty"),
        (OUTSIDE, 32, "outside"),
        (u64::MAX - 15, 32, "wraps"),
        (table, 16 * 0x10000, "too long"),
    ] {
        breaks(what, Some(2), |guest| {
            put(guest, 2, address, len, INDIRECT, 0);
            publish(guest, 2);
        });
    }
    breaks("indirect in indirect", Some(2), |guest| {
        let inner = Descriptor { address: table, len: 16, flags: INDIRECT, next: 0 };
        guest.rings[0].write_descriptor(table, 0, inner);
        put(guest, 2, table, 16, INDIRECT, 0);
        publish(guest, 2);
    });
    breaks("longer than the device's queue", Some(2), |guest| {
        for index in 0..300 {
            let flags = if index < 299 { NEXT } else { 0 };
            let entry = Descriptor { address: MEMORY_START, len: 1, flags, next: index + 1 };
            guest.rings[0].write_descriptor(table, index, entry);
        }
        put(guest, 2, table, 300 * 16, INDIRECT, 0);
        publish(guest, 2);
    });
    breaks("a loop in an indirect table", Some(2), |guest| {
        for index in 0..4 {
            let entry = Descriptor { address: MEMORY_START, len: 1, flags: NEXT, next: (index + 1) % 4 };
            guest.rings[0].write_descriptor(table, index, entry);
        }
        put(guest, 2, table, 64, INDIRECT, 0);
        publish(guest, 2);
    });
}

#[test]
fn four_gibibytes_in_one_chain() {
    breaks("too many bytes", Some(0), |guest| {
        for index in 0..63 {
            put(guest, index, MEMORY_START, MEMORY_BYTES as u32, WRITE | if index < 62 { NEXT } else { 0 }, index + 1);
        }
        publish(guest, 0);
    });
}

/// A request of many gigabytes exceeds the disk. The device allocates no memory for it.
#[test]
fn huge_requests_are_refused_at_once() {
    let mut guest = Guest::new();
    let memory = guest.memory.clone();
    memory.write_slice(&header(IN, 0), GuestAddress(MEMORY_START + (100 << 20))).expect("header");
    put(&mut guest, 0, MEMORY_START + (100 << 20), 16, NEXT, 1);
    for index in 1..30 {
        let flags = WRITE | if index < 29 { NEXT } else { 0 };
        put(&mut guest, index, MEMORY_START + (64 << 20), 32 << 20, flags, index + 1);
    }
    publish(&mut guest, 0);
    guest.rings[0].kick();
    assert_eq!(guest.rings[0].wait(), (0, 1));
    assert_eq!(guest.stat("requests.refused"), 1);
}

/// The guest changes the header while the device parses it. Every request still gets a valid status.
#[test]
fn headers_that_change_under_the_device() {
    let mut guest = Guest::new();
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 9).bytes(), 1).assert_only_status(OK);
    let memory = guest.memory.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let at = MEMORY_START + (100 << 20);
    memory.write_slice(&crypto_header(CRYPTO_IN, 0, 0, [0; 4]), GuestAddress(at)).expect("header");
    put(&mut guest, 0, at, 56, NEXT, 1);
    put(&mut guest, 1, at + 4096, 4097, WRITE, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round = round.wrapping_add(1);
                let request_type = [IN, OUT, CRYPTO_IN, CRYPTO_OUT, FLUSH, 77][round as usize % 6];
                memory.write_obj(request_type, GuestAddress(at)).expect("header");
                memory.write_obj(u64::from(round % 3) << 60, GuestAddress(at + 8)).expect("header");
                memory.write_obj(round % 9, GuestAddress(at + 16)).expect("header");
            }
        });
        for _ in 0..3000 {
            publish(&mut guest, 0);
            guest.rings[0].kick();
            let (head, used) = guest.rings[0].wait();
            assert_eq!(head, 0);
            assert!([1, 4097, 21].contains(&used), "{used}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A driver's developer learns from the log what is wrong.
#[test]
fn the_log_says_what_is_wrong() {
    let files = Files::new();
    let running = Running::start(&files, &["--num-queues", "2", "--queue-size", "256"]);
    let mut guest = files.guest();
    let table = MEMORY_START + (100 << 20);
    let pieces = [(MEMORY_START, 1, 0); 300];
    type Break<'t> = (&'t str, &'t dyn Fn(&mut Guest));
    let breaks: [Break<'_>; 4] = [
        ("a descriptor chain does not end", &|guest| put(guest, 0, MEMORY_START, 16, NEXT, 0)),
        ("points outside guest memory", &|guest| put(guest, 0, OUTSIDE, 16, 0, 0)),
        ("is longer than the queue", &|guest| guest.rings[0].write_indirect(0, table, &pieces)),
        ("device-readable descriptor follows", &|guest| {
            put(guest, 0, MEMORY_START, 16, NEXT | WRITE, 1);
            put(guest, 1, MEMORY_START, 16, 0, 0);
        }),
    ];
    for (_, action) in &breaks {
        action(&mut guest);
        publish(&mut guest, 0);
        guest.rings[0].kick();
        wait_for(|| guest.rings[0].err.read().is_ok());
        guest.restart();
    }
    drop(guest);
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    for (words, _) in &breaks {
        assert!(text.contains(words), "{words}: {text}");
    }
}
