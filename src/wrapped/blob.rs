// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The form of a wrapped key: AES-256-GCM with a random nonce.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `VBCK` |
//! | 1 | version, 1 |
//! | 1 | form: 1 long-term, 2 ephemeral |
//! | 2 | 0 |
//! | 12 | nonce |
//! | 32 | the key, encrypted |
//! | 16 | tag over all of the above |
//!
//! Its length differs from that of a raw AES-256-XTS key, so that a mix-up is noticed.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use zeroize::Zeroizing;

use super::{Blob, KDF_KEY_BYTES, WrapError};

const MAGIC: [u8; 4] = *b"VBCK";
const VERSION: u8 = 1;
const HEADER: usize = 8;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes of a blob.
pub(super) const BYTES: usize = HEADER + NONCE + KDF_KEY_BYTES + TAG;

/// The use of a blob. The two are not interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlobForm {
    LongTerm = 1,
    Ephemeral = 2,
}

impl BlobForm {
    fn header(self) -> [u8; HEADER] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, VERSION, self as u8, 0, 0]
    }
}

#[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::Unaligned)]
#[repr(C)]
struct Parts {
    header: [u8; HEADER],
    nonce: [u8; NONCE],
    key: [u8; KDF_KEY_BYTES],
    tag: [u8; TAG],
}

pub(super) fn random(bytes: &mut [u8]) -> Result<(), WrapError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(0) => return Err(WrapError::Random),
            Ok(done) => rest = rest.get_mut(done..).ok_or(WrapError::Random)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(WrapError::Random),
        }
    }
    Ok(())
}

pub(super) fn wrap(wrapping: &[u8; 32], form: BlobForm, key: &[u8; KDF_KEY_BYTES]) -> Result<Blob, WrapError> {
    let mut parts = Parts { header: form.header(), nonce: [0; NONCE], key: *key, tag: [0; TAG] };
    if let Err(error) = random(&mut parts.nonce) {
        zeroize::Zeroize::zeroize(&mut parts.key);
        return Err(error);
    }
    let cipher = Aes256Gcm::new(wrapping.into());
    let tag = cipher
        .encrypt_inout_detached(&Nonce::from(parts.nonce), &parts.header, parts.key.as_mut_slice().into())
        .map_err(|_| WrapError::BadKey)?;
    parts.tag = tag.into();
    Ok(zerocopy::transmute!(parts))
}

pub(super) fn unwrap(
    wrapping: &[u8; 32],
    form: BlobForm,
    blob: &[u8],
) -> Result<Zeroizing<[u8; KDF_KEY_BYTES]>, WrapError> {
    let blob: &Blob = blob.try_into().map_err(|_| WrapError::BadKey)?;
    let parts: &Parts = zerocopy::transmute_ref!(blob);
    if parts.header != form.header() {
        return Err(WrapError::BadKey);
    }
    let mut key = Zeroizing::new(parts.key);
    Aes256Gcm::new(wrapping.into())
        .decrypt_inout_detached(
            &Nonce::from(parts.nonce),
            &parts.header,
            key.as_mut_slice().into(),
            &Tag::from(parts.tag),
        )
        .map_err(|_| WrapError::BadKey)?;
    Ok(key)
}
