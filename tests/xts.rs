// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The engine against published vectors and against two independent implementations: OpenSSL and the `xts-mode` crate.

use openssl::symm::{Cipher, Crypter, Mode};
use proptest::prelude::*;
use vhost_user_blk_crypto::crypto::{Dun, KEY_BYTES, XtsKey};

/// IEEE 1619-2007 annex B and NIST CAVP.
const VECTORS: &str = include_str!("data/aes-256-xts.txt");

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

fn dun_of(tweak: &[u8]) -> Dun {
    let word = |i: usize| u64::from_le_bytes(tweak[i * 8..i * 8 + 8].try_into().expect("8 bytes"));
    Dun::new([word(0), word(1), 0, 0])
}

/// The engine takes data units of powers of two; the vectors also have 48 bytes. As a data unit of 64 bytes whose last
/// block is not compared, such a vector tests the same: no block depends on a later one.
fn engine(encrypt: bool, key: &[u8], dun: Dun, data: &[u8]) -> Vec<u8> {
    let unit = data.len().next_power_of_two();
    let mut buffer = data.to_vec();
    buffer.resize(unit, 0);
    let key = XtsKey::new(key.try_into().expect("64 bytes"));
    let bits = unit.trailing_zeros() as u8;
    if encrypt {
        key.encrypt(dun, bits, &mut buffer)
    } else {
        key.decrypt(dun, bits, &mut buffer)
    }
    buffer.truncate(data.len());
    buffer
}

#[test]
fn published_vectors() {
    let mut count = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split_whitespace().map(hex).collect();
        let [key, tweak, plain, cipher] = &fields[..] else { panic!("{line}") };
        assert_eq!(&engine(true, key, dun_of(tweak), plain), cipher, "{line}");
        assert_eq!(&engine(false, key, dun_of(tweak), cipher), plain, "{line}");
        count += 1;
    }
    assert_eq!(count, 605, "5 IEEE and 600 NIST vectors");
}

/// OpenSSL, one data unit at a time, the tweak made here.
fn openssl(encrypt: bool, key: &[u8], mut dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in data.chunks(unit) {
        let mode = if encrypt { Mode::Encrypt } else { Mode::Decrypt };
        let mut crypter = Crypter::new(Cipher::aes_256_xts(), mode, key, Some(&dun.to_le_bytes())).expect("OpenSSL");
        let mut buffer = vec![0; piece.len() + 16];
        let done = crypter.update(piece, &mut buffer).expect("OpenSSL");
        out.extend_from_slice(&buffer[..done]);
        dun = dun.wrapping_add(1);
    }
    out
}

fn words(dun: u128) -> [u64; 4] {
    [dun as u64, (dun >> 64) as u64, 0, 0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn equals_openssl_and_xts_mode(
        key in proptest::collection::vec(any::<u8>(), KEY_BYTES),
        dun in prop_oneof![any::<u128>(), (0u128..9).prop_map(|n| u128::from(u64::MAX) - n), (0u128..9).prop_map(|n| u128::MAX - n)],
        unit_bits in 4u8..=16,
        units in 1usize..9,
        seed in any::<u8>(),
    ) {
        // OpenSSL refuses equal halves.
        prop_assume!(key[..32] != key[32..]);
        let unit = 1usize << unit_bits;
        let plain: Vec<u8> = (0..unit * units).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        let expected = openssl(true, &key, dun, unit, &plain);

        let ours = XtsKey::new(key.as_slice().try_into().expect("64 bytes"));
        let mut buffer = plain.clone();
        ours.encrypt(Dun::new(words(dun)), unit_bits, &mut buffer);
        prop_assert!(buffer == expected, "encryption differs from OpenSSL");
        ours.decrypt(Dun::new(words(dun)), unit_bits, &mut buffer);
        prop_assert!(buffer == plain, "decryption does not undo encryption");
        prop_assert!(openssl(false, &key, dun, unit, &expected) == plain);

        use aes::cipher::{Array, KeyInit};
        let half = |bytes: &[u8]| aes::Aes256::new(&Array::try_from(bytes).expect("32 bytes"));
        let theirs = xts_mode::Xts128::<aes::Aes256>::new(half(&key[..32]), half(&key[32..]));
        let mut buffer = plain.clone();
        for (index, piece) in buffer.chunks_mut(unit).enumerate() {
            theirs.encrypt_sector(piece, dun.wrapping_add(index as u128).to_le_bytes().into());
        }
        prop_assert!(buffer == expected, "xts-mode and OpenSSL differ");
    }
}
