// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache: directories keyed by a hash of the recipe that makes them.
//!
//! An entry is made under a temporary name and renamed when complete, so an interrupted run leaves nothing that
//! looks finished; a file lock per entry keeps concurrent runs from making the same thing twice.

use crate::paths::Paths;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A short hash of everything that decides what an entry contains.
pub fn key(recipe: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in recipe {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect()
}

/// A hash of the content of a file.
pub fn content_key(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

/// The directory of entry `name`-`key`, made with `build` (given an empty directory) when it is missing.
pub fn entry(cache: &Path, name: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = cache.join(format!("{name}-{key}"));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(cache)
        .with_context(|| format!("cannot make the cache {} (VUBC_CACHE chooses another)", cache.display()))?;
    let lock = cache.join(format!("{name}-{key}.lock"));
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another run of xtask that is making {}", path.display());
        lock.lock().context("cannot lock the cache")?;
    }
    if path.exists() {
        return Ok(path);
    }
    let partial = cache.join(format!("{name}-{key}.partial"));
    remove_tree(&partial)?;
    fs::create_dir(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    if let Err(e) = build(&partial) {
        let _ = remove_tree(&partial);
        return Err(e);
    }
    fs::rename(&partial, &path).with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(path)
}

/// Removes a directory tree, if there is one.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Deletes the whole cache.
pub fn clean(paths: &Paths) -> Result<()> {
    remove_tree(&paths.cache)?;
    println!("removed {}", paths.cache.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_depends_on_every_part_and_its_borders() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab", ""]));
        assert_ne!(key(&["a", "b"]), key(&["b", "a"]));
    }

    #[test]
    fn a_failed_build_leaves_no_entry_and_a_good_one_is_built_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(entry(dir.path(), "x", "1", |_| anyhow::bail!("no")).is_err());
        let path = entry(dir.path(), "x", "1", |p| Ok(fs::write(p.join("f"), "1")?)).unwrap();
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "1");
        let again = entry(dir.path(), "x", "1", |_| panic!("built twice")).unwrap();
        assert_eq!(path, again);
    }
}
