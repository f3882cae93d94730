// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The bound on memory that ARCHITECTURE.md and THREATS.md promise, measured under the largest requests.

use libtest_mimic::Trial;
use vm_memory::{Bytes, GuestAddress};

use crate::common::*;
use crate::device::Device;
use test_driver::WRITE;

/// Threads that serve queues.
const WORKERS: u64 = 2;
/// KiB for each: buffers of 12 MiB, and at most 32 chains of 256 descriptors for each of its queues, and stack.
const WORKER_KIB: u64 = 14 << 10;
/// KiB for the rest: the program, the allocator's slack, the stacks of 16 helper threads.
const OTHER_KIB: u64 = 16 << 10;

/// Requests in flight for each queue.
const DEPTH: usize = 120;
/// Descriptors of data in each: as many as the device takes beside header and status.
const PIECES: usize = 254;
/// Bytes of each. All requests of both queues together are below what may be in flight.
const PIECE: u32 = 2 << 10;

/// Writable private memory of the process in KiB, touched or not: how much untouched memory the kernel populates
/// depends on its huge pages.
fn private(device: &Device) -> u64 {
    device.status("VmData")[0].trim_end_matches(" kB").trim().parse().expect("a number")
}

/// The most private memory until both request queues have returned this many requests.
fn most_private(device: &Device, guest: &mut Guest, mut left: usize) -> u64 {
    let mut most = 0;
    while left > 0 {
        for ring in &mut guest.rings[..2] {
            while ring.take_used().is_some() {
                left -= 1;
            }
        }
        most = most.max(private(device));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    most
}

/// Requests of 508 KiB each, made of pieces of guest memory that all of them share.
fn flood(guest: &mut Guest, request_type: u32, queue: usize) -> usize {
    let ring = &mut guest.rings[queue];
    let request = match request_type {
        CRYPTO_IN_EXT | CRYPTO_OUT_EXT => KeyedRequest::new(request_type, 0, 1, &key(1)).bytes(),
        _ => crypto_header(request_type, 0, 2, [1, 0, 0, 0]),
    };
    let header_len = if request_type == IN || request_type == OUT { 16 } else { request.len() };
    let header = ring.allocate(header_len);
    guest.memory.write_slice(&request[..header_len], GuestAddress(header)).expect("header");
    let write = if matches!(request_type, IN | CRYPTO_IN | CRYPTO_IN_EXT) { WRITE } else { 0 };
    let data = [(ring.allocate(PIECE as usize), PIECE, write); PIECES];
    for head in 0..DEPTH as u16 {
        let status = ring.allocate(1);
        let table = ring.allocate(16 * (PIECES + 2)).next_multiple_of(16);
        ring.allocate(16);
        let pieces = [&[(header, header_len as u32, 0)][..], &data, &[(status, 1, WRITE)]].concat();
        ring.write_indirect(head, table, &pieces);
        ring.publish(head);
    }
    ring.kick();
    DEPTH
}

fn under_a_flood(options: &'static [&str]) {
    let keys_in_requests = options.contains(&"--keyslots");
    let device = Device::start(&[&["--workers", "2"], options].concat(), |_| {});
    let mut guest = device.guest();
    let control = guest.control();
    let programmed = if keys_in_requests { UNSUPP } else { OK };
    guest.request(control, &Program::new(2, &key(1), 12).bytes(), 1).assert_only_status(programmed);
    let encrypted = if keys_in_requests { [CRYPTO_OUT_EXT, CRYPTO_IN_EXT] } else { [CRYPTO_OUT, CRYPTO_IN] };
    let mut most = 0;
    for request_type in [&encrypted[..], &[OUT, IN]].concat() {
        let sent = [0, 1].map(|queue| flood(&mut guest, request_type, queue)).iter().sum();
        most = most.max(most_private(&device, &mut guest, sent));
    }
    let bound = WORKERS * WORKER_KIB + OTHER_KIB;
    println!("{options:?}: {most} KiB of private memory at the most, the bound is {bound} KiB");
    assert!(most < bound, "{most} KiB of private memory, the bound is {bound} KiB");
    drop(guest);
    let counters = device.finish();
    let sent = 2 * DEPTH as u64;
    assert_eq!(counters["bytes"]["crypto_out"], sent * PIECES as u64 * u64::from(PIECE));
    assert_eq!(counters["bytes"]["in"], sent * PIECES as u64 * u64::from(PIECE));
}

/// KiB for the program with a worker that uses no buffers and no helper threads: 352 requests of 1024 descriptors, and the rest.
const WITHOUT_BUFFERS_KIB: u64 = (9 + 8) << 10;

/// Requests with as many descriptors as there may be, on a slow device: as many as may be in flight wait at a time.
fn under_long_requests() {
    let device = Device::start(&["--workers", "1", "--aio", "sync", "--fault", "delay=300ms,op=read"], |_| {});
    let mut guest = device.guest_with_rings(1024);
    for ring in &mut guest.rings[..2] {
        let header = ring.allocate(16);
        let status = ring.allocate(1);
        let data = [(ring.allocate(512), 512, WRITE); 1022];
        let table = ring.allocate(16 * 1025).next_multiple_of(16);
        let pieces = [&[(header, 16, 0)][..], &data, &[(status, 1, WRITE)]].concat();
        for head in 0..512 {
            ring.write_indirect(head, table, &pieces);
            ring.publish(head);
        }
        ring.kick();
    }
    let most = most_private(&device, &mut guest, 1024);
    let bound = WITHOUT_BUFFERS_KIB;
    println!("{most} KiB of private memory at the most, the bound is {bound} KiB");
    assert!(most < bound, "{most} KiB of private memory, the bound is {bound} KiB");
    drop(guest);
    assert_eq!(device.finish()["bytes"]["in"], 1024 * 1022 * 512u64);
}

/// KiB of digests for each worker (THREATS.md).
const DIGESTS_KIB: u64 = 2 << 10;

/// Requests of 7 MiB in data units of 512 bytes, each with 444 KiB of digests.
fn under_many_digests() {
    let pieces = PIECES - 1;
    let device = Device::start(&["--workers", "2"], |_| {});
    let mut guest = device.guest();
    let control = guest.control();
    guest.request(control, &Program::new(2, &key(1), 9).bytes(), 1).assert_only_status(OK);
    let request = extended_header(CRYPTO_OUT_EXT, 0, 2, [SHA256, 0, 0, 0], [1, 0, 0, 0]);
    let units = pieces * (28 << 10) / 512;
    let array = units * 32;
    for ring in &mut guest.rings[..2] {
        let header = ring.allocate(request.len());
        guest.memory.write_slice(&request, GuestAddress(header)).expect("header");
        let data = vec![(ring.allocate(28 << 10), 28 << 10, 0); pieces];
        let digests = ring.allocate(array);
        for head in 0..DEPTH as u16 {
            let status = ring.allocate(1);
            let table = ring.allocate(16 * (PIECES + 3)).next_multiple_of(16);
            ring.allocate(16);
            let room = [(digests, array as u32, WRITE), (status, 1, WRITE)];
            ring.write_indirect(head, table, &[&[(header, request.len() as u32, 0)][..], &data, &room].concat());
            ring.publish(head);
        }
        ring.kick();
    }
    let most = most_private(&device, &mut guest, 2 * DEPTH);
    let bound = WORKERS * (WORKER_KIB + DIGESTS_KIB) + OTHER_KIB;
    println!("{most} KiB of private memory at the most, the bound is {bound} KiB");
    assert!(most < bound, "{most} KiB of private memory, the bound is {bound} KiB");
    drop(guest);
    assert_eq!(device.finish()["digests"]["sha256"], (2 * DEPTH * units) as u64);
}

pub fn trials() -> Vec<Trial> {
    let ways: [(&str, &[&str]); 5] = [
        ("sync", &["--aio", "sync"]),
        ("io_uring", &["--aio", "io_uring"]),
        ("threads", &["--aio", "threads"]),
        ("io_uring_keys_in_requests", &["--aio", "io_uring", "--keyslots", "0"]),
        ("threads_keys_in_requests", &["--aio", "threads", "--keyslots", "0"]),
    ];
    let floods = ways.map(|(name, options)| {
        let obstacle = crate::device::obstacle(options);
        super::trial(format!("memory::{name}"), obstacle, || under_a_flood(options))
    });
    let long = super::trial("memory::long_requests".to_owned(), crate::device::obstacle(&[]), under_long_requests);
    let digests = super::trial("memory::digests".to_owned(), crate::device::obstacle(&[]), under_many_digests);
    floods.into_iter().chain([long, digests]).collect()
}
