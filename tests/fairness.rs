// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A worker serves all of its queues, even if one of them has very much work.

mod common;

use common::*;
use scattered_xts::Implementation;
use test_driver::WRITE;
use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::disk::Aio;
use vhost_user_blk_crypto::engine::Timing;
use vm_memory::{Bytes, GuestAddress};

fn one_worker(config: DeviceConfig) -> Options {
    let mut options = Options { config, ..Options::default() };
    options.workers.workers = 1;
    options
}

fn program(guest: &mut Guest) {
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
}

/// One queue has many more requests than the device takes at a time, and a slow engine completes them one by one.
/// Requests on the other queues complete between them.
#[test]
fn a_full_queue_does_not_starve_the_others() {
    /// The engine takes two milliseconds for 4096 bytes, and has 256 requests at a time.
    const MB_PER_S: u32 = 2;
    const FLOOD: u64 = 512;
    let timing = Timing { crypto_mb_per_s: MB_PER_S, ..Timing::default() };
    let mut config = Options::default().config;
    config.engine.timing = timing;
    config.queue_size = 1024;
    // The disk answers at once, so that all requests wait for the engine.
    let disk = DiskKind::Memory;
    let mut guest = Guest::with(Options { disk, ring_size: 1024, ..one_worker(config) });
    let control = guest.control();
    program(&mut guest);
    for (full, other) in [(0, 1), (1, 0)] {
        let start = guest.rings[full].next_used;
        let flood: Vec<_> = (0..FLOOD)
            .map(|n| {
                let read = crypto_header(CRYPTO_IN, n % 64 * 8, 0, [n, 0, 0, 0]);
                guest.rings[full].add(&read, 4097)
            })
            .collect();
        guest.rings[full].kick();
        let returned = |guest: &Guest| u64::from(guest.rings[full].used_index().wrapping_sub(start));
        let deadline = std::time::Instant::now() + ring::PATIENCE;
        // Wait until the device has taken as many as it takes.
        while returned(&guest) < 64 {
            assert!(std::time::Instant::now() < deadline, "nothing comes back");
            std::thread::yield_now();
        }
        for _ in 0..3 {
            guest.request(other, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
            guest.request(control, &Program::new(1, &key(2), 12).bytes(), 1).assert_only_status(OK);
        }
        // More requests than this are not even taken yet.
        let before = returned(&guest);
        assert!(before < FLOOD - 256, "{before} requests of the full queue came first");
        for _ in &flood {
            guest.rings[full].wait();
        }
        for buffers in &flood {
            assert_eq!(guest.rings[full].read_writable(buffers).last(), Some(&OK));
            guest.rings[full].free(buffers);
        }
    }
}

const PIECE: u32 = 3 << 20;
const PIECES: usize = 4;

/// A request of 12 MiB in queue 0, made from one piece of memory.
fn add_long(guest: &mut Guest, request_type: u32, plain: &[u8]) -> u64 {
    let memory = guest.memory.clone();
    let ring = &mut guest.rings[0];
    let header = crypto_header(request_type, 0, 0, [5, 0, 0, 0]);
    let (at, data, status) = (ring.allocate(header.len()), ring.allocate(PIECE as usize), ring.allocate(1));
    memory.write_slice(&header, GuestAddress(at)).expect("header");
    memory.write_slice(plain, GuestAddress(data)).expect("data");
    let piece = (data, PIECE, if request_type == CRYPTO_IN { WRITE } else { 0 });
    let pieces = [&[(at, header.len() as u32, 0)][..], &[piece; PIECES], &[(status, 1, WRITE)]].concat();
    ring.write_chain(ring.descriptors, |number| number, &pieces);
    ring.publish(0);
    status
}

/// During a request that keeps the engine busy for long, the worker serves its other queues.
#[test]
fn a_long_request_does_not_hold_up_other_queues() {
    let bytes = u64::from(PIECE) * PIECES as u64;
    let plain = pattern(3, PIECE as usize);
    let expected = openssl_xts(&key(1), 5, 4096, &plain.repeat(PIECES));
    for disk in [DiskKind::Memory, DiskKind::File(Aio::Sync)] {
        let mut config = Options::default().config;
        config.engine.crypto_engine = Implementation::Portable;
        let mut guest = Guest::with(Options { disk, image_bytes: 2 * bytes, ..one_worker(config) });
        let memory = guest.memory.clone();
        program(&mut guest);
        for request_type in [CRYPTO_OUT, CRYPTO_IN] {
            let status = add_long(&mut guest, request_type, &plain);
            let used = guest.rings[0].used_index();
            let short = guest.rings[1].add(&header(IN, 0), 513);
            guest.rings[0].kick();
            guest.rings[1].kick();
            assert_eq!(guest.rings[1].wait().0, short.head);
            assert_eq!(guest.rings[0].used_index(), used, "{disk:?}: it was served first");
            guest.rings[1].free(&short);
            let answer = guest.rings[0].wait();
            let read = u32::from(request_type == CRYPTO_IN) * bytes as u32;
            assert_eq!(answer, (0, read + 1), "{disk:?}");
            assert_eq!(memory.read_obj::<u8>(GuestAddress(status)).expect("status"), OK);
            if disk != DiskKind::Memory {
                assert!(guest.image_bytes(0, bytes as usize) == expected, "{disk:?}");
            }
        }
        // Read in smaller requests.
        for piece in 0..2 * PIECES as u64 {
            let len = PIECE as usize / 2;
            let dun = 5 + piece * (len as u64 / 4096);
            let sector = piece * (len as u64 / 512);
            let answer = guest.request(1, &crypto_header(CRYPTO_IN, sector, 0, [dun, 0, 0, 0]), len + 1);
            assert!(answer.data == plain[piece as usize % 2 * len..][..len], "{disk:?}, piece {piece}");
        }
    }
}

/// It gives way again and again, not only before it begins.
#[test]
fn a_long_request_gives_way_in_its_middle() {
    let mut config = Options::default().config;
    config.engine.crypto_engine = Implementation::Portable;
    let bytes = u64::from(PIECE) * PIECES as u64;
    let disk = DiskKind::File(Aio::Sync);
    let mut guest = Guest::with(Options { disk, image_bytes: 2 * bytes, ..one_worker(config) });
    program(&mut guest);
    // On a busy machine this test may be late. A device that gives way only at the beginning fails each time.
    let in_the_middle = (0..10).any(|round| {
        guest.request(1, &write_request(2 << 11, &[0; 4096]), 1);
        let used = guest.rings[0].used_index();
        add_long(&mut guest, CRYPTO_OUT, &pattern(3 + round, PIECE as usize));
        guest.rings[0].kick();
        let deadline = std::time::Instant::now() + ring::PATIENCE;
        while guest.image_bytes(2 << 20, 4096) == [0; 4096] {
            assert!(std::time::Instant::now() < deadline, "it does not begin");
            std::thread::yield_now();
        }
        assert_eq!(guest.request(1, &header(IN, 0), 513).status, OK);
        let before_its_end = guest.rings[0].used_index() == used;
        assert_eq!(guest.rings[0].wait(), (0, 1));
        before_its_end
    });
    assert!(in_the_middle, "it was served to its end first");
}
