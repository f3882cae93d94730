// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests with digests that are wrong, too large, or change while they are served.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::digested::{Digested, program, with_digests};
use common::*;
use test_driver::WRITE;
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::disk::Aio;
use vhost_user_blk_crypto::vhost::WorkerConfig;
use vm_memory::{Bytes, GuestAddress};

const UNIT: usize = 4096;
const ALL_DISKS: [DiskKind; 4] =
    [DiskKind::File(Aio::Sync), DiskKind::Direct(Aio::Threads), DiskKind::Tmpfs, DiskKind::Memory];

/// Asserts that the device has done nothing of a request.
fn assert_refused(guest: &mut Guest, request: &Digested, data: usize, array: usize, status: u8) {
    let what = format!("{request:?}, {data} bytes, array of {array}");
    let before = guest.request(0, &header(IN, 0), 64 * UNIT + 1).data;
    let written = request.write(guest, 0, &pattern(9, data), array);
    assert_eq!(written.status, status, "{what}");
    written.assert_only_status(status);
    assert!(guest.request(0, &header(IN, 0), 64 * UNIT + 1).data == before, "{what}");
    let read = request.read(guest, 1, data, array);
    assert_eq!(read.status, status, "{what}");
    read.assert_only_status(status);
}

#[test]
fn arrays_of_the_wrong_length() {
    for disk in ALL_DISKS {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        guest.request(0, &write_request(0, &pattern(3, 64 * UNIT)), 1).assert_only_status(OK);
        for (algorithm, size) in DIGESTS {
            let request = Digested { sector: 0, slot: 0, algorithm, dun: 0 };
            for units in [1, 2, 5] {
                let right = units * size;
                for array in [0, 1, size, right - 1, right + 1, right - size, right + size, 2 * right, 5000] {
                    if array != right {
                        assert_refused(&mut guest, &request, units * UNIT, array, IOERR);
                    }
                }
                for len in [units * UNIT - 512, units * UNIT + 512, units * UNIT - 1, 0] {
                    assert_refused(&mut guest, &request, len, right, IOERR);
                }
            }
            assert_refused(&mut guest, &request, 0, 0, IOERR);
            // The device still works.
            assert_eq!(request.write(&mut guest, 0, &pattern(3, UNIT), size).status, OK);
            guest.request(0, &write_request(0, &pattern(3, UNIT)), 1).assert_only_status(OK);
        }
        let counted =
            ["crc32c", "xxhash64", "sha256", "blake2b_256"].map(|name| guest.stat(&format!("digests.{name}")));
        assert_eq!(counted, [1; 4]);
    }
}

#[test]
fn what_is_not_offered_or_unknown() {
    let mut guest = Guest::with(with_digests(&[DigestAlgorithm::Sha256]));
    program(&mut guest, 0, &key(1), 12);
    for algorithm in (1..=255).filter(|algorithm| *algorithm != SHA256) {
        let size = DIGESTS.iter().find(|(known, _)| *known == algorithm).map_or(4, |(_, size)| *size);
        let request = Digested { sector: 0, slot: 0, algorithm, dun: 0 };
        assert_refused(&mut guest, &request, UNIT, size, UNSUPP);
    }
    // Flags and reserved bytes; a key is not for a device with slots.
    for extensions in [[SHA256, 2, 0, 0], [SHA256, 0x80, 0, 0], [SHA256, 0, 1, 0], [SHA256, 0, 0, 1], [SHA256, 1, 0, 0]]
    {
        let bytes = extended_header(CRYPTO_OUT_EXT, 0, NO_SLOT, extensions, [0; 4]);
        let key = &Program::new(NO_SLOT, &key(1), 12).bytes()[16..];
        guest.request(0, &[&bytes, key, &pattern(1, UNIT)].concat(), 33).assert_only_status(UNSUPP);
    }
    // The draft's request types have none, whatever the bytes are.
    let bytes = extended_header(CRYPTO_OUT, 0, 0, [SHA256, 0, 0, 0], [0; 4]);
    let answer = guest.request(0, &[bytes, pattern(1, UNIT)].concat(), 33);
    answer.assert_only_status(OK);
    let mut none = Guest::with(with_digests(&[]));
    program(&mut none, 0, &key(1), 12);
    for (algorithm, size) in DIGESTS {
        assert_refused(&mut none, &Digested { sector: 0, slot: 0, algorithm, dun: 0 }, UNIT, size, UNSUPP);
    }
}

#[test]
fn places_that_are_not_there() {
    for disk in ALL_DISKS {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        let end = guest.capacity() / 512;
        for (algorithm, size) in DIGESTS {
            let at = |sector| Digested { sector, slot: 0, algorithm, dun: 0 };
            // Data that ends where the disk does, though data and digests together would not fit.
            for units in [1, 3] {
                let last = at(end - 8 * units as u64);
                let plain = pattern(4, units * UNIT);
                let sums = digests(algorithm, UNIT, &openssl_xts(&key(1), 0, UNIT, &plain));
                assert!(last.write(&mut guest, 0, &plain, units * size).data == sums);
                assert!(last.read(&mut guest, 0, units * UNIT, units * size).data == [plain, sums].concat());
                assert_refused(&mut guest, &last, (units + 1) * UNIT, (units + 1) * size, IOERR);
            }
            for sector in [end, end + 1, u64::MAX, u64::MAX / 512, 1 << 55] {
                assert_refused(&mut guest, &at(sector), UNIT, size, IOERR);
            }
            let numbers = Digested { sector: 0, slot: 0, algorithm, dun: u64::MAX };
            assert_refused(&mut guest, &numbers, 2 * UNIT, 2 * size, IOERR);
            assert_refused(&mut guest, &Digested { slot: 1, ..at(0) }, UNIT, size, NOKEY);
            assert_refused(&mut guest, &Digested { slot: 99, ..at(0) }, UNIT, size, IOERR);
        }
    }
}

/// A worker has memory for the digests of a few long requests. The others wait, and all complete. One request may ask
/// for 1 MiB.
#[test]
fn many_digests_at_once() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::Direct(Aio::Threads), DiskKind::Memory] {
        let workers = WorkerConfig { workers: 1, ..WorkerConfig::default() };
        let mut guest = Guest::with(Options { disk, image_bytes: 40 << 20, workers, ..Options::default() });
        program(&mut guest, 0, &key(1), 9);
        let plain = pattern(1, (16 << 20) + 512);
        let expected = openssl_xts(&key(1), 0, 512, &plain);
        let sums = digests(SHA256, 512, &expected);
        // All write the same data to the same place.
        let data = MEMORY_START + (64 << 20);
        guest.memory.write_slice(&plain, GuestAddress(data)).expect("memory");
        guest.rings[0].use_buffers(MEMORY_START + (96 << 20)..MEMORY_START + (112 << 20));
        let request = Digested { sector: 0, slot: 0, algorithm: SHA256, dun: 0 };
        let send = |guest: &mut Guest, len: usize| {
            let array = len / 512 * 32;
            let ring = &mut guest.rings[0];
            let (header, room) = (ring.allocate(56), ring.allocate(array + 1));
            guest.memory.write_slice(&request.header(CRYPTO_OUT_EXT), GuestAddress(header)).expect("memory");
            guest.memory.write_slice(&vec![FILL; array + 1], GuestAddress(room)).expect("memory");
            ring.add_pieces(&[(header, 56, 0), (data, len as u32, 0), (room, array as u32 + 1, WRITE)], false)
        };
        let lengths: Vec<usize> = (0..12).map(|n| [8 << 20, 4 << 20, 512, 10 << 20][n % 4]).collect();
        let sent: Vec<_> = lengths.iter().map(|&len| send(&mut guest, len)).collect();
        guest.rings[0].kick();
        sent.iter().for_each(|_| assert_eq!(guest.rings[0].wait().1 % 32, 1));
        for (buffers, len) in sent.iter().zip(&lengths) {
            let answer = Answer::new(0, guest.rings[0].read_writable(buffers));
            assert!(answer.status == OK && answer.data == sums[..len / 512 * 32], "{disk:?} {len}");
            guest.rings[0].free(buffers);
        }
        for (len, status) in [(16 << 20, OK), ((16 << 20) + 512, IOERR), (512, OK)] {
            let buffers = send(&mut guest, len);
            guest.rings[0].kick();
            let (_, used) = guest.rings[0].wait();
            let answer = guest.rings[0].answer(used, &buffers);
            if status == OK {
                assert!(answer.status == OK && answer.data == sums[..len / 512 * 32], "{disk:?} {len}");
            } else {
                answer.assert_only_status(status);
            }
        }
        assert!(guest.request(1, &header(IN, 0), 513).data == expected[..512]);
    }
}

/// The room for digests overlaps the data or other digests. The device has read all data by then.
#[test]
fn memory_that_overlaps() {
    for disk in ALL_DISKS {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        let plain = pattern(1, 4 * UNIT);
        let expected = openssl_xts(&key(1), 0, UNIT, &plain);
        let data = MEMORY_START + (64 << 20);
        for (algorithm, size) in DIGESTS {
            let (request, sums) =
                (Digested { sector: 0, slot: 0, algorithm, dun: 0 }, digests(algorithm, UNIT, &expected));
            let array = 4 * size as u32;
            for over in [0, 100, UNIT as u64 - 2, 3 * UNIT as u64, 4 * UNIT as u64 - 3] {
                guest.memory.write_slice(&plain, GuestAddress(data)).expect("memory");
                let header = guest.rings[0].allocate(57);
                guest.memory.write_slice(&request.header(CRYPTO_OUT_EXT), GuestAddress(header)).expect("memory");
                let pieces =
                    [(header, 56, 0), (data, 4 * UNIT as u32, 0), (data + over, array, WRITE), (header + 56, 1, WRITE)];
                let buffers = guest.rings[0].add_pieces(&pieces, false);
                guest.rings[0].kick();
                assert_eq!(guest.rings[0].wait(), (buffers.head, array + 1));
                let answer = guest.rings[0].answer(array + 1, &buffers);
                assert!(answer.status == OK && answer.data == sums, "{disk:?} {algorithm} {over}");
                let there = guest.request(1, &common::header(IN, 0), 4 * UNIT + 1);
                assert!(there.data == expected, "{disk:?} {algorithm} {over}");
                // A read whose digests overlap its data and each other.
                guest.memory.write_slice(&request.header(CRYPTO_IN_EXT), GuestAddress(header)).expect("memory");
                let pieces = [
                    (header, 56, 0),
                    (data, 4 * UNIT as u32, WRITE),
                    (data + over, array / 2, WRITE),
                    (data + over, array / 2, WRITE),
                    (header + 56, 1, WRITE),
                ];
                let buffers = guest.rings[0].add_pieces(&pieces, false);
                guest.rings[0].kick();
                let (_, used) = guest.rings[0].wait();
                let answer = guest.rings[0].answer(used, &buffers);
                assert_eq!((answer.status, used), (OK, 4 * UNIT as u32 + array + 1));
                let (over, half) = (over as usize, sums.len() / 2);
                let mut expected = [plain.clone(), vec![0; half]].concat();
                expected[over..over + half].copy_from_slice(&sums[half..]);
                let all = 4 * UNIT;
                assert!(answer.data[..all] == expected[..all], "{disk:?} {algorithm} {over}");
            }
        }
    }
}

/// If the guest changes the data while the device encrypts it, the digests are those of the ciphertext on the image.
#[test]
fn data_that_changes_meanwhile() {
    for disk in ALL_DISKS {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        let data = MEMORY_START + (64 << 20);
        let (stop, memory) = (AtomicBool::new(false), guest.memory.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(1);
                while !stop.load(Ordering::Relaxed) {
                    let at = data + random.next() % (16 * UNIT as u64 - 8);
                    memory.write_obj(random.next(), GuestAddress(at)).expect("memory");
                }
            });
            for round in 0..150u64 {
                let (algorithm, size) = DIGESTS[round as usize % 4];
                let request = Digested { sector: 0, slot: 0, algorithm, dun: round };
                let (header, array) = (guest.rings[0].allocate(56), 16 * size as u32);
                guest.memory.write_slice(&request.header(CRYPTO_OUT_EXT), GuestAddress(header)).expect("memory");
                let room = guest.rings[0].allocate(array as usize + 1);
                let pieces = [(header, 56, 0), (data, 16 * UNIT as u32, 0), (room, array + 1, WRITE)];
                let buffers = guest.rings[0].add_pieces(&pieces, false);
                guest.rings[0].kick();
                let (_, used) = guest.rings[0].wait();
                let answer = guest.rings[0].answer(used, &buffers);
                let there = guest.request(1, &common::header(IN, 0), 16 * UNIT + 1).data;
                assert!(answer.status == OK && answer.data == digests(algorithm, UNIT, &there), "{disk:?} {round}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// Another queue overwrites data during a read. Digest and data are of the same bytes, old or new.
#[test]
fn images_that_change_meanwhile() {
    for disk in ALL_DISKS {
        let mut guest = Guest::with(Options { disk, ring_size: 256, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        let versions: Vec<_> = (0..2).map(|seed| pattern(seed, 8 * UNIT)).collect();
        guest.request(0, &crypto_write(0, 0, [0; 4], &versions[0]), 1).assert_only_status(OK);
        for round in 0..60usize {
            let (algorithm, size) = DIGESTS[round % 4];
            let request = Digested { sector: 0, slot: 0, algorithm, dun: 0 };
            let writes: Vec<_> = (0..6)
                .map(|n| guest.rings[1].add(&crypto_write(0, 0, [0; 4], &versions[(round + n) % 2]), 1))
                .collect();
            let room = 8 * (UNIT + size);
            let reads: Vec<_> = (0..6).map(|_| guest.rings[0].add(&request.header(CRYPTO_IN_EXT), room + 1)).collect();
            guest.rings[1].kick();
            guest.rings[0].kick();
            reads.iter().for_each(|_| assert_eq!(guest.rings[0].wait().1, room as u32 + 1));
            writes.iter().for_each(|_| assert_eq!(guest.rings[1].wait().1, 1));
            for buffers in &reads {
                let answer = guest.rings[0].answer(0, buffers);
                let (data, sums) = answer.data.split_at(8 * UNIT);
                let ciphertext = openssl_xts(&key(1), 0, UNIT, data);
                assert!(answer.status == OK && sums == digests(algorithm, UNIT, &ciphertext), "{disk:?} {round}");
            }
            writes.iter().for_each(|buffers| guest.rings[1].free(buffers));
        }
    }
}

/// The image shrinks below a request that is served in place.
#[test]
fn an_image_that_is_cut_off() {
    const LEN: usize = 32 * UNIT;
    let request = Digested { sector: 0, slot: 0, algorithm: 3, dun: 9 };
    let array = 32 * 32;
    let plain = pattern(4, LEN);
    let expected = openssl_xts(&key(1), 9, UNIT, &plain);
    for write in [false, true] {
        let mut guest = Guest::with(Options { disk: DiskKind::Tmpfs, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        (0..3).for_each(|_| assert_eq!(request.write(&mut guest, 0, &plain, array).status, OK));
        assert!(request.read(&mut guest, 0, LEN, array).data[..LEN] == plain);
        let image = std::fs::File::options().write(true).open(guest.image_path()).expect("image");
        image.set_len(UNIT as u64).expect("cut off");
        if write {
            assert_eq!(request.write(&mut guest, 0, &plain, array).status, OK);
            assert!(guest.image_bytes(0, LEN) == expected, "nothing is lost");
        } else {
            assert_eq!(request.read(&mut guest, 0, LEN, array).status, IOERR, "what is not there has no digest");
        }
    }
}
