// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Broken hardware: the ciphertext is wrong in exactly the way that the fault says. OpenSSL is the reference.

mod common;

use common::*;
use vhost_user_blk_crypto::disk::Aio;

const UNIT: usize = 4096;
const UNITS: usize = 5;

/// The wrong ciphertext of data units from `dun` on. `encrypt` gets each of them with its own number.
fn each_unit(plain: &[u8], dun: u128, mut encrypt: impl FnMut(u128, &[u8]) -> Vec<u8>) -> Vec<u8> {
    plain.chunks(UNIT).zip(0..).flat_map(|(unit, i)| encrypt(dun + i, unit)).collect()
}

fn words(dun: u128) -> [u64; 4] {
    [dun as u64, (dun >> 64) as u64, 0, 0]
}

fn program(guest: &mut Guest, slot: u32, key: &[u8; 64]) {
    let control = guest.control();
    let command = Program { dun_bytes: 16, ..Program::new(slot, key, UNIT.ilog2()) };
    guest.request(control, &command.bytes(), 1).assert_only_status(OK);
}

fn write(guest: &mut Guest, sector: u64, dun: u128, plain: &[u8]) -> Vec<u8> {
    guest.request(0, &crypto_write(sector, 0, words(dun), plain), 1).assert_only_status(OK);
    guest.image_bytes(sector * 512, plain.len())
}

fn read(guest: &mut Guest, sector: u64, dun: u128, len: usize) -> Vec<u8> {
    let answer = guest.request(0, &crypto_header(CRYPTO_IN, sector, 0, words(dun)), len + 1);
    assert_eq!((answer.status, answer.used as usize), (OK, len + 1));
    answer.data
}

/// Checks all that a broken engine must do. `wrong` is its ciphertext for plaintext from a DUN on. The slot's key is
/// `key(1)`, the one before `key(0)`.
fn check(spec: &str, wrong: impl Fn(u128, &[u8]) -> Vec<u8>) {
    let disks = [DiskKind::File(Aio::Sync), DiskKind::File(Aio::Threads), DiskKind::Tmpfs];
    for disk in disks {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        let fault = guest.device.faults().add(&format!("{spec},sector=800-1600")).expect("fault");
        program(&mut guest, 0, &key(0));
        program(&mut guest, 0, &key(1));
        let plain = pattern(3, UNITS * UNIT);
        for dun in [5, (77 << 32) + 3, u128::from(u64::MAX) - 1, 0xa1b2_c3d4_e5f6_0718_293a_4b5c_6d7e_8f90] {
            let right = openssl_xts(&key(1), dun, UNIT, &plain);
            let found = write(&mut guest, 800, dun, &plain);
            assert!(found == wrong(dun, &plain), "{spec} on {disk:?}: DUN {dun:#x}");
            assert!(found != right, "{spec} on {disk:?}: DUN {dun:#x}: nothing is wrong");
            // A read with the same broken engine returns the plaintext.
            assert!(read(&mut guest, 800, dun, plain.len()) == plain, "{spec} on {disk:?}: reading");
            // Other sectors and plain requests are right.
            assert!(write(&mut guest, 1608, dun, &plain) == right);
            assert!(read(&mut guest, 1608, dun, plain.len()) == plain);
            guest.request(0, &write_request(808, &plain), 1).assert_only_status(OK);
            assert!(guest.image_bytes(808 * 512, plain.len()) == plain);
        }
        // Longer than the device's bounce buffer, in odd pieces.
        let long = pattern(4, 400 * 1024);
        let dun = (9 << 40) + 1;
        let cut = Cut { readable: vec![16, 40, 1000, 33, 70001, 4096], ..Cut::default() };
        guest.request_cut(0, &crypto_write(800, 0, words(dun), &long), 1, &cut).assert_only_status(OK);
        assert!(guest.image_bytes(800 * 512, long.len()) == wrong(dun, &long), "{spec} on {disk:?}: in pieces");
        assert!(read(&mut guest, 800, dun, long.len()) == long, "{spec} on {disk:?}: in pieces");

        // Without the fault, the engine decrypts right ciphertext, and the wrong ciphertext to noise.
        guest.device.faults().clear(Some(fault)).expect("clear");
        assert!(read(&mut guest, 800, dun, long.len()) != long);
        assert!(write(&mut guest, 800, dun, &long) == openssl_xts(&key(1), dun, UNIT, &long));
    }
}

#[test]
fn dun_not_incremented() {
    check("dun-not-incremented", |dun, plain| each_unit(plain, dun, |_, unit| openssl_xts(&key(1), dun, UNIT, unit)));
}

#[test]
fn dun_of_32_bits() {
    // Unlike the others, this fault does not change small DUNs.
    let mut guest = Guest::new();
    guest.device.faults().add("dun-32-bit").expect("fault");
    program(&mut guest, 0, &key(1));
    let plain = pattern(3, UNITS * UNIT);
    assert!(write(&mut guest, 0, 5, &plain) == openssl_xts(&key(1), 5, UNIT, &plain));
    for dun in [(77 << 32) + 3, (1 << 32) - 2, u128::MAX - 8] {
        let wrong = each_unit(&plain, dun, |dun, unit| openssl_xts(&key(1), dun & 0xffff_ffff, UNIT, unit));
        let found = write(&mut guest, 0, dun, &plain);
        assert!(found == wrong && found != openssl_xts(&key(1), dun, UNIT, &plain), "{dun:#x}");
        assert!(read(&mut guest, 0, dun, plain.len()) == plain);
    }
}

#[test]
fn dun_in_the_wrong_byte_order() {
    check("dun-byte-order", |dun, plain| {
        each_unit(plain, dun, |dun, unit| {
            let mut bytes = dun.to_le_bytes();
            bytes.reverse();
            openssl_xts(&key(1), u128::from_le_bytes(bytes), UNIT, unit)
        })
    });
}

#[test]
fn data_units_that_are_too_small() {
    check("data-unit=512", |dun, plain| openssl_xts(&key(1), dun, 512, plain));
}

#[test]
fn data_units_that_are_too_large() {
    check("data-unit=65536", |dun, plain| openssl_xts(&key(1), dun, 65536, plain));
}

#[test]
fn key_halves_swapped() {
    let right = key(1);
    let swapped: [u8; 64] = [&right[32..], &right[..32]].concat().try_into().expect("64 bytes");
    check("key-halves-swapped", |dun, plain| openssl_xts(&swapped, dun, UNIT, plain));
}

#[test]
fn previous_key() {
    check("previous-key", |dun, plain| openssl_xts(&key(0), dun, UNIT, plain));
}

#[test]
fn plaintext() {
    check("plaintext", |_, plain| plain.to_vec());
}

#[test]
fn flipped_bits() {
    check("bit-flip=2,bit=4093", |dun, plain| {
        each_unit(plain, dun, |dun, unit| {
            let mut ciphertext = openssl_xts(&key(1), dun, UNIT, unit);
            if dun % 2 == 0 {
                ciphertext[511] ^= 0x20;
            }
            ciphertext
        })
    });
}

#[test]
fn several_defects_at_once() {
    let right = key(1);
    let swapped: [u8; 64] = [&right[32..], &right[..32]].concat().try_into().expect("64 bytes");
    let mut guest = Guest::new();
    for spec in ["key-halves-swapped", "dun-byte-order", "bit-flip"] {
        guest.device.faults().add(spec).expect("fault");
    }
    program(&mut guest, 0, &right);
    let plain = pattern(3, UNIT);
    let mut wrong = openssl_xts(&swapped, 5u128.swap_bytes(), UNIT, &plain);
    wrong[0] ^= 1;
    assert!(write(&mut guest, 0, 5, &plain) == wrong);
}

#[test]
fn only_writes_or_only_one_slot_or_only_sometimes() {
    let mut guest = Guest::new();
    guest.device.faults().add("plaintext,op=write,slot=0,nth=2,count=1").expect("fault");
    for slot in 0..2 {
        program(&mut guest, slot, &key(slot.into()));
    }
    let plain = pattern(3, UNIT);
    let right = openssl_xts(&key(0), 1, UNIT, &plain);
    let other = crypto_write(64, 1, words(1), &plain);
    guest.request(0, &other, 1).assert_only_status(OK);
    let written = [1, 2, 3].map(|_| write(&mut guest, 0, 1, &plain));
    assert!(written == [right.clone(), plain.clone(), right]);
    assert!(read(&mut guest, 0, 1, UNIT) == plain, "reads are healthy");
    guest.request(0, &other, 1).assert_only_status(OK);
    assert!(guest.image_bytes(64 * 512, UNIT) == openssl_xts(&key(1), 1, UNIT, &plain));
}

/// The device keeps wrong keys only for slots programmed while such a fault exists, and never longer than the slot's
/// key.
#[test]
fn other_keys_are_kept_only_as_long_as_documented() {
    let mut guest = Guest::new();
    let control = guest.control();
    let plain = pattern(3, UNIT);
    let with = |key: &[u8; 64]| openssl_xts(key, 1, UNIT, &plain);
    program(&mut guest, 0, &key(0));
    guest.device.faults().add("previous-key").expect("fault");
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(0)), "there is no previous key");
    program(&mut guest, 0, &key(1));
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(1)), "the one before was programmed before the fault");
    program(&mut guest, 0, &key(2));
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(1)));
    guest.request(control, &evict(0), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(0, 0, words(1), &plain), 1).assert_only_status(NOKEY);
    program(&mut guest, 0, &key(3));
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(3)), "evicting forgets");
    program(&mut guest, 0, &key(4));
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(3)));
    guest.restart();
    program(&mut guest, 0, &key(5));
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(5)), "a reset forgets");
    program(&mut guest, 0, &key(6));
    guest.device.faults().clear(None).expect("clear");
    guest.device.faults().add("previous-key").expect("fault");
    assert!(write(&mut guest, 0, 1, &plain) == with(&key(6)), "clearing forgets");
}
