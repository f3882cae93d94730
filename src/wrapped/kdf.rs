// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The KDF of the emulated hardware: NIST SP 800-108r1 in counter mode with AES-256-CMAC.
//!
//! Label and contexts are those of the kernel's tests of wrapped keys, which copy a real SoC's.

use aes::Aes256;
use cmac::{Cmac, KeyInit, Mac};
use zeroize::Zeroizing;

use super::{KDF_KEY_BYTES, SW_SECRET_BYTES};
use scattered_xts::KEY_BYTES;

const LABEL: [u8; 11] = [0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x20];
const INLINE_CONTEXT: &[u8; 36] = b"inline encryption key\0\0\0\0\0\0\x02\x43\x00\x82\x50\0\0\0\0";
const SECRET_CONTEXT: &[u8; 28] = b"raw secret\0\0\0\0\0\0\0\0\0\x02\x17\x00\x80\x50\0\0\0\0";

/// The 64-byte key for AES-256-XTS.
pub(super) fn inline_encryption_key(key: &[u8; KDF_KEY_BYTES]) -> Zeroizing<[u8; KEY_BYTES]> {
    derive(key, INLINE_CONTEXT)
}

/// The 32-byte secret that the kernel uses for everything that is not inline encryption.
pub(super) fn software_secret(key: &[u8; KDF_KEY_BYTES]) -> Zeroizing<[u8; SW_SECRET_BYTES]> {
    derive(key, SECRET_CONTEXT)
}

fn derive<const N: usize>(key: &[u8; KDF_KEY_BYTES], context: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N.is_multiple_of(16) && N < 4096, "whole blocks, and a bit length that fits") };
    let mut output = Zeroizing::new([0; N]);
    let bits = N as u32 * 8; // bounded above
    for (block, counter) in output.chunks_mut(16).zip(1u32..) {
        let mut mac = Cmac::<Aes256>::new(key.into());
        mac.update(&counter.to_be_bytes());
        mac.update(&LABEL);
        mac.update(&[0]);
        mac.update(context);
        mac.update(&bits.to_be_bytes());
        let mut bytes = Zeroizing::new([0u8; 16]);
        bytes.copy_from_slice(&mac.finalize().into_bytes());
        block.copy_from_slice(&*bytes);
    }
    output
}
