// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-256-XTS (IEEE 1619) of whole data units, by OpenSSL.

use anyhow::{Context, Result};
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;

/// One key, ready for any number of data units.
pub struct Xts {
    encrypt: CipherCtx,
    decrypt: CipherCtx,
}

impl Xts {
    /// Takes the 64-byte key: first half for the data, second half for the tweak.
    pub fn new(key: &[u8; 64]) -> Result<Self> {
        let mut encrypt = CipherCtx::new()?;
        let mut decrypt = CipherCtx::new()?;
        encrypt
            .encrypt_init(Some(Cipher::aes_256_xts()), Some(key), None)
            .context("OpenSSL refuses the XTS key (it refuses one with two equal halves)")?;
        decrypt.decrypt_init(Some(Cipher::aes_256_xts()), Some(key), None)?;
        Ok(Self { encrypt, decrypt })
    }

    /// The ciphertext of one data unit.
    pub fn encrypt(&mut self, dun: u128, plaintext: &[u8]) -> Result<Vec<u8>> {
        let tweak = dun.to_le_bytes();
        self.encrypt.encrypt_init(None, None, Some(&tweak))?;
        update(&mut self.encrypt, plaintext)
    }

    /// The plaintext of one data unit.
    pub fn decrypt(&mut self, dun: u128, ciphertext: &[u8]) -> Result<Vec<u8>> {
        let tweak = dun.to_le_bytes();
        self.decrypt.decrypt_init(None, None, Some(&tweak))?;
        update(&mut self.decrypt, ciphertext)
    }
}

fn update(ctx: &mut CipherCtx, input: &[u8]) -> Result<Vec<u8>> {
    let mut output = Vec::with_capacity(input.len());
    ctx.cipher_update_vec(input, &mut output)?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    /// IEEE 1619-2007 annex B, vector 10: XTS-AES-256, data unit number 0xff, 512 bytes 00..ff 00..ff.
    #[test]
    fn ieee_1619_vector_10() {
        let key = hex::decode_xts_key(concat!(
            "2718281828459045235360287471352662497757247093699959574966967627",
            "3141592653589793238462643383279502884197169399375105820974944592"
        ))
        .expect("key");
        let plaintext: Vec<u8> = (0..=255).chain(0..=255).collect();
        let ciphertext = hex::decode(concat!(
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44",
            "680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0",
            "c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7d",
            "e8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f",
            "93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6",
            "dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1",
            "505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b",
            "11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac",
            "6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493",
            "c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa",
            "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"
        ))
        .expect("ciphertext");

        let mut xts = Xts::new(&key).expect("XTS");
        assert_eq!(xts.encrypt(0xff, &plaintext).expect("encrypt"), ciphertext);
        assert_eq!(xts.decrypt(0xff, &ciphertext).expect("decrypt"), plaintext);
        assert_ne!(xts.encrypt(0xfe, &plaintext).expect("encrypt"), ciphertext);
    }

    /// A data unit of 4096 bytes with a number above 64 bits; made with Python's `cryptography`.
    #[test]
    fn large_unit_and_number() {
        let key: [u8; 64] = std::array::from_fn(|i| i as u8);
        let plaintext: Vec<u8> = (0..4096u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        let ciphertext = Xts::new(&key)
            .expect("XTS")
            .encrypt(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, &plaintext)
            .expect("encrypt");
        assert_eq!(hex::encode(&ciphertext[..16]), "cafdc3bdff34e4eee26d8fc7ece03991");
        assert_eq!(hex::encode(&ciphertext[4080..]), "2f05435b6551320f2995c8ed63b2c3fe");
    }

    #[test]
    fn equal_halves_are_refused() {
        assert!(Xts::new(&[7; 64]).is_err());
    }
}
