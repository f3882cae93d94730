// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Contiguous data, in place.

use proptest::prelude::*;
use scattered_xts::{Dun, Implementation, KEY_BYTES};

use crate::reference::{dun, expand, key, noise, openssl};

/// IEEE 1619-2007 annex B and NIST CAVP.
const VECTORS: &str = include_str!("../data/aes-256-xts.txt");

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// Data units are powers of two; the vectors also have 48 bytes. As a data unit of 64 bytes whose last block is not
/// compared, such a vector tests the same: no block depends on a later one.
fn crypt(implementation: Implementation, encrypt: bool, key: &[u8], dun: Dun, data: &[u8]) -> Vec<u8> {
    let unit = data.len().next_power_of_two();
    let mut buffer = data.to_vec();
    buffer.resize(unit, 0);
    let key = expand(implementation, key.try_into().expect("64 bytes"));
    let bits = unit.trailing_zeros() as u8;
    if encrypt {
        key.encrypt_in_place(dun, bits, &mut buffer)
    } else {
        key.decrypt_in_place(dun, bits, &mut buffer)
    }
    buffer.truncate(data.len());
    buffer
}

pub fn published_vectors(implementation: Implementation) {
    let mut count = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split_whitespace().map(hex).collect();
        let [key, tweak, plain, cipher] = &fields[..] else { panic!("{line}") };
        let dun = dun(u128::from_le_bytes(tweak[..].try_into().expect("16 bytes")));
        assert_eq!(&crypt(implementation, true, key, dun, plain), cipher, "{line}");
        assert_eq!(&crypt(implementation, false, key, dun, cipher), plain, "{line}");
        count += 1;
    }
    assert_eq!(count, 605, "5 IEEE and 600 NIST vectors");
}

/// From one AES block, whose multiples the device does not offer as data units but the kernels work in, to 64 KiB.
pub fn every_data_unit_size_and_length(implementation: Implementation) {
    let raw = key(1);
    let key = expand(implementation, &raw);
    for unit_bits in 4..=16u8 {
        let unit = 1usize << unit_bits;
        let most = (65536 / unit).clamp(2, 70);
        let plain = noise(unit * most, u32::from(unit_bits));
        let cipher = openssl(true, &raw, 99, unit, &plain);
        // Besides, a rest of some bytes that must stay as it is.
        for (units, rest) in (0..=most).map(|units| (units, (units * 7 % unit).min((most - units) * unit))) {
            let len = units * unit + rest;
            let mut data = plain[..len].to_vec();
            key.encrypt_in_place(dun(99), unit_bits, &mut data);
            assert!(data[..units * unit] == cipher[..units * unit], "encryption of {units} times {unit}");
            assert!(data[units * unit..] == plain[units * unit..len], "rest after {units} times {unit}");
            key.decrypt_in_place(dun(99), unit_bits, &mut data);
            assert!(data == plain[..len], "decryption of {units} times {unit}");
        }
    }
}

pub fn data_unit_numbers_carry(implementation: Implementation) {
    const UNITS: usize = 40;
    let raw = key(2);
    let key = expand(implementation, &raw);
    let plain = noise(UNITS * 512, 3);
    // Past the ends of 32, 64 and 128 bits, at every place in a group of tweaks.
    for edge in [1 << 32, 1 << 64, 0u128, 1 << 63, 1 << 127] {
        for before in 0..UNITS as u128 {
            let first = edge.wrapping_sub(before);
            let mut data = plain.clone();
            key.encrypt_in_place(dun(first), 9, &mut data);
            assert!(data == openssl(true, &raw, first, 512, &plain), "data units from {first:#x} on");
            key.decrypt_in_place(dun(first), 9, &mut data);
            assert!(data == plain, "data units from {first:#x} on");
        }
    }
}

pub fn any_key(implementation: Implementation) {
    proptest!(ProptestConfig::with_cases(200), |(
        raw in proptest::collection::vec(any::<u8>(), KEY_BYTES),
        first in any::<u128>(),
        unit_bits in 4u8..=13,
        units in 1usize..9,
        seed in any::<u32>(),
    )| {
        // OpenSSL refuses equal halves.
        prop_assume!(raw[..32] != raw[32..]);
        let unit = 1usize << unit_bits;
        let plain = noise(unit * units, seed);
        let expected = openssl(true, &raw, first, unit, &plain);

        let ours = expand(implementation, raw.as_slice().try_into().expect("64 bytes"));
        let mut buffer = plain.clone();
        ours.encrypt_in_place(dun(first), unit_bits, &mut buffer);
        prop_assert!(buffer == expected, "encryption differs from OpenSSL");
        ours.decrypt_in_place(dun(first), unit_bits, &mut buffer);
        prop_assert!(buffer == plain, "decryption does not undo encryption");
        prop_assert!(openssl(false, &raw, first, unit, &expected) == plain);

        use aes::cipher::{Array, KeyInit};
        let half = |bytes: &[u8]| aes::Aes256::new(&Array::try_from(bytes).expect("32 bytes"));
        let theirs = xts_mode::Xts128::<aes::Aes256>::new(half(&raw[..32]), half(&raw[32..]));
        let mut buffer = plain.clone();
        for (index, piece) in buffer.chunks_mut(unit).enumerate() {
            theirs.encrypt_sector(piece, first.wrapping_add(index as u128).to_le_bytes().into());
        }
        prop_assert!(buffer == expected, "xts-mode and OpenSSL differ");
    });
}
