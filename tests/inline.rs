// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Inline encryption: "Meaning" and "Bad input" of the protocol, every ciphertext compared with OpenSSL's.

mod common;

use common::*;
use proptest::prelude::*;
use vhost::VhostBackend;
/// Programs a slot and expects success.
fn program(guest: &mut Guest, command: &Program) {
    let control = guest.control();
    guest.request(control, &command.bytes(), 1).assert_only_status(OK);
}

fn read(guest: &mut Guest, sector: u64, slot: u32, dun: [u64; 4], len: usize) -> Answer {
    guest.request(0, &crypto_header(CRYPTO_IN, sector, slot, dun), len + 1)
}

#[test]
fn ciphertext_on_the_image_is_what_openssl_computes() {
    let mut guest = Guest::new();
    for (slot, unit_bits) in [(0, 9), (1, 12), (2, 16), (3, 12)] {
        let unit = 1 << unit_bits;
        let key = key(slot.into());
        program(&mut guest, &Program { dun_bytes: 16, ..Program::new(slot, &key, unit_bits) });
        for (queue, dun, units) in [(0, 0u128, 1), (1, 5, 3), (0, u64::MAX.into(), 2), (1, u128::MAX - 3, 4)] {
            let plain = pattern(slot.into(), unit * units);
            let words = [dun as u64, (dun >> 64) as u64, 0, 0];
            let sector = 3 + u64::from(slot);
            guest.request(queue, &crypto_write(sector, slot, words, &plain), 1).assert_only_status(OK);
            let expected = openssl_xts(&key, dun, unit, &plain);
            assert!(guest.image_bytes(sector * 512, plain.len()) == expected, "slot {slot}, DUN {dun:#x}");
            // Reads it through the keyslot, and the ciphertext without one.
            let answer = read(&mut guest, sector, slot, words, plain.len());
            assert_eq!((answer.status, answer.used as usize), (OK, plain.len() + 1));
            assert!(answer.data == plain);
            assert!(guest.request(0, &header(IN, sector), plain.len() + 1).data == expected);
        }
    }
    assert_eq!(guest.stat("keyslots.program"), 4);
    assert_eq!(guest.stat("requests.crypto_out"), 16);
    assert_eq!(guest.stat("data_units.encrypted"), 4 * 10);
    assert_eq!(guest.stat("data_units.decrypted"), 4 * 10);
    assert_eq!(guest.stat("bytes.crypto_out"), 10 * (512 + 4096 + 65536 + 4096));
}

/// More than one step of the device's bounce buffer.
#[test]
fn a_request_of_several_mebibytes() {
    let mut guest = Guest::new();
    let key = key(9);
    program(&mut guest, &Program::new(0, &key, 9));
    let plain = pattern(9, (3 << 20) + 512 * 7);
    guest.request(0, &crypto_write(1, 0, [77, 0, 0, 0], &plain), 1).assert_only_status(OK);
    assert!(guest.image_bytes(512, plain.len()) == openssl_xts(&key, 77, 512, &plain));
    assert!(read(&mut guest, 1, 0, [77, 0, 0, 0], plain.len()).data == plain);
}

#[test]
fn plain_and_encrypted_requests_mix_on_the_same_sectors() {
    let mut guest = Guest::new();
    let (first, second) = (key(1), key(2));
    program(&mut guest, &Program::new(0, &first, 12));
    program(&mut guest, &Program::new(1, &second, 12));
    let plain = pattern(3, 3 * 4096);
    guest.request(0, &write_request(0, &plain), 1).assert_only_status(OK);
    guest.request(1, &crypto_write(8, 0, [1000, 0, 0, 0], &plain[..4096]), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(16, 1, [1000, 0, 0, 0], &plain[..4096]), 1).assert_only_status(OK);
    let image = guest.image_bytes(0, 3 * 4096);
    assert_eq!(image[..4096], plain[..4096]);
    assert_eq!(image[4096..8192], openssl_xts(&first, 1000, 4096, &plain[..4096]));
    assert_eq!(image[8192..], openssl_xts(&second, 1000, 4096, &plain[..4096]));
    // Reading with another key gives noise, not an error: the device cannot know the right key.
    let noise = read(&mut guest, 8, 1, [1000, 0, 0, 0], 4096);
    assert_eq!(noise.status, OK);
    assert_ne!(noise.data, plain[..4096]);
}

#[test]
fn discarded_sectors_hold_zero_ciphertext() {
    let mut guest = Guest::new();
    let key = key(1);
    program(&mut guest, &Program::new(0, &key, 12));
    guest.request(0, &crypto_write(0, 0, [0; 4], &[0x55; 4096]), 1).assert_only_status(OK);
    guest.request(0, &[header(DISCARD, 0), range(0, 8, 0)].concat(), 1).assert_only_status(OK);
    assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
    let noise = read(&mut guest, 0, 0, [0; 4], 4096);
    assert_eq!(openssl_xts(&key, 0, 4096, &noise.data), [0; 4096]);
}

#[test]
fn empty_slots_give_nokey_and_touch_nothing() {
    let mut guest = Guest::new();
    let control = guest.control();
    let write = crypto_write(0, 2, [0; 4], &[1; 4096]);
    guest.request(0, &write, 1).assert_only_status(NOKEY);
    read(&mut guest, 0, 2, [0; 4], 4096).assert_only_status(NOKEY);
    program(&mut guest, &Program::new(2, &key(1), 12));
    guest.request(0, &write, 1).assert_only_status(OK);
    let ciphertext = guest.image_bytes(0, 4096);
    guest.request(control, &evict(2), 1).assert_only_status(OK);
    guest.request(0, &write, 1).assert_only_status(NOKEY);
    read(&mut guest, 0, 2, [0; 4], 4096).assert_only_status(NOKEY);
    assert_eq!(guest.image_bytes(0, 4096), ciphertext);
    // Evicting an empty slot is no error.
    guest.request(control, &evict(2), 1).assert_only_status(OK);
    assert_eq!((guest.stat("keyslots.nokey"), guest.stat("keyslots.evict")), (4, 1));
}

#[test]
fn slots_out_of_range_are_errors() {
    let mut guest = Guest::new();
    let control = guest.control();
    for slot in [4, 5, 0x8000_0000, u32::MAX] {
        guest.request(0, &crypto_write(0, slot, [0; 4], &[1; 4096]), 1).assert_only_status(IOERR);
        read(&mut guest, 0, slot, [0; 4], 4096).assert_only_status(IOERR);
        guest.request(control, &Program::new(slot, &key(1), 12).bytes(), 1).assert_only_status(IOERR);
        guest.request(control, &evict(slot), 1).assert_only_status(IOERR);
    }
    assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
}

#[test]
fn transfers_are_whole_data_units_inside_the_disk() {
    let mut guest = Guest::new();
    program(&mut guest, &Program::new(0, &key(1), 12));
    let sectors = (8 << 20) / 512;
    for (sector, len) in [(0, 0), (0, 512), (0, 4096 + 512), (0, 4095), (sectors - 7, 4096), (u64::MAX - 7, 4096)] {
        guest.request(0, &crypto_write(sector, 0, [0; 4], &vec![1; len]), 1).assert_only_status(IOERR);
        read(&mut guest, sector, 0, [0; 4], len).assert_only_status(IOERR);
    }
    assert!(guest.image_bytes(0, 8 << 20).iter().all(|&byte| byte == 0));
}

#[test]
fn duns_must_fit_at_every_data_unit() {
    let mut options = Options::default();
    options.config.engine.max_dun_bytes = 32;
    let mut guest = Guest::with(options);
    let max = u64::MAX;
    // DUN bytes of the slot, first DUN, number of data units, whether they fit.
    for (dun_bytes, dun, units, fits) in [
        (1, [255, 0, 0, 0], 1, true),
        (1, [255, 0, 0, 0], 2, false),
        (1, [256, 0, 0, 0], 1, false),
        (4, [0xffff_fffe, 0, 0, 0], 2, true),
        (4, [0xffff_fffe, 0, 0, 0], 3, false),
        (4, [0, 0, 0, 1], 1, false),
        (8, [max, 0, 0, 0], 1, true),
        (8, [max, 0, 0, 0], 2, false),
        (8, [0, 1, 0, 0], 1, false),
        (16, [max, 0, 0, 0], 2, true),
        (16, [max, max, 0, 0], 2, false),
        (32, [max, max, 0, 0], 2, true),
        (32, [max, max, max, max], 1, true),
        (32, [max, max, max, max], 2, false),
        (31, [0, 0, 0, 1 << 56], 1, false),
    ] {
        let key = key(7);
        program(&mut guest, &Program { dun_bytes, ..Program::new(0, &key, 9) });
        let plain = pattern(7, units * 512);
        guest.request(0, &write_request(0, &[0; 2048]), 1).assert_only_status(OK);
        let answer = guest.request(0, &crypto_write(0, 0, dun, &plain), 1);
        if fits {
            answer.assert_only_status(OK);
            let low = u128::from(dun[1]) << 64 | u128::from(dun[0]);
            assert_eq!(guest.image_bytes(0, plain.len()), openssl_xts(&key, low, 512, &plain), "{dun:?}");
        } else {
            answer.assert_only_status(IOERR);
            read(&mut guest, 0, 0, dun, plain.len()).assert_only_status(IOERR);
            assert_eq!(guest.image_bytes(0, 2048), [0; 2048], "{dun:?}");
        }
    }
}

#[test]
fn program_commands_that_are_refused_leave_the_old_key() {
    let mut guest = Guest::new();
    let control = guest.control();
    program(&mut guest, &Program::new(1, &key(1), 12));
    let good = Program::new(1, &key(2), 12);
    let bad = [
        (Program { mode: 0, ..good.clone() }, UNSUPP),
        (Program { mode: 2, ..good.clone() }, UNSUPP),
        (Program { mode: u32::MAX, ..good.clone() }, UNSUPP),
        (Program { key_type: 0, ..good.clone() }, UNSUPP),
        (Program { key_type: 2, ..good.clone() }, UNSUPP),
        (Program { key_type: 3, ..good.clone() }, UNSUPP),
        (Program { key_size: 0, ..good.clone() }, IOERR),
        (Program { key_size: 32, ..good.clone() }, IOERR),
        (Program { key_size: 63, ..good.clone() }, IOERR),
        (Program { key_size: 128, ..good.clone() }, IOERR),
        (Program { key_size: u32::MAX, ..good.clone() }, IOERR),
        (Program { unit_bits: 8, ..good.clone() }, UNSUPP),
        (Program { unit_bits: 17, ..good.clone() }, UNSUPP),
        (Program { unit_bits: 0, ..good.clone() }, UNSUPP),
        (Program { unit_bits: 32 + 12, ..good.clone() }, UNSUPP),
        (Program { unit_bits: u32::MAX, ..good.clone() }, UNSUPP),
        (Program { dun_bytes: 0, ..good.clone() }, IOERR),
        (Program { dun_bytes: 17, ..good.clone() }, UNSUPP),
        (Program { dun_bytes: 256 + 8, ..good.clone() }, UNSUPP),
        (Program { dun_bytes: u32::MAX, ..good.clone() }, UNSUPP),
    ];
    let failures = bad.len() as u64;
    for (n, (command, status)) in bad.into_iter().enumerate() {
        guest.request(control, &command.bytes(), 1).assert_only_status(status);
        let plain = pattern(n as u64, 4096);
        guest.request(0, &crypto_write(0, 1, [0; 4], &plain), 1).assert_only_status(OK);
        assert_eq!(guest.image_bytes(0, 4096), openssl_xts(&key(1), 0, 4096, &plain), "{command:?}");
        // Nor does it program an empty one.
        let command = Program { slot: 2, ..command };
        guest.request(control, &command.bytes(), 1).assert_only_status(status);
        guest.request(0, &crypto_write(0, 2, [0; 4], &plain), 1).assert_only_status(NOKEY);
    }
    assert_eq!(guest.stat("keyslots.program_failed"), 2 * failures);
}

#[test]
fn equal_halves_are_accepted_and_counted() {
    let mut guest = Guest::new();
    let key = [pattern(1, 32), pattern(1, 32)].concat();
    program(&mut guest, &Program::new(0, &key, 12));
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
    assert_eq!(guest.stat("keyslots.equal_halves"), 1);
}

#[test]
fn modes_are_reported_as_far_as_there_is_room() {
    let mut guest = Guest::new();
    let control = guest.control();
    let table = [[0; 4], 0x1fe00u32.to_le_bytes()].concat();
    for room in [0, 1, 3, 4, 7, 8, 11, 12, 64] {
        let answer = guest.request(control, &header(GET_CRYPTO_MODES, 0), room + 1);
        let entries = (room / 4).min(2) * 4;
        assert_eq!((answer.status, answer.used as usize), (OK, entries + 1));
        assert_eq!(answer.data[..entries], table[..entries]);
        assert!(answer.data[entries..].iter().all(|&byte| byte == FILL));
    }
}

#[test]
fn commands_and_requests_stay_on_their_queues() {
    let mut guest = Guest::new();
    let control = guest.control();
    program(&mut guest, &Program::new(0, &key(1), 12));
    for command in [header(GET_CRYPTO_MODES, 0), Program::new(0, &key(2), 12).bytes(), evict(0)] {
        guest.request(0, &command, 9).assert_only_status(UNSUPP);
    }
    for request in [header(IN, 0), write_request(0, &[1; 512]), header(FLUSH, 0), header(GET_ID, 0)] {
        guest.request(control, &request, 513).assert_only_status(UNSUPP);
    }
    guest.request(control, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(UNSUPP);
    // Hardware-wrapped keys are not offered.
    for request_type in 32..=35 {
        guest.request(control, &[header(request_type, 0), vec![0; 132]].concat(), 133).assert_only_status(UNSUPP);
    }
    assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
    // The slot still has its first key.
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
    assert_eq!(guest.image_bytes(0, 4096), openssl_xts(&key(1), 0, 4096, &[1; 4096]));
}

#[test]
fn without_the_features_there_is_no_encryption() {
    // 23 without 22 counts as neither.
    for accept in [!feature::INLINE_ENCRYPTION, !feature::CTRL_VQ, !(feature::CTRL_VQ | feature::INLINE_ENCRYPTION)] {
        let mut guest = Guest::with(Options { accept, ..Options::default() });
        guest.features &= !feature::INLINE_ENCRYPTION;
        guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(UNSUPP);
        read(&mut guest, 0, 0, [0; 4], 4096).assert_only_status(UNSUPP);
        guest.request(1, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(UNSUPP);
        guest.request(1, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    }
}

/// A control virtqueue alone serves no command, and no request either.
#[test]
fn a_control_queue_without_encryption() {
    use vhost::VhostBackend;
    let mut guest = Guest::new();
    let control = guest.control();
    let features = guest.features & !feature::INLINE_ENCRYPTION;
    let protocol = vhost::vhost_user::message::VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    guest.frontend().set_features(features | protocol).expect("SET_FEATURES");
    guest.frontend().get_features().expect("GET_FEATURES");
    guest.request(control, &header(IN, 0), 513).assert_only_status(UNSUPP);
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(UNSUPP);
    guest.request(control, &header(GET_CRYPTO_MODES, 0), 9).assert_only_status(UNSUPP);
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(UNSUPP);
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
}

/// As many segments as the configuration space allows, header and crypto message apart.
#[test]
fn the_largest_number_of_segments() {
    let mut guest = Guest::with(Options { ring_size: 256, ..Options::default() });
    let seg_max = u32::from_le_bytes(guest.get_config(12, 4).try_into().expect("4 bytes")) as usize;
    program(&mut guest, &Program::new(0, &key(1), 12));
    let plain = pattern(1, seg_max * 4096);
    for indirect in [false, true] {
        let cut = Cut { readable: [vec![16, 40], vec![4096; seg_max - 1]].concat(), writable: vec![], indirect };
        guest.request_cut(0, &crypto_write(0, 0, [0; 4], &plain), 1, &cut).assert_only_status(OK);
        assert!(guest.image_bytes(0, plain.len()) == openssl_xts(&key(1), 0, 4096, &plain));
        let cut = Cut { readable: vec![16], writable: vec![4096; seg_max], indirect };
        let read = crypto_header(CRYPTO_IN, 0, 0, [0; 4]);
        assert!(guest.request_cut(0, &read, plain.len() + 1, &cut).data == plain);
    }
}

/// Without an option for the queue size, the largest requests fit in the frontends' default rings of 128 entries, and
/// in larger ones: without indirect tables, and with header and crypto message in one descriptor, as drivers may do.
#[test]
fn segments_fit_in_the_usual_rings() {
    let seg_max = vhost_user_blk_crypto::device::seg_max(256, false);
    let config = vhost_user_blk_crypto::device::DeviceConfig { seg_max, ..Options::default().config };
    for ring_size in [128, 256] {
        let accept = !feature::INDIRECT_DESC;
        let mut guest = Guest::with(Options { ring_size, accept, config: config.clone(), ..Options::default() });
        assert_eq!(guest.get_config(12, 4), 126u32.to_le_bytes());
        program(&mut guest, &Program::new(0, &key(1), 12));
        let plain = pattern(1, 126 * 4096);
        let cut = |readable| Cut { readable, writable: vec![], indirect: false };
        let write = cut([vec![16], vec![4096; 125]].concat());
        guest.request_cut(0, &write_request(0, &plain), 1, &write).assert_only_status(OK);
        assert!(guest.image_bytes(0, plain.len()) == plain);
        let write = cut([vec![56], vec![4096; 125]].concat());
        guest.request_cut(1, &crypto_write(0, 0, [0; 4], &plain), 1, &write).assert_only_status(OK);
        assert!(guest.image_bytes(0, plain.len()) == openssl_xts(&key(1), 0, 4096, &plain));
        let read = Cut { readable: vec![], writable: vec![4096; 126], indirect: false };
        let answer = guest.request_cut(0, &crypto_header(CRYPTO_IN, 0, 0, [0; 4]), plain.len() + 1, &read);
        assert!(answer.status == OK && answer.data == plain);
    }
}

#[test]
fn without_multiqueue_the_control_queue_is_number_1() {
    let mut guest = Guest::with(Options { accept: !feature::MQ, queues: 1, ..Options::default() });
    assert_eq!(guest.control(), 1);
    guest.request(1, &header(IN, 0), 513).assert_only_status(UNSUPP);
    program(&mut guest, &Program::new(0, &key(1), 12));
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
    assert_eq!(guest.image_bytes(0, 4096), openssl_xts(&key(1), 0, 4096, &[1; 4096]));
}

#[test]
fn reset_stop_and_new_features_empty_the_keyslots() {
    let mut guest = Guest::new();
    let write = crypto_write(0, 0, [0; 4], &[1; 4096]);
    let load = |guest: &mut Guest| {
        program(guest, &Program::new(0, &key(1), 12));
        guest.request(0, &write, 1).assert_only_status(OK);
    };
    load(&mut guest);
    guest.set_features_again();
    guest.request(0, &write, 1).assert_only_status(NOKEY);

    // Some frontends reset a device by stopping all queues and starting them at 0 again. A paused machine stops them, too:
    // see `pauses`.
    load(&mut guest);
    for index in 0..guest.rings.len() {
        let base = guest.frontend().get_vring_base(index).expect("GET_VRING_BASE");
        assert_eq!(base, u32::from(guest.rings[index].next_avail), "all requests are taken");
    }
    guest.start_rings();
    guest.request(0, &write, 1).assert_only_status(NOKEY);
    assert_eq!(guest.stat("keyslots.lost"), 2);
    guest.set_features_again();
    guest.request(0, &write, 1).assert_only_status(NOKEY);

    load(&mut guest);
    guest.restart();
    assert_eq!(guest.stat("keyslots.lost"), 3);
    guest.request(0, &write, 1).assert_only_status(NOKEY);

    load(&mut guest);
    guest.disconnect();
    assert_eq!(guest.stat("keyslots.lost"), 4);
    guest.connect();
    guest.start();
    guest.request(0, &write, 1).assert_only_status(NOKEY);
    load(&mut guest);
}

/// A request in flight keeps its key while the slot is programmed again and again.
#[test]
fn reprogramming_does_not_change_requests_in_flight() {
    let mut guest = Guest::new();
    let control = guest.control();
    let (old, new) = (key(1), key(2));
    let plain = pattern(5, 4 << 20);
    let by_key = [openssl_xts(&old, 0, 4096, &plain), openssl_xts(&new, 0, 4096, &plain)];
    let mut seen = [0, 0];
    for round in 0..40 {
        let (now, next) = if round % 2 == 0 { (&old, &new) } else { (&new, &old) };
        program(&mut guest, &Program::new(0, now, 12));
        let queue = round % 2;
        let request = crypto_write(0, 0, [0; 4], &plain);
        let buffers = guest.rings[queue].add(&request, 1);
        let reprogram = Program::new(0, next, 12).bytes();
        let command = guest.rings[control].add(&reprogram, 1);
        guest.rings[queue].kick();
        std::thread::sleep(std::time::Duration::from_micros(100 * round as u64));
        guest.rings[control].kick();
        for (ring, buffers) in [(queue, buffers), (control, command)] {
            let (head, used) = guest.rings[ring].wait();
            assert_eq!((head, used), (buffers.head, 1));
            assert_eq!(guest.rings[ring].read_writable(&buffers), [OK]);
            guest.rings[ring].free(&buffers);
        }
        let image = guest.image_bytes(0, plain.len());
        let which = by_key.iter().position(|bytes| *bytes == image);
        seen[usize::from(which.expect("all of the request under one key") != round % 2)] += 1;
    }
    println!("requests under the key before: {}, after: {}", seen[0], seen[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// For random slots, data unit sizes, DUNs, sectors and queues, the ciphertext is OpenSSL's.
    #[test]
    fn random_transfers_equal_openssl(requests in proptest::collection::vec(
        (0u32..4, 9u32..=16, prop_oneof![any::<u128>(), Just(u128::from(u64::MAX))], 1usize..5, 0u64..100, 0usize..2, any::<u64>()), 1..8))
    {
        let mut guest = Guest::new();
        for (slot, unit_bits, dun, units, sector, queue, seed) in requests {
            let unit = 1 << unit_bits;
            let key = key(seed);
            prop_assume!(dun.checked_add(units as u128).is_some());
            program(&mut guest, &Program { dun_bytes: 16, ..Program::new(slot, &key, unit_bits) });
            let plain = pattern(seed, unit * units);
            let words = [dun as u64, (dun >> 64) as u64, 0, 0];
            guest.request(queue, &crypto_write(sector, slot, words, &plain), 1).assert_only_status(OK);
            prop_assert!(guest.image_bytes(sector * 512, plain.len()) == openssl_xts(&key, dun, unit, &plain));
            prop_assert!(read(&mut guest, sector, slot, words, plain.len()).data == plain);
        }
    }
}

/// A client of the control socket resets the engine, which waits for a request that the disk has. Meanwhile the worker
/// of that request gets a program command for the same slot.
#[test]
fn a_command_does_not_wait_for_its_own_worker_behind_a_reset_of_the_engine() {
    use vhost_user_blk_crypto::disk::Aio;

    let mut options = Options { disk: DiskKind::File(Aio::Threads), ..Options::default() };
    options.workers.workers = 1;
    let mut guest = Guest::with(options);
    let control = guest.control();
    for round in 0..100u64 {
        guest.request(control, &Program::new(0, &key(round), 12).bytes(), 1).assert_only_status(OK);
        let reads: Vec<_> = (0..3)
            .map(|n| {
                let readable = crypto_header(CRYPTO_IN, n * 2048, 0, [0; 4]);
                guest.rings[0].add(&readable, (1 << 20) + 1)
            })
            .collect();
        guest.rings[0].kick();
        let reset = std::thread::spawn({
            let device = std::sync::Arc::clone(&guest.device);
            move || device.reset_engine()
        });
        guest.request(control, &Program::new(0, &key(round + 1), 12).bytes(), 1).assert_only_status(OK);
        for _ in &reads {
            let (head, _) = guest.rings[0].wait();
            assert!(reads.iter().any(|read| read.head == head));
        }
        reads.iter().for_each(|read| guest.rings[0].free(read));
        assert!(reset.join().expect("no panic") <= 1);
    }
}
