// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys that come with requests, on a device without keyslots. The layout is written from the protocol's text; the ciphertext
//! is OpenSSL's.

mod common;

use std::time::Duration;

use common::machine::random;
use common::*;
use vhost::VhostBackend;
use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::disk::Aio;
use vhost_user_blk_crypto::engine::EngineConfig;

fn options() -> Options {
    Options { wrapped_keys: true, ..options_with_slots(0) }
}

/// An engine without digests; `tests/digests.rs` has those.
fn options_with_slots(keyslots: u16) -> Options {
    let config = Options::default().config;
    let engine = EngineConfig { keyslots, digests: Vec::new(), ..config.engine };
    Options { config: DeviceConfig { engine, ..config }, ..Options::default() }
}

trait Exchange {
    fn write(&self, guest: &mut Guest, queue: usize, data: &[u8]) -> Answer;
    fn read(&self, guest: &mut Guest, queue: usize, len: usize) -> Answer;
}

impl Exchange for KeyedRequest {
    fn write(&self, guest: &mut Guest, queue: usize, data: &[u8]) -> Answer {
        guest.request(queue, &[self.bytes(), data.to_vec()].concat(), 1)
    }

    fn read(&self, guest: &mut Guest, queue: usize, len: usize) -> Answer {
        guest.request(queue, &self.bytes(), len + 1)
    }
}

fn blob(guest: &mut Guest, request_type: u32, bytes: &[u8]) -> Vec<u8> {
    let control = guest.control();
    let answer = guest.request(control, &key_blob(request_type, bytes), 133);
    assert_eq!(answer.status, OK);
    blob_of(&answer.data)
}

#[test]
fn each_request_has_its_own_key() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::File(Aio::Threads), DiskKind::Tmpfs] {
        let mut guest = Guest::with(Options { disk, ..options() });
        assert_eq!(guest.get_config(96, 4), [0, 0, 16, 3], "no slots");
        let mut random = random(5);
        for round in 0..60 {
            let (sector, units) = (random(1000) * 8, 1 + random(12) as usize);
            let raw = key(round / 2);
            let plain = pattern(round, units * 4096);
            let request = KeyedRequest::new(CRYPTO_OUT_EXT, sector, round << 20, &raw);
            let queue = random(2) as usize;
            request.write(&mut guest, queue, &plain).assert_only_status(OK);
            let expected = openssl_xts(&raw, u128::from(round) << 20, 4096, &plain);
            assert!(guest.image_bytes(sector * 512, plain.len()) == expected, "{disk:?}");
            let back =
                KeyedRequest { request_type: CRYPTO_IN_EXT, ..request.clone() }.read(&mut guest, queue, plain.len());
            assert_eq!((back.status, back.used), (OK, plain.len() as u32 + 1));
            assert!(back.data == plain);
            // Another key gives noise. Plain requests work, too.
            let other =
                KeyedRequest { request_type: CRYPTO_IN_EXT, key: Program::new(NO_SLOT, &key(99), 12), ..request };
            let noise = other.read(&mut guest, queue, plain.len());
            assert!(noise.data == openssl_xts_decrypt(&key(99), u128::from(round) << 20, 4096, &expected));
            assert!(guest.request(0, &header(IN, sector), plain.len() + 1).data == expected);
        }
        assert_eq!(guest.stat("request_keys.requests"), 180);
        assert_eq!(guest.stat("requests.crypto_out"), 60);
        assert_eq!(guest.stat("keyslots.hits"), 0);
    }
}

/// Any division into descriptors of header, message, key and data.
#[test]
fn any_cut() {
    let mut guest = Guest::with(options());
    let plain = pattern(1, 4096);
    let request = [KeyedRequest::new(CRYPTO_OUT_EXT, 8, 3, &key(1)).bytes(), plain.clone()].concat();
    let expected = openssl_xts(&key(1), 3, 4096, &plain);
    for at in (1..230).chain([1000, 4303]) {
        guest.request(0, &write_request(8, &[0; 4096]), 1).assert_only_status(OK);
        let cut = Cut { readable: vec![at], ..Cut::default() };
        guest.request_cut(0, &request, 1, &cut).assert_only_status(OK);
        assert!(guest.image_bytes(8 * 512, 4096) == expected, "cut at {at}");
    }
}

#[test]
fn many_requests_at_once_share_and_do_not_mix() {
    for disk in [DiskKind::File(Aio::Sync), DiskKind::Direct(Aio::Threads), DiskKind::Direct(Aio::IoUring)] {
        many_requests_at_once(disk);
    }
}

fn many_requests_at_once(disk: DiskKind) {
    let mut guest = Guest::with(Options { ring_size: 256, disk, ..options() });
    // More requests than there are places for keys.
    let ring = &mut guest.rings[0];
    let chains: Vec<_> = (0..120u64)
        .map(|n| {
            let request = KeyedRequest::new(CRYPTO_OUT_EXT, n * 8, n, &key(n / 3));
            ring.add(&[request.bytes(), pattern(n, 4096)].concat(), 1)
        })
        .collect();
    ring.kick();
    chains.iter().for_each(|_| assert_eq!(ring.wait().1, 1));
    for chain in &chains {
        Answer::new(1, ring.read_writable(chain)).assert_only_status(OK);
    }
    for n in 0..120u64 {
        let expected = openssl_xts(&key(n / 3), n.into(), 4096, &pattern(n, 4096));
        assert!(guest.image_bytes(n * 4096, 4096) == expected, "{n}");
    }
    // The same as reads: a request has its key while the disk works.
    let ring = &mut guest.rings[0];
    chains.iter().for_each(|chain| ring.free(chain));
    let chains: Vec<_> = (0..120u64)
        .map(|n| {
            let request = KeyedRequest::new(CRYPTO_IN_EXT, n * 8, n, &key(n / 3));
            ring.add(&request.bytes(), 4097)
        })
        .collect();
    ring.kick();
    chains.iter().for_each(|_| assert_eq!(ring.wait().1, 4097));
    for (chain, n) in chains.iter().zip(0..) {
        assert!(Answer::new(4097, ring.read_writable(chain)).data == pattern(n, 4096), "{n}");
    }
    let (brought, expanded) = (guest.stat("request_keys.requests"), guest.stat("request_keys.expanded"));
    assert!(brought == 240 && (80..=240).contains(&expanded), "{expanded} of {brought} were expanded");
    if disk == DiskKind::File(Aio::Sync) {
        assert!(expanded < 240, "requests with the same key, one after the other, have it expanded once");
    }
}

#[test]
fn wrapped_keys_are_unwrapped_once_or_each_time() {
    for cache_unwrapped in [true, false] {
        let mut options = options();
        options.config.engine.cache_unwrapped = cache_unwrapped;
        let mut guest = Guest::with(options);
        let raw = pattern(7, 32);
        let long_term = blob(&mut guest, IMPORT_KEY, &raw);
        let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
        let request = |request_type| {
            let mut request = KeyedRequest::new(request_type, 0, 5, &ephemeral);
            request.key.key_type = 2;
            request
        };
        let plain = pattern(2, 8192);
        for _ in 0..5 {
            request(CRYPTO_OUT_EXT).write(&mut guest, 0, &plain).assert_only_status(OK);
            assert!(guest.image_bytes(0, 8192) == openssl_xts(&inline_encryption_key(&raw), 5, 4096, &plain));
            assert!(request(CRYPTO_IN_EXT).read(&mut guest, 0, 8192).data == plain);
        }
        let counters = (guest.stat("request_keys.unwrapped"), guest.stat("request_keys.cached"));
        // On a slow machine, cached keys may expire.
        assert!(counters.0 + counters.1 == 10 && if cache_unwrapped { counters.0 < 5 } else { counters.1 == 0 });
        // A change of any bit is noticed, even if the key is cached.
        for place in (0..ephemeral.len()).step_by(5) {
            let mut forged = request(CRYPTO_OUT_EXT);
            forged.key.key[place] ^= 1;
            forged.write(&mut guest, 0, &plain).assert_only_status(IOERR);
        }
        let mut long = request(CRYPTO_OUT_EXT);
        long.key.key[..long_term.len()].copy_from_slice(&long_term);
        long.write(&mut guest, 0, &plain).assert_only_status(IOERR);
        // The cache forgets keys after a second, and at a reset.
        if cache_unwrapped {
            std::thread::sleep(Duration::from_millis(1100));
            let before = guest.stat("request_keys.unwrapped");
            request(CRYPTO_OUT_EXT).write(&mut guest, 0, &plain).assert_only_status(OK);
            guest.restart();
            request(CRYPTO_OUT_EXT).write(&mut guest, 0, &plain).assert_only_status(OK);
            assert_eq!(guest.stat("request_keys.unwrapped"), before + 2);
        }
    }
}

#[test]
fn bad_keys_and_requests() {
    let mut guest = Guest::with(options());
    let good = KeyedRequest::new(CRYPTO_OUT_EXT, 0, 0, &key(1));
    let plain = pattern(3, 4096);
    let with = |change: &dyn Fn(&mut KeyedRequest)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let cases: [(KeyedRequest, u8); 19] = [
        (with(&|bad| bad.key.mode = 0), UNSUPP),
        (with(&|bad| bad.key.mode = 2), UNSUPP),
        (with(&|bad| bad.key.key_type = 0), UNSUPP),
        (with(&|bad| bad.key.key_type = 3), UNSUPP),
        (with(&|bad| bad.key.unit_bits = 8), UNSUPP),
        (with(&|bad| bad.key.unit_bits = 17), UNSUPP),
        (with(&|bad| bad.key.unit_bits = u32::MAX), UNSUPP),
        (with(&|bad| bad.key.dun_bytes = 17), UNSUPP),
        (with(&|bad| bad.key.dun_bytes = 0), IOERR),
        (with(&|bad| bad.key.key_size = 63), IOERR),
        (with(&|bad| bad.key.key_size = 65), IOERR),
        (with(&|bad| bad.key.key_size = u32::MAX), IOERR),
        (with(&|bad| bad.slots = [0, NO_SLOT]), IOERR),
        (with(&|bad| bad.slots = [NO_SLOT, 0]), IOERR),
        (with(&|bad| bad.extensions = [1, 1, 0, 0]), UNSUPP),
        (with(&|bad| bad.extensions = [0, 3, 0, 0]), UNSUPP),
        (with(&|bad| bad.extensions = [0, 1, 0, 1]), UNSUPP),
        // DUNs that do not fit, and sectors past the end.
        (with(&|bad| (bad.key.dun_bytes, bad.dun[0]) = (1, 256)), IOERR),
        (with(&|bad| bad.sector = u64::MAX), IOERR),
    ];
    for (number, (bad, status)) in cases.iter().enumerate() {
        let answer = bad.write(&mut guest, 0, &plain);
        assert_eq!(answer.status, *status, "case {number}");
        let read = KeyedRequest { request_type: CRYPTO_IN_EXT, ..bad.clone() }.read(&mut guest, 0, 4096);
        read.assert_only_status(*status);
        assert!(guest.image_bytes(0, 4096).iter().all(|&byte| byte == 0), "case {number} wrote");
    }
    // Without the flag, the bytes after the message are data, and the engine has no slot.
    let plainly = KeyedRequest { extensions: [0; 4], slots: [0, 0], ..good.clone() };
    assert_eq!(plainly.write(&mut guest, 0, &plain[152..]).status, UNSUPP);
    // Half a key descriptor.
    for len in [16, 40, 56, 57, 60, 207] {
        let request = good.bytes();
        let answer = guest.request(0, &request[..len], 1);
        assert_eq!((answer.status, answer.used), (IOERR, 0), "{len} bytes");
    }
    // Commands that an engine without keyslots does not have.
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(UNSUPP);
    guest.request(control, &evict(0), 1).assert_only_status(UNSUPP);
    guest.request(0, &crypto_write(0, 0, [0; 4], &plain), 1).assert_only_status(UNSUPP);
    // A worker has 64 places for keys; each refused request gives its own back.
    for bad in [with(&|bad| bad.key.key_size = 63), with(&|bad| (bad.key.dun_bytes, bad.dun[0]) = (1, 256))] {
        (0..130).for_each(|_| bad.write(&mut guest, 0, &plain).assert_only_status(IOERR));
    }
    // The device still works.
    good.write(&mut guest, 0, &plain).assert_only_status(OK);
    assert!(guest.image_bytes(0, 4096) == openssl_xts(&key(1), 0, 4096, &plain));
    // A key with two equal halves is valid.
    let halves = [[9; 32], [9; 32]].concat();
    KeyedRequest::new(CRYPTO_OUT_EXT, 0, 0, &halves).write(&mut guest, 0, &plain).assert_only_status(OK);
    assert_eq!(guest.stat("keyslots.equal_halves"), 1);
}

#[test]
fn what_is_offered_is_told() {
    let mut guest = Guest::with(options());
    let control = guest.control();
    let answer = guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 17);
    assert_eq!((answer.status, answer.used), (OK, 17));
    assert_eq!(answer.data, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 16).assert_only_status(IOERR);
    // A device with keyslots has no extensions, and accepts no key in a request.
    let mut guest = Guest::with(options_with_slots(4));
    let control = guest.control();
    guest.request(control, &header(GET_CRYPTO_EXTENSIONS, 0), 17).assert_only_status(UNSUPP);
    let request = KeyedRequest::new(CRYPTO_OUT_EXT, 0, 0, &key(1));
    assert_eq!(request.write(&mut guest, 0, &pattern(1, 4096)).status, UNSUPP);
    assert!(guest.image_bytes(0, 4096).iter().all(|&byte| byte == 0));
    // Without extensions the type is CRYPTO_OUT.
    guest.request(control, &Program::new(2, &key(2), 12).bytes(), 1).assert_only_status(OK);
    let mut bytes = header(CRYPTO_OUT_EXT, 0);
    bytes.extend(2u32.to_le_bytes());
    bytes.resize(16 + 40, 0);
    bytes.extend(pattern(1, 4096));
    guest.request(0, &bytes, 1).assert_only_status(OK);
    assert!(guest.image_bytes(0, 4096) == openssl_xts(&key(2), 0, 4096, &pattern(1, 4096)));
}

/// Resets, pauses and lost keys change nothing, because the device stores no keys.
#[test]
fn nothing_is_lost() {
    let mut guest = Guest::with(options());
    let request = KeyedRequest::new(CRYPTO_IN_EXT, 0, 0, &key(1));
    let plain = pattern(3, 4096);
    KeyedRequest { request_type: CRYPTO_OUT_EXT, ..request.clone() }
        .write(&mut guest, 0, &plain)
        .assert_only_status(OK);
    guest.restart();
    assert!(request.read(&mut guest, 0, 4096).data == plain);
    guest.device.faults().add("lose-all-keys").expect("fault");
    assert!(request.read(&mut guest, 0, 4096).data == plain);
    for queue in 0..guest.rings.len() {
        guest.frontend().get_vring_base(queue).expect("GET_VRING_BASE");
    }
    guest.set_features_again();
    (0..guest.rings.len()).for_each(|queue| guest.start_ring(queue));
    assert!(request.read(&mut guest, 0, 4096).data == plain);
    assert_eq!(guest.stat("keyslots.nokey"), 0);
}

#[test]
fn faults_about_keys() {
    let mut guest = Guest::with(options());
    let plain = pattern(3, 4096);
    let write = |guest: &mut Guest, seed| {
        KeyedRequest::new(CRYPTO_OUT_EXT, 0, 0, &key(seed)).write(guest, 0, &plain).assert_only_status(OK);
        guest.image_bytes(0, 4096)
    };
    let fault = guest.device.faults().add("key-halves-swapped,op=write").expect("fault");
    let mut swapped = key(1);
    swapped.rotate_left(32);
    assert!(write(&mut guest, 1) == openssl_xts(&swapped, 0, 4096, &plain));
    guest.device.faults().clear(Some(fault)).expect("fault");
    assert!(write(&mut guest, 1) == openssl_xts(&key(1), 0, 4096, &plain));
    // The key of the previous request, if it was another key.
    guest.device.faults().add("previous-key,op=write").expect("fault");
    assert!(write(&mut guest, 1) == openssl_xts(&key(1), 0, 4096, &plain));
    assert!(write(&mut guest, 2) == openssl_xts(&key(1), 0, 4096, &plain));
    assert!(write(&mut guest, 2) == openssl_xts(&key(1), 0, 4096, &plain));
    assert!(write(&mut guest, 3) == openssl_xts(&key(2), 0, 4096, &plain));
}
