// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The key derivation that inline-encryption hardware does with a hardware-wrapped key, repeated in software.
//!
//! Linux does not define it. The device derives as the first hardware with such keys does: NIST SP 800-108 in counter
//! mode, with AES-256-CMAC. Block `i` of the output, from 1, is
//! `CMAC(key, be32(i) || label || 0x00 || context || be32(length of the output in bits))`.

use anyhow::{Result, ensure};
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm::Cipher;

/// Length of the key inside a hardware-wrapped key.
pub const KEY_SIZE: usize = 32;

const LABEL: &[u8] = b"\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00\x20";
const INLINE_ENCRYPTION_KEY: &[u8] = b"inline encryption key\0\0\0\0\0\0\x02\x43\x00\x82\x50\0\0\0\0";
const SOFTWARE_SECRET: &[u8] = b"raw secret\0\0\0\0\0\0\0\0\0\x02\x17\x00\x80\x50\0\0\0\0";

/// The key that the hardware programs into a keyslot.
pub fn inline_encryption_key(key: &[u8]) -> Result<[u8; 64]> {
    derive(key, INLINE_ENCRYPTION_KEY)
}

/// The secret that software gets for everything but file contents.
pub fn software_secret(key: &[u8]) -> Result<[u8; 32]> {
    derive(key, SOFTWARE_SECRET)
}

fn derive<const N: usize>(key: &[u8], context: &[u8]) -> Result<[u8; N]> {
    ensure!(key.len() == KEY_SIZE, "a hardware-wrapped key protects {KEY_SIZE} bytes, not {}", key.len());
    let key = PKey::cmac(&Cipher::aes_256_cbc(), key)?;
    let bits = u32::try_from(N * 8)?.to_be_bytes();
    let mut output = [0; N];
    for (i, block) in (1u32..).zip(output.chunks_mut(16)) {
        let mut mac = Signer::new_without_digest(&key)?;
        for part in [&i.to_be_bytes()[..], LABEL, &[0], context, &bits] {
            mac.update(part)?;
        }
        block.copy_from_slice(&mac.sign_to_vec()?[..block.len()]);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    fn key() -> [u8; 32] {
        std::array::from_fn(|i| i as u8)
    }

    /// Both made with OpenSSL's own KBKDF (`openssl kdf`), which this code does not use, and with Python's
    /// `cryptography`.
    #[test]
    fn inline_key() {
        assert_eq!(
            hex::encode(&inline_encryption_key(&key()).expect("key")),
            concat!(
                "16317c8fe3133e7aef46bdede2b39f09a81e9fbe0c095f906c5c1341da6eaf17",
                "f151e2982f4f14a5495f78761066cafa5ebb995997d3fb5c8678bb394b6b57dc"
            )
        );
    }

    #[test]
    fn secret() {
        assert_eq!(
            hex::encode(&software_secret(&key()).expect("secret")),
            "48b69fb100fda3d600b75d7f25e2b8f1cf95e5de1bd624b9273d537519270c65"
        );
    }

    #[test]
    fn sizes() {
        assert_eq!((LABEL.len(), INLINE_ENCRYPTION_KEY.len(), SOFTWARE_SECRET.len()), (11, 36, 28));
        assert!(software_secret(&[1; 31]).is_err() && inline_encryption_key(&[1; 64]).is_err());
    }
}
