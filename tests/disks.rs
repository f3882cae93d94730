// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One suite for every way to the disk: cached and direct files by in place, by system calls, io_uring and threads, and memory.

mod common;

use std::time::Duration;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vhost::VhostBackend;
use vhost_user_blk_crypto::disk::Aio;

const KINDS: [DiskKind; 8] = [
    DiskKind::File(Aio::Sync),
    DiskKind::File(Aio::IoUring),
    DiskKind::File(Aio::Threads),
    DiskKind::Direct(Aio::Sync),
    DiskKind::Direct(Aio::IoUring),
    DiskKind::Direct(Aio::Threads),
    DiskKind::Tmpfs,
    DiskKind::Memory,
];

const DISK: u64 = 8 << 20;

fn options(disk: DiskKind) -> Options {
    Options { disk, image_bytes: DISK, ring_size: 256, ..Options::default() }
}

fn key() -> [u8; 64] {
    std::array::from_fn(|i| i as u8 ^ 0x5a)
}

fn program(guest: &mut Guest, slot: u32, bits: u32) {
    let control = guest.control();
    guest.request(control, &Program::new(slot, &key(), bits).bytes(), 1).assert_only_status(OK);
}

/// Makes all requests available on a queue before it notifies the device, waits for all, and returns the answers in
/// order.
fn all_at_once(guest: &mut Guest, queue: usize, requests: &[(Vec<u8>, usize)]) -> Vec<Answer> {
    let ring = &mut guest.rings[queue];
    let buffers: Vec<_> = requests.iter().map(|(readable, writable)| ring.add(readable, *writable)).collect();
    ring.kick();
    let mut used: Vec<Option<u32>> = vec![None; buffers.len()];
    for _ in 0..buffers.len() {
        let (head, written) = ring.wait();
        let place = buffers.iter().position(|buffers| buffers.head == head).expect("a head of ours");
        assert!(used[place].replace(written).is_none(), "head {head} came back twice");
    }
    buffers.iter().zip(used).map(|(buffers, used)| ring.answer(used.expect("used"), buffers)).collect()
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Write,
    Read,
    CryptoWrite,
    CryptoRead,
    Zero,
}

/// Operations on whole 4096-byte blocks, up to 700 KiB each.
fn ops() -> impl Strategy<Value = Vec<(Op, u64, u64, u64)>> {
    let op = prop_oneof![
        3 => Just(Op::Write), 3 => Just(Op::Read), 3 => Just(Op::CryptoWrite), 3 => Just(Op::CryptoRead), 1 => Just(Op::Zero),
    ];
    let blocks = prop_oneof![8 => 1u64..4, 3 => 4u64..64, 1 => 64u64..175];
    prop::collection::vec((op, 0u64..512, blocks, any::<u64>()), 1..40)
}

/// Random writes and reads, in batches of requests that do not overlap. The guest reads the content of a plain array;
/// the ciphertext is OpenSSL's.
#[test]
fn data_is_right_on_every_disk() {
    for (number, kind) in KINDS.into_iter().enumerate() {
        let mut options = options(kind);
        options.workers.poll = Duration::from_micros(if number % 2 == 0 { 0 } else { 100 });
        let mut guest = Guest::with(options);
        program(&mut guest, 1, 12);
        let mut model = vec![0u8; DISK as usize];
        let mut runner = TestRunner::new(Config { cases: 25, failure_persistence: None, ..Config::default() });
        let guest = std::cell::RefCell::new(guest);
        let model_cell = std::cell::RefCell::new(&mut model);
        runner
            .run(&ops(), |ops| {
                let (mut guest, mut model) = (guest.borrow_mut(), model_cell.borrow_mut());
                let mut batch: Vec<(Vec<u8>, usize)> = Vec::new();
                let mut expect: Vec<Option<Vec<u8>>> = Vec::new();
                let mut touched: Vec<(u64, u64)> = Vec::new();
                let flush =
                    |guest: &mut Guest, batch: &mut Vec<(Vec<u8>, usize)>, expect: &mut Vec<Option<Vec<u8>>>| {
                        for (answer, expected) in all_at_once(guest, 0, batch).into_iter().zip(expect.drain(..)) {
                            assert_eq!(answer.status, OK, "{kind:?}");
                            if let Some(expected) = expected {
                                assert!(answer.data == expected, "{kind:?}: wrong data");
                            }
                        }
                        batch.clear();
                    };
                for (op, block, blocks, seed) in ops {
                    let blocks = blocks.min(DISK / 4096 - block);
                    let (at, len) = ((block * 4096) as usize, (blocks * 4096) as usize);
                    let in_batch: u64 = touched.iter().map(|&(_, count)| count).sum();
                    let overlaps = |&(from, count): &(u64, u64)| block < from + count && from < block + blocks;
                    // The test's guest memory for buffers is limited.
                    if in_batch > 1500 || touched.iter().any(overlaps) {
                        flush(&mut guest, &mut batch, &mut expect);
                        touched.clear();
                    }
                    touched.push((block, blocks));
                    let (sector, dun) = (block * 8, [seed, 0, 0, 0]);
                    match op {
                        Op::Write => {
                            let data = pattern(seed, len);
                            model[at..at + len].copy_from_slice(&data);
                            batch.push((write_request(sector, &data), 1));
                            expect.push(None);
                        }
                        Op::CryptoWrite => {
                            let data = pattern(seed, len);
                            model[at..at + len].copy_from_slice(&openssl_xts(&key(), seed.into(), 4096, &data));
                            batch.push((crypto_write(sector, 1, dun, &data), 1));
                            expect.push(None);
                        }
                        Op::Read => {
                            batch.push((header(IN, sector), len + 1));
                            expect.push(Some(model[at..at + len].to_vec()));
                        }
                        Op::CryptoRead => {
                            batch.push((crypto_header(CRYPTO_IN, sector, 1, dun), len + 1));
                            expect.push(Some(openssl_xts_decrypt(&key(), seed.into(), 4096, &model[at..at + len])));
                        }
                        Op::Zero => {
                            model[at..at + len].fill(0);
                            batch.push(([header(WRITE_ZEROES, 0), range(sector, blocks as u32 * 8, 1)].concat(), 1));
                            expect.push(None);
                        }
                    }
                }
                flush(&mut guest, &mut batch, &mut expect);
                let flushed = guest.request(1, &header(FLUSH, 0), 1);
                flushed.assert_only_status(OK);
                Ok(())
            })
            .expect("runs");
        if kind != DiskKind::Memory {
            assert!(guest.borrow().image_bytes(0, DISK as usize) == model, "{kind:?}: the image is not the model");
        }
    }
}

/// More requests at once than a worker has buffers, of sizes that need one and several steps.
#[test]
fn more_requests_than_buffers() {
    for kind in KINDS {
        let mut guest = Guest::with(options(kind));
        program(&mut guest, 0, 9);
        let data = pattern(1, 4096);
        let writes: Vec<_> = (0..100u64).map(|n| (crypto_write(n * 8, 0, [n * 8, 0, 0, 0], &data), 1)).collect();
        let reads: Vec<_> = (0..100u64).map(|n| (crypto_header(CRYPTO_IN, n * 8, 0, [n * 8, 0, 0, 0]), 4097)).collect();
        for _ in 0..3 {
            assert!(all_at_once(&mut guest, 0, &writes).iter().all(|answer| answer.status == OK));
            let answers = all_at_once(&mut guest, 1, &reads);
            assert!(answers.iter().all(|answer| answer.status == OK && answer.data == data), "{kind:?}");
        }
        let large = pattern(2, 1 << 20);
        let write = crypto_write(0, 0, [77, 0, 0, 0], &large);
        guest.request(0, &write, 1).assert_only_status(OK);
        let read = guest.request(0, &crypto_header(CRYPTO_IN, 0, 0, [77, 0, 0, 0]), (1 << 20) + 1);
        assert!(read.status == OK && read.data == large, "{kind:?}");
        let ciphertext = guest.request(0, &header(IN, 0), (1 << 20) + 1);
        assert!(ciphertext.data == openssl_xts(&key(), 77, 512, &large), "{kind:?}");
    }
}

/// An image grows while requests are in flight. All queues see the new size at once, and every way to the disk reaches
/// the new part, also in a request that begins in the old one.
#[test]
fn a_larger_image() {
    for kind in KINDS {
        let mut guest = Guest::with(options(kind));
        program(&mut guest, 1, 12);
        let plain = pattern(1, 1 << 20);
        let cipher = openssl_xts(&key(), 7, 4096, &plain);
        let mut bytes = DISK;
        for round in 0..12u64 {
            let (before, half) = (bytes, plain.len() as u64 / 2);
            // Growth beyond the room of the mapping, and within it.
            bytes += if round % 3 == 0 { 4096 * 129 } else { 4 << 20 };
            let across = (before - half) / 512;
            let write = crypto_write(across, 1, [7, 0, 0, 0], &plain);
            guest.request(0, &write, 1).assert_only_status(IOERR);
            let old = (0..20).map(|n| (write_request(n * 8, &pattern(round * 20 + n, 4096)), 1)).collect::<Vec<_>>();
            let in_flight: Vec<_> = old.iter().map(|(write, _)| guest.rings[0].add(write, 1)).collect();
            guest.rings[0].kick();
            let wanted = if round % 2 == 0 || kind == DiskKind::Memory {
                Some(bytes)
            } else {
                std::fs::File::options()
                    .write(true)
                    .open(guest.image_path())
                    .expect("image")
                    .set_len(bytes)
                    .expect("size");
                None
            };
            let resized = guest.device.resize(wanted).expect("resized");
            assert_eq!((resized.before, resized.bytes), (before, bytes));
            for buffers in &in_flight {
                guest.rings[0].wait();
                guest.rings[0].free(buffers);
            }
            assert!(in_flight.iter().all(|it| guest.rings[0].read_writable(it) == [OK]), "{kind:?}");
            assert_eq!(guest.capacity(), bytes);
            let last = bytes / 512 - 8;
            for queue in [1, 0] {
                // The new part is zero.
                let read = guest.request(queue, &header(IN, last), 4097);
                assert!(read.status == OK && read.data == [0; 4096], "{kind:?}");
                guest.request(queue, &header(IN, last), 4609).assert_only_status(IOERR);
                guest.request(queue, &write, 1).assert_only_status(OK);
                let read = guest.request(queue, &crypto_header(CRYPTO_IN, across, 1, [7, 0, 0, 0]), plain.len() + 1);
                assert!(read.status == OK && read.data == plain, "{kind:?}");
                let read = guest.request(queue, &header(IN, across), plain.len() + 1);
                assert!(read.status == OK && read.data == cipher, "{kind:?}");
                guest.request(queue, &header(FLUSH, 0), 1).assert_only_status(OK);
            }
            if kind != DiskKind::Memory {
                assert!(guest.image_bytes(across * 512, plain.len()) == cipher, "{kind:?}");
            }
            guest.request(1, &write_request(last, &[1; 4096]), 1).assert_only_status(OK);
            for (kind, flag) in [(WRITE_ZEROES, 0), (DISCARD, 0)] {
                guest.request(1, &[header(kind, 0), range(last, 8, flag)].concat(), 1).assert_only_status(OK);
                guest.request(0, &[header(kind, 0), range(last + 1, 8, flag)].concat(), 1).assert_only_status(IOERR);
            }
        }
        guest.disconnect();
        guest.connect();
        guest.start();
        assert_eq!(guest.capacity(), bytes, "{kind:?}");
        let read = guest.request(0, &header(IN, 0), 4097);
        assert!(read.data == pattern(11 * 20, 4096), "{kind:?}");
    }
}

/// A truncated image: requests to the missing part get IOERR and no data of other requests. The rest still works.
#[test]
fn a_truncated_image_gives_errors() {
    for kind in KINDS.into_iter().filter(|kind| *kind != DiskKind::Memory) {
        let mut guest = Guest::with(options(kind));
        program(&mut guest, 0, 12);
        let image = std::fs::File::options().write(true).open(guest.image_path()).expect("image");
        image.set_len(1 << 20).expect("truncated");
        for request in [header(IN, 4096), crypto_header(CRYPTO_IN, 4096, 0, [0; 4])] {
            let answer = guest.request(0, &request, 8193);
            assert_eq!((answer.status, answer.used), (IOERR, 1), "{kind:?}");
        }
        // A read that crosses the end.
        let answer = guest.request(0, &header(IN, 2040), 8193);
        assert_eq!((answer.status, answer.used), (IOERR, 1), "{kind:?}");
        let data = pattern(3, 4096);
        guest.request(0, &crypto_write(0, 0, [0; 4], &data), 1).assert_only_status(OK);
        let read = guest.request(0, &crypto_header(CRYPTO_IN, 0, 0, [0; 4]), 4097);
        assert!(read.status == OK && read.data == data);
    }
}

/// Without VIRTIO_BLK_F_MQ the control virtqueue is the second queue, and one worker serves both. A program command
/// waits for that worker's own requests with the key, and not for ever.
#[test]
fn keys_change_between_requests_of_the_same_worker() {
    for kind in KINDS {
        let mut options = options(kind);
        options.accept = !feature::MQ;
        options.queues = 1;
        options.workers.workers = 1;
        let mut guest = Guest::with(options);
        assert_eq!(guest.control(), 1);
        program(&mut guest, 0, 12);
        let data = pattern(4, 32 << 10);
        for round in 0..20u64 {
            let buffers: Vec<_> = (0..30u64)
                .map(|n| {
                    let write = crypto_write(n * 64, 0, [round * 1000 + n, 0, 0, 0], &data);
                    guest.rings[0].add(&write, 1)
                })
                .collect();
            let command = Program::new(0, &key(), 12).bytes();
            let command = guest.rings[1].add(&command, 1);
            guest.rings[0].kick();
            guest.rings[1].kick();
            let ring = &mut guest.rings[1];
            ring.wait();
            assert_eq!(ring.read_writable(&command), [OK]);
            ring.free(&command);
            let ring = &mut guest.rings[0];
            for _ in &buffers {
                ring.wait();
            }
            for buffers in &buffers {
                assert_eq!(ring.read_writable(buffers), [OK], "{kind:?}");
                ring.free(buffers);
            }
        }
        let read = guest.request(0, &header(IN, 0), data.len() + 1);
        assert!(read.data == openssl_xts(&key(), 19_000, 4096, &data), "{kind:?}");
    }
}

/// The frontend stops a queue with requests in flight. When it gets the reply, all heads that were taken are returned.
#[test]
fn stopping_waits_for_the_disk() {
    for kind in KINDS {
        let mut guest = Guest::with(options(kind));
        let data = pattern(5, 64 << 10);
        for _ in 0..10 {
            let count = 40u16;
            for n in 0..u64::from(count) {
                let write = write_request(n * 128, &data);
                guest.rings[0].add(&write, 1);
            }
            guest.rings[0].kick();
            let next_avail = guest.frontend().get_vring_base(0).expect("GET_VRING_BASE") as u16;
            assert_eq!(guest.rings[0].used_index(), next_avail, "{kind:?}");
            guest.restart();
        }
        // Nothing was taken from a queue that had stopped.
        assert_eq!(guest.stat("events.broken_queue"), 0, "{kind:?}");
        guest.request(0, &write_request(0, &data), 1).assert_only_status(OK);
    }
}

/// Plain data goes to and from many pieces of guest memory, also where the image is written in place.
#[test]
fn plain_data_in_pieces() {
    let plain = pattern(7, 128 << 10);
    let cut = Cut { readable: vec![16, 512, 1, 12000, 4096], writable: vec![1, 4095, 70], ..Cut::default() };
    for kind in KINDS {
        let mut guest = Guest::with(options(kind));
        // Other data in the buffers.
        guest.request(0, &write_request(1024, &pattern(8, 128 << 10)), 1).assert_only_status(OK);
        for _ in 0..4 {
            guest.request_cut(0, &write_request(0, &plain), 1, &cut).assert_only_status(OK);
            let read = guest.request_cut(1, &header(IN, 0), plain.len() + 1, &cut);
            assert!(read.data == plain, "{kind:?}");
        }
    }
}
