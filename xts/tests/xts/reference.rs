// SPDX-License-Identifier: Apache-2.0 OR MIT

//! OpenSSL's AES-256-XTS, and data to try it on.

use openssl::symm::{Cipher, Crypter, Mode};
use scattered_xts::{Dun, Implementation, KEY_BYTES, XtsKey};

/// One data unit at a time, the tweak made here.
pub fn openssl(encrypt: bool, key: &[u8], mut dun: u128, unit: usize, data: &[u8]) -> Vec<u8> {
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

/// Bytes that do not repeat soon.
pub fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A key whose halves differ, as OpenSSL wants it.
pub fn key(seed: u32) -> [u8; KEY_BYTES] {
    noise(KEY_BYTES, seed).try_into().expect("64 bytes")
}

pub fn dun(number: u128) -> Dun {
    // The upper half must not matter.
    Dun::new([number as u64, (number >> 64) as u64, 0x1234, u64::MAX])
}

/// The implementation under test, and no other.
pub fn expand(implementation: Implementation, key: &[u8; KEY_BYTES]) -> XtsKey {
    let key = XtsKey::new(implementation, key);
    assert_eq!(key.implementation(), implementation);
    key
}
