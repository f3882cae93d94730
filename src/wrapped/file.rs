// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The file of the long-term wrapping key: 32 random bytes, for the owner only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{LockedKey, blob};
use crate::own_path::OwnPath;
use crate::secret::SecretBox;

const BYTES: usize = 32;

/// Why there is no wrapping key. The messages say what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum WrappingKeyError {
    #[error("cannot use the wrapping key file {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the wrapping key file {} does not have 32 bytes; name a file that this program has made, or a new one", .0.display())]
    Size(PathBuf),
    #[error("the wrapping key file {} is no regular file; name one that this program has made, or a new one", .0.display())]
    Kind(PathBuf),
    #[error("the wrapping key file {} can be read by others; run: chmod 600 {}", .0.display(), .0.display())]
    Mode(PathBuf),
    #[error("cannot keep a wrapping key in locked memory: {0}; raise the limit (ulimit -l, LimitMEMLOCK=)")]
    Memory(io::Error),
}

pub(super) fn fresh_key() -> Result<LockedKey, WrappingKeyError> {
    let mut key = SecretBox::new([0; BYTES]).map_err(WrappingKeyError::Memory)?;
    blob::random(&mut *key).map_err(|error| WrappingKeyError::Memory(io::Error::other(error)))?;
    Ok(key)
}

/// The key in the file; without a file a new one, mode 0600.
pub(super) fn open_or_create(path: &Path) -> Result<LockedKey, WrappingKeyError> {
    let failed = |error| WrappingKeyError::File { path: path.to_owned(), error };
    let created = File::options().write(true).create_new(true).mode(0o600).open(path);
    match created {
        Ok(mut file) => {
            // Removes an incomplete file: half a key is worse than none.
            let unfinished = OwnPath::of(path, &file.metadata().map_err(failed)?);
            let key = fresh_key()?;
            let written = file.write_all(&*key).and_then(|()| file.sync_all());
            written.map_err(failed)?;
            unfinished.keep();
            log::info!("made a new wrapping key in {}", path.display());
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(failed(error)),
    }
}

fn read(path: &Path) -> Result<LockedKey, WrappingKeyError> {
    let failed = |error| WrappingKeyError::File { path: path.to_owned(), error };
    // Does not wait for the other end of a pipe.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(WrappingKeyError::Kind(path.to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(WrappingKeyError::Mode(path.to_owned()));
    }
    // One byte more than allowed, to notice a longer file.
    let mut bytes = Zeroizing::new([0; BYTES + 1]);
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let mut key = SecretBox::new([0; BYTES]).map_err(WrappingKeyError::Memory)?;
    match bytes.split_first_chunk::<BYTES>() {
        Some((first, _)) if len == BYTES => key.copy_from_slice(first),
        _ => return Err(WrappingKeyError::Size(path.to_owned())),
    }
    Ok(key)
}
