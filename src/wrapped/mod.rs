// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hardware-wrapped keys (the kernel's Documentation/block/inline-encryption.rst): keys that software never sees.
//!
//! A blob wraps a 32-byte key for the KDF of the "hardware". The long-term form is wrapped with a key that lives as
//! long as the emulated hardware, the ephemeral form with a key made at each start. Only the ephemeral form can be
//! used. No virtio, no slots, no disk.

#![forbid(unsafe_code)]

mod blob;
mod cache;
mod file;
mod kdf;

use std::path::Path;

use zeroize::Zeroizing;

use crate::secret::SecretBox;
use blob::BlobForm;
use scattered_xts::KEY_BYTES;

pub use cache::UnwrappedKeys;
pub use file::WrappingKeyError;

/// Bytes of the key in a blob, and of a raw key to import.
pub const KDF_KEY_BYTES: usize = 32;
/// Bytes of a software secret.
pub const SW_SECRET_BYTES: usize = 32;
/// Bytes of a blob.
pub const BLOB_BYTES: usize = blob::BYTES;

/// A wrapped key, in either form. Not secret.
pub type Blob = [u8; BLOB_BYTES];

/// An AES-256 key in locked memory.
type LockedKey = SecretBox<[u8; 32]>;

/// A blob cannot be used. It does not say why, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// Not a blob of this device in this form, or modified; or a raw key of the wrong size.
    #[error("the key is not one that this device has wrapped in this form")]
    BadKey,
    /// The system gave no random bytes.
    #[error("the system has no random bytes")]
    Random,
}

/// The wrapping keys of a device.
pub struct Wrapping {
    long_term: LockedKey,
    ephemeral: LockedKey,
}

impl Wrapping {
    /// Reads the long-term wrapping key from a file, which is created if missing; without a file, the key is fresh and
    /// dies with the process. The ephemeral key is always fresh.
    ///
    /// # Errors
    /// [`WrappingKeyError`].
    pub fn new(path: Option<&Path>) -> Result<Self, WrappingKeyError> {
        let long_term = match path {
            Some(path) => file::open_or_create(path)?,
            None => file::fresh_key()?,
        };
        Ok(Self { long_term, ephemeral: file::fresh_key()? })
    }

    /// A new key, long-term wrapped.
    ///
    /// # Errors
    /// [`WrapError::Random`].
    pub fn generate(&self) -> Result<Blob, WrapError> {
        let mut key = Zeroizing::new([0; KDF_KEY_BYTES]);
        blob::random(&mut *key)?;
        blob::wrap(&self.long_term, BlobForm::LongTerm, &key)
    }

    /// A raw key, long-term wrapped.
    ///
    /// # Errors
    /// [`WrapError`]; the key must have [`KDF_KEY_BYTES`] bytes.
    pub fn import(&self, raw: &[u8]) -> Result<Blob, WrapError> {
        blob::wrap(&self.long_term, BlobForm::LongTerm, raw.try_into().map_err(|_| WrapError::BadKey)?)
    }

    /// A long-term wrapped key, ephemerally wrapped.
    ///
    /// # Errors
    /// [`WrapError`].
    pub fn prepare(&self, long_term: &[u8]) -> Result<Blob, WrapError> {
        let key = blob::unwrap(&self.long_term, BlobForm::LongTerm, long_term)?;
        blob::wrap(&self.ephemeral, BlobForm::Ephemeral, &key)
    }

    /// The inline-encryption key of an ephemerally wrapped key.
    ///
    /// # Errors
    /// [`WrapError::BadKey`].
    pub fn inline_key(&self, ephemeral: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, WrapError> {
        Ok(kdf::inline_encryption_key(&*blob::unwrap(&self.ephemeral, BlobForm::Ephemeral, ephemeral)?))
    }

    /// The software secret of an ephemerally wrapped key.
    ///
    /// # Errors
    /// [`WrapError::BadKey`].
    pub fn sw_secret(&self, ephemeral: &[u8]) -> Result<Zeroizing<[u8; SW_SECRET_BYTES]>, WrapError> {
        Ok(kdf::software_secret(&*blob::unwrap(&self.ephemeral, BlobForm::Ephemeral, ephemeral)?))
    }
}

impl std::fmt::Debug for Wrapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wrapping([redacted])")
    }
}

#[cfg(test)]
mod tests;
