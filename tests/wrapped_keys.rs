// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hardware-wrapped keys over the control virtqueue. The test derives the same keys with OpenSSL.

mod common;

use common::*;

fn device() -> Guest {
    Guest::with(Options { wrapped_keys: true, ..Options::default() })
}

fn exchange(guest: &mut Guest, request_type: u32, bytes: &[u8], room: usize) -> Answer {
    let control = guest.control();
    guest.request(control, &key_blob(request_type, bytes), room + 1)
}

/// A command that returns a blob.
fn blob(guest: &mut Guest, request_type: u32, bytes: &[u8]) -> Vec<u8> {
    let answer = exchange(guest, request_type, bytes, 132);
    assert_eq!((answer.status, answer.used), (OK, 133));
    blob_of(&answer.data)
}

fn program(slot: u32, ephemeral: &[u8]) -> Vec<u8> {
    Program { key_type: 2, ..Program::new(slot, ephemeral, 12) }.bytes()
}

#[test]
fn import_prepare_program_and_the_secret() {
    let mut guest = device();
    let control = guest.control();
    assert_eq!(guest.get_config(99, 1), [3], "raw and wrapped keys");
    for seed in 0..5 {
        let raw = pattern(seed, 32);
        let long_term = blob(&mut guest, IMPORT_KEY, &raw);
        let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
        let secret = exchange(&mut guest, DERIVE_SW_SECRET, &ephemeral, 32);
        assert_eq!((secret.status, secret.used, secret.data), (OK, 33, software_secret(&raw)));
        guest.request(control, &program(1, &ephemeral), 1).assert_only_status(OK);
        let plain = pattern(seed, 8192);
        guest.request(0, &crypto_write(0, 1, [seed, 0, 0, 0], &plain), 1).assert_only_status(OK);
        let expected = openssl_xts(&inline_encryption_key(&raw), seed.into(), 4096, &plain);
        assert!(guest.image_bytes(0, 8192) == expected);
        // The same slot takes a raw key as well.
        guest.request(control, &Program::new(1, &key(seed), 12).bytes(), 1).assert_only_status(OK);
    }
    assert_eq!((guest.stat("wrapped_keys.import"), guest.stat("wrapped_keys.prepare")), (5, 5));
}

#[test]
fn generated_keys_work_and_differ() {
    let mut guest = device();
    let secrets: Vec<_> = (0..3)
        .map(|_| {
            let long_term = blob(&mut guest, GENERATE_KEY, &[]);
            let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
            exchange(&mut guest, DERIVE_SW_SECRET, &ephemeral, 32).data
        })
        .collect();
    assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2]);
}

/// GENERATE_KEY has no payload: the command is only a header.
#[test]
fn generate_needs_no_payload() {
    let mut guest = device();
    let control = guest.control();
    let answer = guest.request(control, &header(GENERATE_KEY, 0), 133);
    assert_eq!((answer.status, answer.used), (OK, 133));
}

#[test]
fn bad_blobs_are_errors_and_leave_the_slot_as_it_is() {
    let mut guest = device();
    let control = guest.control();
    let long_term = blob(&mut guest, GENERATE_KEY, &[]);
    let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
    let mut other = device();
    let foreign = blob(&mut other, GENERATE_KEY, &[]);
    let flipped = |blob: &[u8], at: usize| {
        let mut blob = blob.to_vec();
        blob[at] ^= 0x10;
        blob
    };
    for bad in [
        ephemeral.clone(),
        foreign.clone(),
        long_term[..long_term.len() - 1].to_vec(),
        [&long_term[..], &[0]].concat(),
        flipped(&long_term, 0),
        flipped(&long_term, 5),
        flipped(&long_term, 30),
        flipped(&long_term, long_term.len() - 1),
        vec![],
        vec![0; 128],
    ] {
        exchange(&mut guest, PREPARE_KEY, &bad, 132).assert_only_status(IOERR);
    }
    let write = crypto_write(0, 2, [0; 4], &[1; 4096]);
    guest.request(control, &program(2, &ephemeral), 1).assert_only_status(OK);
    guest.request(0, &write, 1).assert_only_status(OK);
    let ciphertext = guest.image_bytes(0, 4096);
    for bad in [long_term.clone(), foreign, flipped(&ephemeral, 20), ephemeral[..40].to_vec(), vec![0; 64], vec![]] {
        exchange(&mut guest, DERIVE_SW_SECRET, &bad, 32).assert_only_status(IOERR);
        guest.request(control, &program(2, &bad), 1).assert_only_status(IOERR);
        guest.request(0, &write_request(0, &[0; 4096]), 1).assert_only_status(OK);
        guest.request(0, &write, 1).assert_only_status(OK);
        assert_eq!(guest.image_bytes(0, 4096), ciphertext);
    }
    for len in [0, 1, 16, 31, 33, 64, 128] {
        exchange(&mut guest, IMPORT_KEY, &vec![1; len], 132).assert_only_status(IOERR);
    }
    // A size that the message has no room for.
    for size in [129, 132, 0x8000_0000, u32::MAX] {
        for request_type in [IMPORT_KEY, PREPARE_KEY, DERIVE_SW_SECRET] {
            guest.request(control, &key_blob_of_size(request_type, &long_term, size), 133).assert_only_status(IOERR);
        }
    }
    // A wrapped key does not pass for a raw one, nor a raw one for a wrapped one.
    guest.request(control, &Program::new(0, &ephemeral, 12).bytes(), 1).assert_only_status(IOERR);
    guest.request(control, &program(0, &key(1)), 1).assert_only_status(IOERR);
}

#[test]
fn replies_that_do_not_fit_are_not_given() {
    let mut guest = device();
    let control = guest.control();
    let long_term = blob(&mut guest, GENERATE_KEY, &[]);
    for room in [0, 1, 68, 131] {
        guest.request(control, &header(GENERATE_KEY, 0), room + 1).assert_only_status(IOERR);
        exchange(&mut guest, IMPORT_KEY, &[1; 32], room).assert_only_status(IOERR);
        exchange(&mut guest, PREPARE_KEY, &long_term, room).assert_only_status(IOERR);
    }
    let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
    exchange(&mut guest, DERIVE_SW_SECRET, &ephemeral, 31).assert_only_status(IOERR);
}

#[test]
fn commands_that_are_too_short() {
    let mut guest = device();
    let control = guest.control();
    let whole = key_blob_of_size(PREPARE_KEY, &[1; 68], 68);
    for request_type in [IMPORT_KEY, PREPARE_KEY, DERIVE_SW_SECRET] {
        for len in 16..whole.len() {
            let command = [&header(request_type, 0), &whole[16..len]].concat();
            let answer = guest.request(control, &command, 133);
            assert_eq!((answer.used, answer.status), (0, IOERR));
        }
    }
}

#[test]
fn a_device_for_wrapped_keys_only() {
    let mut options = Options { wrapped_keys: true, ..Options::default() };
    options.config.engine.raw_keys = false;
    let mut guest = Guest::with(options);
    let control = guest.control();
    assert_eq!(guest.get_config(99, 1), [2]);
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(UNSUPP);
    let long_term = blob(&mut guest, IMPORT_KEY, &[5; 32]);
    let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
    guest.request(control, &program(0, &ephemeral), 1).assert_only_status(OK);
}

/// A reset empties the keyslots. Blobs stay valid.
#[test]
fn blobs_outlive_a_reset() {
    let mut guest = device();
    let control = guest.control();
    let long_term = blob(&mut guest, IMPORT_KEY, &[5; 32]);
    let ephemeral = blob(&mut guest, PREPARE_KEY, &long_term);
    guest.restart();
    guest.request(control, &program(0, &ephemeral), 1).assert_only_status(OK);
    guest.disconnect();
    guest.connect();
    guest.start();
    guest.request(control, &program(0, &ephemeral), 1).assert_only_status(OK);
    blob(&mut guest, PREPARE_KEY, &long_term);
}
