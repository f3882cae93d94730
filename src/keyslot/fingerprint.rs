// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fingerprints of keys that are in no slot.

#![forbid(unsafe_code)]

use std::io;

use aes::Aes256;
use cmac::{Cmac, KeyInit, Mac};
use scattered_xts::KEY_BYTES;

use crate::secret::SecretBox;

/// Makes fingerprints: the same for the same key while the device runs, and useless to find the key.
pub struct Fingerprints {
    salt: SecretBox<[u8; 32]>,
}

impl Fingerprints {
    /// Uses a new random salt.
    ///
    /// # Errors
    /// When there is no locked memory or no randomness.
    pub fn new() -> io::Result<Self> {
        let mut salt = SecretBox::new([0; 32])?;
        // A request this small is never cut short.
        rustix::rand::getrandom(&mut *salt, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self { salt })
    }

    /// The front of AES-256-CMAC over the key. The caller wipes the stack.
    pub fn of(&self, key: &[u8; KEY_BYTES]) -> u64 {
        let mut mac = Cmac::<Aes256>::new((&*self.salt).into());
        mac.update(key);
        let tag = mac.finalize().into_bytes();
        tag.first_chunk().map_or(0, |front| u64::from_le_bytes(*front))
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use openssl::pkey::PKey;
    use openssl::sign::Signer;
    use openssl::symm::Cipher;

    #[test]
    fn fingerprints_are_cmacs_with_a_salt_of_their_own() {
        let fingerprints = Fingerprints::new().expect("a salt");
        for byte in 0..3 {
            let key = [byte; KEY_BYTES];
            let salt = PKey::cmac(&Cipher::aes_256_cbc(), &*fingerprints.salt).expect("OpenSSL");
            let tag = Signer::new_without_digest(&salt).and_then(|mut mac| mac.sign_oneshot_to_vec(&key));
            assert_eq!(fingerprints.of(&key).to_le_bytes(), tag.expect("OpenSSL")[..8]);
        }
        let others = Fingerprints::new().expect("a salt");
        assert_ne!(others.of(&[1; KEY_BYTES]), fingerprints.of(&[1; KEY_BYTES]));
    }
}
