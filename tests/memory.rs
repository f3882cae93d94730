// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guest memory changes while the device works: the frontend adds, removes and replaces regions.

mod common;

use std::time::{Duration, Instant};

use common::ring::{Buffers, PATIENCE};
use common::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};

const HALF: u64 = MEMORY_BYTES / 2;
const QUARTER: u64 = MEMORY_BYTES / 4;

/// A guest whose frontend adds and removes regions, with the lower half of its memory. The rings are in there.
fn lower_half(workers: usize) -> Guest {
    let mut options = Options::default();
    options.workers.workers = workers;
    options.protocol = VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS | VhostUserProtocolFeatures::REPLY_ACK;
    let mut guest = Guest::with(options);
    guest.frontend().set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    remove(&mut guest, HALF, HALF);
    guest
}

fn add(guest: &mut Guest, offset: u64, bytes: u64) {
    let region = guest.region(offset, bytes);
    guest.frontend().add_mem_region(&region).expect("ADD_MEM_REG");
}

fn remove(guest: &mut Guest, offset: u64, bytes: u64) {
    let region = guest.region(offset, bytes);
    guest.frontend().remove_mem_region(&region).expect("REM_MEM_REG");
}

fn use_buffers(guest: &mut Guest, queue: usize, offset: u64, bytes: u64) {
    guest.rings[queue].use_buffers(MEMORY_START + offset..MEMORY_START + offset + bytes);
}

/// A read that a fault holds back.
fn begin_read(guest: &mut Guest, sector: u64) -> Buffers {
    let buffers = guest.rings[0].add(&header(IN, sector), 4097);
    guest.rings[0].kick();
    let deadline = Instant::now() + PATIENCE;
    while guest.stat("events.fault") == 0 {
        assert!(Instant::now() < deadline, "the fault does not strike");
        std::thread::sleep(Duration::from_millis(1));
    }
    buffers
}

fn assert_read(guest: &Guest, buffers: &Buffers, data: &[u8]) {
    let bytes = guest.rings[0].read_writable(buffers);
    assert!(bytes[..4096] == *data && bytes[4096] == OK, "status {}", bytes[4096]);
}

/// Writes and reads with buffers and an indirect table in the ring's buffer memory. Each must be the next to complete.
fn exercise(guest: &mut Guest, queue: usize, sector: u64) {
    for (number, indirect) in [(0, false), (1, true)] {
        let data = pattern(sector + number, 4096);
        let cut = Cut { indirect, ..Cut::default() };
        guest.request_cut(queue, &write_request(sector, &data), 1, &cut).assert_only_status(OK);
        let answer = guest.request_cut(queue, &header(IN, sector), 4097, &cut);
        assert!(answer.status == OK && answer.data == data);
        assert_eq!(guest.image_bytes(sector * 512, 4096), data);
    }
    assert!(guest.rings[queue].err.read().is_err(), "the queue is broken");
}

/// The frontend adds a region while a fault holds a read back. The frontend does not wait, requests in the new region
/// are served at once, and the read completes as if nothing had happened.
#[test]
fn a_region_is_added_under_load() {
    for fault in ["delay=2s,op=read,sector=0-7", "stuck,op=read,sector=0-7"] {
        let mut guest = lower_half(1);
        let data = pattern(1, 4096);
        guest.request(0, &write_request(0, &data), 1).assert_only_status(OK);
        guest.device.faults().add(fault).expect("fault");
        let read = begin_read(&mut guest, 0);
        let begun = Instant::now();
        add(&mut guest, HALF, QUARTER);
        // First a chain that begins in old memory and ends in new memory.
        let ring = &mut guest.rings[0];
        let request = write_request(64, &pattern(9, 4096));
        let (old, new) = (ring.allocate(16), MEMORY_START + HALF + (1 << 20));
        for (bytes, at) in [(&request[..16], old), (&request[16..], new)] {
            vm_memory::Bytes::write_slice(&guest.memory, bytes, vm_memory::GuestAddress(at)).expect("buffer");
        }
        let pieces = [(old, 16, 0), (new, 4096, 0), (new + 4096, 1, test_driver::WRITE)];
        let split = ring.add_pieces(&pieces, false);
        ring.kick();
        assert_eq!(ring.wait(), (split.head, 1));
        assert_eq!(ring.read_writable(&split), [OK]);
        assert_eq!(guest.image_bytes(64 * 512, 4096), pattern(9, 4096));
        for queue in 0..2 {
            use_buffers(&mut guest, queue, HALF + queue as u64 * (4 << 20), 4 << 20);
            exercise(&mut guest, queue, 128 + queue as u64 * 64);
        }
        // A queue that starts anew, with its ring in a region added later.
        add(&mut guest, HALF + QUARTER, QUARTER);
        guest.frontend().get_vring_base(1).expect("GET_VRING_BASE");
        let event_idx = guest.features & feature::EVENT_IDX != 0;
        guest.rings[1] = Ring::new(&guest.memory, MEMORY_START + HALF + QUARTER, 0, 64, event_idx);
        guest.start_ring(1);
        exercise(&mut guest, 1, 512);
        exercise(&mut guest, 0, 256);
        let used = guest.rings[0].next_used;
        assert_eq!(guest.rings[0].used_index(), used, "the read is still held back");
        assert!(begun.elapsed() < Duration::from_secs(2), "something waited for the read");
        if fault.starts_with("stuck") {
            guest.device.faults().clear(None).expect("clear");
        }
        assert_eq!(guest.rings[0].wait(), (read.head, 4097));
        assert!(fault.starts_with("stuck") || begun.elapsed() > Duration::from_millis(1900), "it came too early");
        assert_read(&guest, &read, &data);
    }
}

/// libblkio shares 15120 bytes for the ring of a queue with 256 entries.
#[test]
fn a_region_need_not_have_whole_pages() {
    let mut guest = lower_half(1);
    add(&mut guest, HALF, 15120);
    use_buffers(&mut guest, 0, HALF, 15120);
    exercise(&mut guest, 0, 8);
    remove(&mut guest, HALF, 15120);
}

/// The frontend removes a region, or replaces all, while a fault holds a read into it back. The read completes before
/// the reply that lets the frontend unmap the region.
#[test]
fn a_region_is_removed_under_load() {
    for by_table in [false, true] {
        let mut guest = lower_half(1);
        add(&mut guest, HALF, HALF);
        let data = pattern(1, 4096);
        guest.request(0, &write_request(0, &data), 1).assert_only_status(OK);
        use_buffers(&mut guest, 0, HALF, HALF);
        guest.device.faults().add("delay=3600s,op=read").expect("fault");
        let read = begin_read(&mut guest, 0);
        let begun = Instant::now();
        if by_table {
            let lower = guest.region(0, HALF);
            guest.frontend().set_mem_table(&[lower]).expect("SET_MEM_TABLE");
        } else {
            remove(&mut guest, HALF, HALF);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "the frontend has waited for the fault");
        assert_eq!(guest.rings[0].take_used(), Some((read.head, 4097)), "before the reply");
        assert_read(&guest, &read, &data);
        guest.device.faults().clear(None).expect("clear");
        // The other queue still works. A request in the removed region breaks its queue.
        exercise(&mut guest, 1, 64);
        let gone = guest.rings[0].add(&header(IN, 0), 4097);
        guest.rings[0].kick();
        assert_eq!(guest.rings[0].wait(), (gone.head, 0));
        let deadline = Instant::now() + PATIENCE;
        while guest.rings[0].err.read().is_err() {
            assert!(Instant::now() < deadline, "the broken queue is not reported");
            std::thread::sleep(Duration::from_millis(1));
        }
        exercise(&mut guest, 1, 64);
        // The frontend adds the region again.
        add(&mut guest, HALF, HALF);
        guest.restart();
        use_buffers(&mut guest, 0, HALF, HALF);
        exercise(&mut guest, 0, 128);
    }
}

/// QEMU removes a region and adds it again in pieces, while queues with rings in it run.
#[test]
fn a_region_with_rings_comes_back_in_pieces() {
    let mut guest = lower_half(2);
    for round in 0..3 {
        remove(&mut guest, 0, HALF);
        let waiting = guest.rings[0].add(&write_request(0, &pattern(round, 4096)), 1);
        guest.rings[0].kick();
        guest.rings[0].assert_silent();
        // First the piece without the rings.
        add(&mut guest, QUARTER + QUARTER / 2, QUARTER / 2);
        guest.rings[0].assert_silent();
        add(&mut guest, 0, QUARTER + QUARTER / 2);
        assert_eq!(guest.rings[0].wait(), (waiting.head, 1), "without another notification");
        assert_eq!(guest.rings[0].read_writable(&waiting), [OK]);
        for queue in 0..2 {
            exercise(&mut guest, queue, 64);
        }
        remove(&mut guest, QUARTER + QUARTER / 2, QUARTER / 2);
        remove(&mut guest, 0, QUARTER + QUARTER / 2);
        add(&mut guest, 0, HALF);
        guest.rings[0].free(&waiting);
    }
    // A table without the rings, and one with them.
    let upper = guest.region(HALF, HALF);
    guest.frontend().set_mem_table(&[upper]).expect("SET_MEM_TABLE");
    let waiting = guest.rings[0].add(&write_request(0, &[1; 512]), 1);
    guest.rings[0].kick();
    guest.rings[0].assert_silent();
    guest.set_memory();
    assert_eq!(guest.rings[0].wait(), (waiting.head, 1));
    exercise(&mut guest, 1, 64);
}

/// Regions come and go under load. Requests in memory that stays never fail, and a new region is usable as soon as the
/// frontend has the reply.
#[test]
fn regions_come_and_go_while_requests_pour_in() {
    let mut guest = lower_half(1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut ring = guest.rings.remove(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (begun, mut round) = (Instant::now(), 0);
            // It ends also if the other thread has failed.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && begun.elapsed() < 2 * PATIENCE {
                round += 1;
                ring.request(&write_request(1024 + round % 64 * 8, &[1; 4096]), 1).assert_only_status(OK);
            }
        });
        for round in 0..300 {
            add(&mut guest, HALF, HALF);
            use_buffers(&mut guest, 0, HALF, HALF);
            let data = pattern(round, 4096);
            guest.request(0, &write_request(0, &data), 1).assert_only_status(OK);
            use_buffers(&mut guest, 0, QUARTER, QUARTER);
            assert!(guest.request(0, &header(IN, 0), 4097).data == data);
            remove(&mut guest, HALF, HALF);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
