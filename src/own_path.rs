// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Paths that this program has made, and removes only as long as they are what it has made.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Something at a path that is ours. Dropping it removes it, unless somebody else has put something in its place.
#[derive(Debug)]
pub struct OwnPath {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl OwnPath {
    /// What is at `path` now, a symbolic link itself.
    ///
    /// # Errors
    /// When nothing can be found there.
    pub fn find(path: &Path) -> io::Result<Self> {
        Ok(Self::of(path, &std::fs::symlink_metadata(path)?))
    }

    /// What is known to be at `path`.
    pub fn of(path: &Path, metadata: &Metadata) -> Self {
        Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) }
    }

    /// Whether it is the same.
    pub fn is(&self, metadata: &Metadata) -> bool {
        self.identity == (metadata.dev(), metadata.ino())
    }

    /// It stays where it is.
    pub fn keep(mut self) {
        self.path = PathBuf::new();
    }

    /// Removes it now. False when something else is there.
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
            // Somebody has removed it before.
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
            Ok(false) => log::warn!("{} is left alone: somebody else has put it there", self.path.display()),
            Err(error) => log::warn!("cannot remove {}: {error}", self.path.display()),
        }
    }
}
