// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Paths that this program created. It removes a path only while its own file is there.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A path of ours. Dropping it removes it, unless somebody has replaced it.
#[derive(Debug)]
pub struct OwnPath {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl OwnPath {
    /// What is at `path` now. Does not follow symbolic links.
    ///
    /// # Errors
    /// When nothing is there.
    pub fn find(path: &Path) -> io::Result<Self> {
        Ok(Self::of(path, &std::fs::symlink_metadata(path)?))
    }

    /// What is at `path`, with its metadata.
    pub fn of(path: &Path, metadata: &Metadata) -> Self {
        Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) }
    }

    /// Whether `metadata` belongs to the same file.
    pub fn is(&self, metadata: &Metadata) -> bool {
        self.identity == (metadata.dev(), metadata.ino())
    }

    /// Leaves it in place.
    pub fn keep(mut self) {
        self.path = PathBuf::new();
    }

    /// Removes it now. Returns false when something else is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> io::Result<bool> {
        let removed = self.try_remove();
        self.keep();
        removed
    }

    fn try_remove(&self) -> io::Result<bool> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if self.is(&found) => std::fs::remove_file(&self.path).map(|()| true),
            Ok(_) => Ok(false),
            // Somebody has already removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        match self.try_remove() {
            Ok(true) => {}
            Ok(false) => log::warn!("{} is not removed: another program has replaced it", self.path.display()),
            Err(error) => log::warn!("cannot remove {}: {error}", self.path.display()),
        }
    }
}
