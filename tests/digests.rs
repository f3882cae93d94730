// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Digests of the ciphertext. The layout is written from the protocol's text. The ciphertext is OpenSSL's, and the
//! digests come from other crates than the device's.

mod common;

use common::digested::{Digested, program, with_digests};
use common::*;
use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::disk::Aio;
use vhost_user_blk_crypto::engine::EngineConfig;

const UNIT: usize = 4096;

/// Checks the reference with values of RFC 3720, the xxHash specification, FIPS 180-4 and RFC 7693's reference code.
#[test]
fn the_reference_has_published_values() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(digests(CRC32C, 32, &[0; 32])), "aa36918a");
    assert_eq!(hex(digests(XXHASH64, 3, b"abc")), "990977adf52cbc44");
    let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex(digests(SHA256, 3, b"abc")), sha);
    let blake = "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319";
    assert_eq!(hex(digests(BLAKE2B_256, 3, b"abc")), blake);
}

/// Every algorithm, every way to the disk, several data unit sizes, with plain requests and the draft's requests among
/// them.
#[test]
fn digests_are_of_the_bytes_on_the_image() {
    for disk in [
        DiskKind::File(Aio::Sync),
        DiskKind::File(Aio::Threads),
        DiskKind::Direct(Aio::IoUring),
        DiskKind::Tmpfs,
        DiskKind::Memory,
    ] {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        for unit_bits in [9, 12, 16] {
            let (unit, raw) = (1usize << unit_bits, key(unit_bits.into()));
            program(&mut guest, 1, &raw, unit_bits);
            for (algorithm, size) in DIGESTS {
                // The second time, an image in memory has the pages and is used in place.
                for units in [1, 2, 13, 1, 2, 13] {
                    let (dun, plain) = (u64::from(algorithm) << 30, pattern(units as u64, units * unit));
                    let request = Digested { sector: 128, slot: 1, algorithm, dun };
                    let expected = openssl_xts(&raw, dun.into(), unit, &plain);
                    let sums = digests(algorithm, unit, &expected);
                    let written = request.write(&mut guest, 0, &plain, units * size);
                    assert_eq!((written.status, written.used), (OK, (units * size) as u32 + 1), "{disk:?}");
                    assert!(written.data == sums, "{disk:?} {algorithm} {unit_bits} {units}");
                    let there = guest.request(0, &header(IN, 128), plain.len() + 1);
                    assert!(there.data == expected, "{disk:?} {algorithm} {unit_bits} {units}");
                    let read = request.read(&mut guest, 1, plain.len(), units * size);
                    assert_eq!((read.status, read.used), (OK, (plain.len() + units * size) as u32 + 1));
                    assert!(read.data == [plain.clone(), sums].concat(), "{disk:?} {algorithm} {unit_bits} {units}");
                    // The ciphertext is the same without digests.
                    let draft = guest.request(0, &crypto_header(CRYPTO_IN, 128, 1, [dun, 0, 0, 0]), plain.len() + 1);
                    assert!(draft.data == plain);
                }
            }
        }
        let units = 2 * 3 * 2 * (1 + 2 + 13);
        for counter in ["crc32c", "xxhash64", "sha256", "blake2b_256"] {
            assert_eq!(guest.stat(&format!("digests.{counter}")), units);
        }
        assert_eq!(guest.stat("data_units.encrypted"), 4 * units / 2);
    }
}

/// Any division into descriptors.
#[test]
fn any_cut() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::Direct(Aio::Threads), DiskKind::Memory] {
        any_cut_on(disk);
    }
}

fn any_cut_on(disk: DiskKind) {
    let mut guest = Guest::with(Options { ring_size: 256, disk, ..Options::default() });
    program(&mut guest, 0, &key(1), 9);
    let plain = pattern(1, 2 * 512);
    let expected = openssl_xts(&key(1), 9, 512, &plain);
    for (algorithm, size) in DIGESTS {
        let (request, sums) = (Digested { sector: 4, slot: 0, algorithm, dun: 9 }, digests(algorithm, 512, &expected));
        for at in 1..2 * size + 1 {
            for cut in [vec![at], vec![1; at], vec![at / 2, 1, 0]] {
                let cut = Cut { writable: cut, readable: vec![1 + at * 7], ..Cut::default() };
                let written = guest.request_cut(0, &request.write_bytes(&plain), sums.len() + 1, &cut);
                assert!((written.status, &written.data) == (OK, &sums), "{algorithm} {at}");
                assert!(guest.request(1, &header(IN, 4), 1025).data == expected);
            }
            for at in [at, 1024 - at, 1024 + at] {
                let cut = Cut { writable: vec![at, 1, 2], ..Cut::default() };
                let read = guest.request_cut(0, &request.header(CRYPTO_IN_EXT), 1024 + sums.len() + 1, &cut);
                assert!(read.status == OK && read.data == [plain.clone(), sums.clone()].concat(), "{algorithm} {at}");
            }
        }
    }
}

/// Requests of several MiB go in turns and steps; their digests come in one array.
#[test]
fn long_requests() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::Direct(Aio::Threads), DiskKind::Memory] {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        let plain = pattern(1, 5 << 20);
        let expected = openssl_xts(&key(1), 7, UNIT, &plain);
        for (algorithm, size) in DIGESTS {
            let (request, sums) =
                (Digested { sector: 8, slot: 0, algorithm, dun: 7 }, digests(algorithm, UNIT, &expected));
            assert_eq!(sums.len(), 1280 * size);
            for _ in 0..2 {
                let written = request.write(&mut guest, 0, &plain, sums.len());
                assert!((written.status, &written.data) == (OK, &sums), "{disk:?} {algorithm}");
                let read = request.read(&mut guest, 1, plain.len(), sums.len());
                assert!(
                    read.status == OK && read.data == [plain.clone(), sums.clone()].concat(),
                    "{disk:?} {algorithm}"
                );
            }
        }
    }
}

#[test]
fn keys_in_requests_have_digests() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::Direct(Aio::Threads), DiskKind::Memory] {
        let config = Options::default().config;
        let config = DeviceConfig { engine: EngineConfig { keyslots: 0, ..config.engine }, ..config };
        let mut guest = Guest::with(Options { config, disk, ..Options::default() });
        let control = guest.control();
        let offered = guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 17);
        assert_eq!(offered.data, [0x1e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for seed in 0..20 {
            for (algorithm, size) in DIGESTS {
                let plain = pattern(seed, 3 * UNIT);
                let expected = openssl_xts(&key(seed), 40, UNIT, &plain);
                let sums = digests(algorithm, UNIT, &expected);
                let mut request = KeyedRequest::new(CRYPTO_OUT_EXT, seed * 24, 40, &key(seed));
                request.extensions = [algorithm, 1, 0, 0];
                let written = guest.request(0, &[request.bytes(), plain.clone()].concat(), 3 * size + 1);
                assert!((written.status, &written.data) == (OK, &sums), "{disk:?} {algorithm}");
                assert!(guest.request(0, &header(IN, seed * 24), plain.len() + 1).data == expected);
                request.request_type = CRYPTO_IN_EXT;
                let read = guest.request(1, &request.bytes(), plain.len() + sums.len() + 1);
                assert!(read.status == OK && read.data == [plain, sums].concat(), "{disk:?} {algorithm}");
            }
        }
    }
}

#[test]
fn what_is_offered_is_told() {
    for (offered, mask) in [
        (DigestAlgorithm::ALL.to_vec(), 0x1e),
        (vec![DigestAlgorithm::Sha256], 0x08),
        (vec![DigestAlgorithm::Crc32c, DigestAlgorithm::Blake2b256], 0x12),
    ] {
        let mut guest = Guest::with(with_digests(&offered));
        let control = guest.control();
        let answer = guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 17);
        assert_eq!((answer.status, answer.used), (OK, 17));
        assert_eq!(answer.data, [mask, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 16).assert_only_status(IOERR);
    }
    let mut guest = Guest::with(with_digests(&[]));
    let control = guest.control();
    guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 17).assert_only_status(UNSUPP);
}

/// Without the features: QEMU's vhost-user-blk-pci.
#[test]
fn in_band() {
    let config = DeviceConfig { in_band: true, ..Options::default().config };
    let accept = ALL_FEATURES & !feature::CTRL_VQ & !feature::INLINE_ENCRYPTION;
    let mut guest = Guest::with(Options { config, accept, ..Options::default() });
    assert_eq!(guest.request(0, &header(GET_CRYPTO_EXTENSIONS, 0), 17).data[..4], [0x1e, 0, 0, 0]);
    guest.request(1, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
    let plain = pattern(1, UNIT);
    let sums = digests(SHA256, UNIT, &openssl_xts(&key(1), 3, UNIT, &plain));
    let request = Digested { sector: 0, slot: 0, algorithm: SHA256, dun: 3 };
    assert_eq!(request.write(&mut guest, 0, &plain, 32).data, sums);
    assert_eq!(request.read(&mut guest, 1, UNIT, 32).data[UNIT..], sums);
}

/// A lost key, a pause of the driver and write-through mode work as without digests.
#[test]
fn durable_writes_and_empty_slots() {
    let config = DeviceConfig { writeback: false, ..Options::default().config };
    let mut guest = Guest::with(Options { config, ..Options::default() });
    let plain = pattern(1, UNIT);
    let request = Digested { sector: 0, slot: 0, algorithm: CRC32C, dun: 3 };
    request.write(&mut guest, 0, &plain, 4).assert_only_status(NOKEY);
    request.read(&mut guest, 0, UNIT, 4).assert_only_status(NOKEY);
    program(&mut guest, 0, &key(1), 12);
    let flushes = guest.stat("events.flush");
    let sums = digests(CRC32C, UNIT, &openssl_xts(&key(1), 3, UNIT, &plain));
    assert_eq!(request.write(&mut guest, 0, &plain, 4).data, sums);
    assert_eq!(guest.stat("events.flush"), flushes + 1);
    guest.restart();
    request.read(&mut guest, 0, UNIT, 4).assert_only_status(NOKEY);
    program(&mut guest, 0, &key(1), 12);
    assert_eq!(request.read(&mut guest, 0, UNIT, 4).data, [plain, sums].concat());
}

/// Either the engine or its digests are broken. A file system can tell which.
#[test]
fn faults() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::Memory] {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        program(&mut guest, 0, &key(1), 12);
        let (plain, units) = (pattern(1, 6 * UNIT), 6);
        let right = openssl_xts(&key(1), 6, UNIT, &plain);
        let request = |algorithm| Digested { sector: 0, slot: 0, algorithm, dun: 6 };
        for (algorithm, size) in DIGESTS {
            let sums = digests(algorithm, UNIT, &right);
            let wrong: Vec<u8> = sums
                .chunks(size)
                .zip(6..)
                .flat_map(|(sum, number)| {
                    let mut sum = sum.to_vec();
                    sum[0] ^= u8::from(number % 4 == 0);
                    sum
                })
                .collect();
            let fault = guest.device.faults().add("wrong-digest=4,slot=0").expect("fault");
            assert!(request(algorithm).write(&mut guest, 0, &plain, units * size).data == wrong);
            assert!(guest.request(0, &header(IN, 0), plain.len() + 1).data == right, "the data is right");
            let read = request(algorithm).read(&mut guest, 0, plain.len(), units * size);
            assert!(read.status == OK && read.data == [plain.clone(), wrong].concat());
            // It strikes no request without digests.
            let struck = guest.device.faults().struck();
            let draft = guest.request(0, &crypto_header(CRYPTO_IN, 0, 0, [6, 0, 0, 0]), plain.len() + 1);
            assert!(draft.data == plain && guest.device.faults().struck() == struck);
            guest.device.faults().clear(Some(fault)).expect("fault");

            // A broken engine computes digests of the ciphertext that it has written or read.
            let fault = guest.device.faults().add("bit-flip,op=write").expect("fault");
            let written = request(algorithm).write(&mut guest, 0, &plain, units * size);
            let there = guest.request(0, &header(IN, 0), plain.len() + 1).data;
            assert!(there != right && written.data == digests(algorithm, UNIT, &there));
            guest.device.faults().clear(Some(fault)).expect("fault");
            let read = request(algorithm).read(&mut guest, 0, plain.len(), units * size);
            assert!(read.data[plain.len()..] == digests(algorithm, UNIT, &there));
            let fault = guest.device.faults().add("bit-flip,op=read").expect("fault");
            assert!(
                request(algorithm).read(&mut guest, 0, plain.len(), units * size).data[plain.len()..] == written.data
            );
            guest.device.faults().clear(Some(fault)).expect("fault");

            // Failed and short requests have no digests. A short request that claims success has those of its front.
            for (spec, status, done) in [("io-error", IOERR, 0), ("short", IOERR, 3), ("short=9000,status=ok", OK, 2)] {
                guest.request(0, &write_request(0, &vec![0; 6 * UNIT]), 1).assert_only_status(OK);
                let fault = guest.device.faults().add(&format!("{spec},op=write,slot=0,sector=47")).expect("fault");
                let written = request(algorithm).write(&mut guest, 0, &plain, units * size);
                assert_eq!(written.status, status, "{spec}");
                let (front, rest) = written.data.split_at(if status == OK { done * size } else { 0 });
                assert!(front == &sums[..front.len()] && rest.iter().all(|&byte| byte == FILL), "{spec}");
                let there = guest.request(0, &header(IN, 0), plain.len() + 1).data;
                assert!(
                    there[..done * UNIT] == right[..done * UNIT] && there[done * UNIT..].iter().all(|&byte| byte == 0)
                );
                guest.device.faults().clear(Some(fault)).expect("fault");
                guest.request(0, &write_request(0, &right), 1).assert_only_status(OK);
                // The digests that follow the data do not make it longer.
                let spec = format!("{spec},op=read,slot=0");
                let beyond = guest.device.faults().add(&format!("{spec},sector=48-99")).expect("fault");
                assert_eq!(request(algorithm).read(&mut guest, 0, plain.len(), units * size).status, OK);
                guest.device.faults().clear(Some(beyond)).expect("fault");
                let fault = guest.device.faults().add(&spec).expect("fault");
                let read = request(algorithm).read(&mut guest, 0, plain.len(), units * size);
                assert_eq!(read.status, status, "{spec}");
                let (data, array) = read.data.split_at(plain.len());
                assert!(
                    data[..done * UNIT] == plain[..done * UNIT] && data[done * UNIT..].iter().all(|&byte| byte == FILL)
                );
                let (front, rest) = array.split_at(if status == OK { done * size } else { 0 });
                assert!(front == &sums[..front.len()] && rest.iter().all(|&byte| byte == FILL), "{spec}");
                guest.device.faults().clear(Some(fault)).expect("fault");
            }
        }
    }
}
