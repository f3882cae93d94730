// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In-band access: keyslots without the feature bits, by commands on the request queues.

mod common;

use common::*;
use proptest::prelude::*;
use vhost_user_blk_crypto::device::DeviceConfig;
const CRYPTO_BITS: u64 = feature::CTRL_VQ | feature::INLINE_ENCRYPTION;

fn options(in_band: bool, accept: u64) -> Options {
    Options { config: DeviceConfig { in_band, ..Options::default().config }, accept, ..Options::default() }
}

fn in_band() -> Guest {
    Guest::with(options(true, !CRYPTO_BITS))
}

fn characteristics() -> Vec<u8> {
    header(GET_CRYPTO_CHARACTERISTICS, 0)
}

/// Every type that needs in-band access, in an otherwise well-formed request.
fn crypto_requests() -> Vec<(Vec<u8>, usize)> {
    let blob = |request_type| (key_blob(request_type, &[]), 133);
    vec![
        (crypto_write(0, 0, [0; 4], &[1; 4096]), 1),
        (crypto_header(CRYPTO_IN, 0, 0, [0; 4]), 4097),
        (header(GET_CRYPTO_MODES, 0), 9),
        (Program::new(0, &key(1), 12).bytes(), 1),
        (evict(0), 1),
        blob(DERIVE_SW_SECRET),
        blob(GENERATE_KEY),
        blob(IMPORT_KEY),
        blob(PREPARE_KEY),
        (characteristics(), 9),
    ]
}

#[test]
fn the_characteristics_are_those_of_the_configuration_space() {
    let mut guest = in_band();
    let config = guest.get_config(96, 8);
    assert_eq!(config, [4, 0, 16, 1, 0, 0, 0, 0]);
    for queue in 0..2 {
        let answer = guest.request(queue, &characteristics(), 9);
        assert_eq!((answer.status, answer.used, &answer.data), (OK, 9, &config));
    }
    let answer = guest.request(0, &characteristics(), 13);
    assert_eq!((answer.status, answer.used), (OK, 9));
    assert_eq!(answer.data[..8], config);
    // Without room for the reply, there is none.
    guest.request(0, &characteristics(), 8).assert_only_status(IOERR);
    guest.request(0, &characteristics(), 1).assert_only_status(IOERR);
}

#[test]
fn keys_are_programmed_and_evicted_on_any_request_queue() {
    let mut guest = in_band();
    let plain = pattern(1, 4 * 4096);
    for queue in 0..2 {
        let modes = guest.request(queue, &header(GET_CRYPTO_MODES, 0), 9);
        assert_eq!((modes.status, modes.data), (OK, [0u32.to_le_bytes(), 0x1fe00u32.to_le_bytes()].concat()));
        let slot = queue as u32;
        let write = crypto_write(64 * u64::from(slot), slot, [7, 0, 0, 0], &plain);
        guest.request(queue, &write, 1).assert_only_status(NOKEY);
        let key = key(slot.into());
        guest.request(queue, &Program::new(slot, &key, 12).bytes(), 1).assert_only_status(OK);
        // On the other queue, too.
        guest.request(1 - queue, &write, 1).assert_only_status(OK);
        let expected = openssl_xts(&key, 7, 4096, &plain);
        assert!(guest.image_bytes(64 * 512 * u64::from(slot), plain.len()) == expected);
        let read = crypto_header(CRYPTO_IN, 64 * u64::from(slot), slot, [7, 0, 0, 0]);
        assert!(guest.request(queue, &read, plain.len() + 1).data == plain);
        guest.request(1 - queue, &evict(slot), 1).assert_only_status(OK);
        guest.request(queue, &write, 1).assert_only_status(NOKEY);
    }
    assert_eq!((guest.stat("keyslots.program"), guest.stat("keyslots.evict")), (2, 2));
}

#[test]
fn hardware_wrapped_keys_in_band() {
    let mut guest = Guest::with(Options { wrapped_keys: true, ..options(true, !CRYPTO_BITS) });
    assert_eq!(guest.request(0, &characteristics(), 9).data[3], 3);
    let command = |guest: &mut Guest, request_type, blob: &[u8], reply: usize| {
        let answer = guest.request(1, &[&header(request_type, 0), blob].concat(), reply + 1);
        assert_eq!((answer.status, answer.used as usize), (OK, reply + 1));
        answer.data
    };
    let long_term = command(&mut guest, GENERATE_KEY, &[], 132);
    let ephemeral = command(&mut guest, PREPARE_KEY, &long_term, 132);
    command(&mut guest, DERIVE_SW_SECRET, &ephemeral, 32);
    let size = u32::from_le_bytes(ephemeral[..4].try_into().expect("4 bytes")) as usize;
    let program = Program { key_type: 2, ..Program::new(0, &ephemeral[4..4 + size], 12) };
    guest.request(0, &program.bytes(), 1).assert_only_status(OK);
    guest.request(1, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
    assert_ne!(guest.image_bytes(0, 4096), [1; 4096]);
}

#[test]
fn without_the_option_or_with_the_features_commands_are_unknown() {
    for (in_band, accept) in [(false, !CRYPTO_BITS), (true, !feature::INLINE_ENCRYPTION), (false, !feature::CTRL_VQ)] {
        let mut guest = Guest::with(options(in_band, accept));
        guest.features &= !feature::INLINE_ENCRYPTION;
        for (request, room) in crypto_requests() {
            for queue in 0..2 {
                guest.request(queue, &request, room).assert_only_status(UNSUPP);
            }
        }
        guest.request(1, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    }
    // With both features, commands have a queue of their own. The command that only in-band access has is unknown
    // there, too.
    let mut guest = Guest::with(options(true, ALL_FEATURES));
    let control = guest.control();
    for (request, room) in crypto_requests().into_iter().skip(2) {
        guest.request(0, &request, room).assert_only_status(UNSUPP);
    }
    guest.request(control, &characteristics(), 9).assert_only_status(UNSUPP);
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
}

/// A driver that accepts inline encryption without the control virtqueue has accepted neither.
#[test]
fn inline_encryption_alone_counts_as_neither() {
    let mut guest = Guest::with(options(true, !feature::CTRL_VQ));
    assert_eq!(guest.request(0, &characteristics(), 9).status, OK);
}

#[test]
fn bad_commands_get_what_they_get_on_the_control_queue() {
    let mut guest = in_band();
    let good = Program::new(0, &key(1), 12);
    for (bad, status) in [
        (Program { mode: 2, ..good.clone() }, UNSUPP),
        (Program { key_type: 2, ..good.clone() }, UNSUPP),
        (Program { key_size: 63, ..good.clone() }, IOERR),
        (Program { dun_bytes: 0, ..good.clone() }, IOERR),
        (Program { slot: 4, ..good.clone() }, IOERR),
    ] {
        guest.request(0, &good.bytes(), 1).assert_only_status(OK);
        guest.request(1, &bad.bytes(), 1).assert_only_status(status);
        guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
    }
    let answer = guest.request(0, &good.bytes()[..100], 1);
    assert_eq!((answer.used, answer.status), (0, IOERR), "shorter than its size");
    for unknown in [26, 36, 0x1cdff, 0x1ce01] {
        guest.request(0, &header(unknown, 0), 513).assert_only_status(UNSUPP);
    }
}

#[test]
fn a_reset_empties_the_keyslots() {
    let mut guest = in_band();
    guest.request(0, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
    guest.restart();
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(NOKEY);
}

/// Commands between requests of the same queue, all available at once. Each request uses either the old key or the new
/// one for all of its data, and every command completes.
#[test]
fn commands_in_the_midst_of_requests() {
    let mut guest = Guest::with(Options { ring_size: 256, ..options(true, !CRYPTO_BITS) });
    let keys = [key(1), key(2)];
    let plain = pattern(5, 128 << 10);
    let by_key = keys.map(|key| openssl_xts(&key, 0, 4096, &plain));
    guest.request(0, &Program::new(0, &keys[0], 12).bytes(), 1).assert_only_status(OK);
    for _ in 0..10 {
        let mut sent = Vec::new();
        for number in 0..24u64 {
            let queue = (number % 2) as usize;
            let request = if number % 3 == 2 {
                Program::new(0, &keys[(number / 3 % 2) as usize], 12).bytes()
            } else {
                crypto_write(number * 256, 0, [0; 4], &plain)
            };
            sent.push((queue, guest.rings[queue].add(&request, 1)));
        }
        guest.rings[0].kick();
        guest.rings[1].kick();
        let mut returned = [Vec::new(), Vec::new()];
        for &(queue, _) in &sent {
            let (head, used) = guest.rings[queue].wait();
            assert_eq!(used, 1);
            returned[queue].push(head);
        }
        for (number, (queue, buffers)) in sent.iter().enumerate() {
            assert!(returned[*queue].contains(&buffers.head));
            assert_eq!(guest.rings[*queue].read_writable(buffers), [OK]);
            guest.rings[*queue].free(buffers);
            if number % 3 != 2 {
                let image = guest.image_bytes(number as u64 * 256 * 512, plain.len());
                assert!(by_key.contains(&image), "request {number} is not under one key");
            }
        }
    }
}

/// A step of a batch: a read with a slot's key, or a command for the slot.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read(u32),
    Program(u32, u64),
    Evict(u32),
}

impl Step {
    fn request(self) -> (Vec<u8>, usize) {
        match self {
            Self::Read(slot) => (crypto_header(CRYPTO_IN, 0, slot, [0; 4]), 8193),
            Self::Program(slot, seed) => (Program::new(slot, &key(seed), 12).bytes(), 1),
            Self::Evict(slot) => (evict(slot), 1),
        }
    }
}

/// Makes all steps available at once: reads on the first queue, commands on the other if there are two. Commands must
/// complete in order, and the slots must hold what the last commands say.
fn commands_in_order(guest: &mut Guest, commands: usize, steps: &[Step]) {
    let mut slots = [None; 2];
    let mut sent = Vec::new();
    for &step in steps {
        let (readable, writable) = step.request();
        let queue = if matches!(step, Step::Read(_)) { 0 } else { commands };
        sent.push((step, queue, guest.rings[queue].add(&readable, writable)));
        match step {
            Step::Read(_) => {}
            Step::Program(slot, seed) => slots[slot as usize] = Some(seed),
            Step::Evict(slot) => slots[slot as usize] = None,
        }
    }
    guest.rings[0].kick();
    guest.rings[commands].kick();
    let mut order = Vec::new();
    for &(_, queue, _) in &sent {
        order.push((queue, guest.rings[queue].wait().0));
    }
    let is_command = |step: &Step| !matches!(step, Step::Read(_));
    let expected: Vec<_> =
        sent.iter().filter(|(step, ..)| is_command(step)).map(|(_, queue, it)| (*queue, it.head)).collect();
    order.retain(|place| expected.contains(place));
    assert_eq!(order, expected, "{steps:?}");
    for (step, queue, buffers) in &sent {
        let status = *guest.rings[*queue].read_writable(buffers).last().expect("a status");
        assert!(status == OK || !is_command(step) && status == NOKEY, "{step:?}: {status}");
        guest.rings[*queue].free(buffers);
    }
    for (slot, seed) in slots.into_iter().enumerate() {
        let plain = pattern(7, 4096);
        let answer = guest.request(0, &crypto_write(64, slot as u32, [5, 0, 0, 0], &plain), 1);
        answer.assert_only_status(if seed.is_some() { OK } else { NOKEY });
        if let Some(seed) = seed {
            assert!(guest.image_bytes(64 * 512, 4096) == openssl_xts(&key(seed), 5, 4096, &plain), "{steps:?}");
        }
        guest.request(commands, &evict(slot as u32), 1).assert_only_status(OK);
    }
}

/// On a slow disk, commands wait for the reads before them.
fn guest_that_waits(accept: u64) -> Guest {
    let mut options = options(true, accept);
    options.disk = DiskKind::File(vhost_user_blk_crypto::disk::Aio::Threads);
    options.workers.workers = 1;
    options.ring_size = 256;
    Guest::with(options)
}

#[test]
fn waiting_commands_keep_their_order() {
    use Step::{Evict, Program, Read};
    let mut guest = guest_that_waits(!CRYPTO_BITS);
    for steps in [
        &[Program(0, 1), Read(0), Program(0, 2), Program(0, 3)][..],
        &[Program(0, 1), Read(0), Program(0, 2), Evict(0)],
        &[Program(0, 1), Read(0), Evict(0), Program(0, 3)],
        // The last command waits only for the one before it.
        &[Program(0, 1), Read(0), Program(0, 2), Program(1, 3)],
        &[Program(1, 1), Read(1), Evict(1), Program(0, 2), Program(1, 3), Evict(0)],
    ] {
        commands_in_order(&mut guest, 0, steps);
    }
    // Commands keep their order even if keys are lost meanwhile.
    guest.device.faults().add("lose-all-keys,op=program,slot=1").expect("fault");
    commands_in_order(&mut guest, 0, &[Read(0), Program(1, 1), Program(0, 2)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Random batches, with commands on the queue of the reads and on a queue of their own.
    #[test]
    fn commands_keep_their_order(batches in proptest::collection::vec(proptest::collection::vec(
        prop_oneof![
            (0u32..2).prop_map(Step::Read),
            (0u32..2, 1u64..50).prop_map(|(slot, seed)| Step::Program(slot, seed)),
            (0u32..2).prop_map(Step::Evict),
        ], 1..40), 1..4)) {
        for (accept, commands) in [(!CRYPTO_BITS, 0), (ALL_FEATURES, 2)] {
            let mut guest = guest_that_waits(accept);
            for steps in &batches {
                commands_in_order(&mut guest, commands, steps);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Any division of a command into descriptors.
    #[test]
    fn commands_in_any_cut(
        readable in proptest::collection::vec(1usize..60, 0..5),
        writable in proptest::collection::vec(1usize..5, 0..3),
        indirect in any::<bool>(),
    ) {
        let mut guest = in_band();
        let cut = Cut { readable, writable, indirect };
        let answer = guest.request_cut(0, &characteristics(), 9, &cut);
        prop_assert_eq!((answer.status, answer.data), (OK, guest.get_config(96, 8)));
        guest.request_cut(1, &Program::new(3, &key(9), 9).bytes(), 1, &cut).assert_only_status(OK);
        let plain = pattern(9, 1024);
        guest.request_cut(0, &crypto_write(2, 3, [1, 0, 0, 0], &plain), 1, &cut).assert_only_status(OK);
        prop_assert!(guest.image_bytes(1024, 1024) == openssl_xts(&key(9), 1, 512, &plain));
    }
}
