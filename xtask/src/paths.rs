// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where things are: the work tree, `target/`, and the user's cache.

use anyhow::{Context, Result, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories from which everything else is found.
pub struct Paths {
    /// The work tree.
    pub root: PathBuf,
    /// cargo's target directory.
    pub target: PathBuf,
    /// The cache of downloaded and built things, shared by all checkouts of this user.
    pub cache: PathBuf,
}

impl Paths {
    /// Finds the work tree this program was built from, and the cache.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
        ensure!(
            root.join("Cargo.toml").exists(),
            "{} no longer exists; run cargo xtask again in the work tree",
            root.display()
        );
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root: root.to_path_buf(), target, cache: cache_dir()? })
    }

    /// A directory of the guest tests' sources.
    pub fn guest_tests(&self, what: &str) -> PathBuf {
        self.root.join("guest-tests").join(what)
    }

    /// Where the results of a guest case are kept.
    pub fn results(&self, case: &str) -> PathBuf {
        self.target.join("guest-tests").join(case)
    }

    /// The log of a step, without what an earlier run has left there.
    pub fn fresh_log(&self, step: &str) -> PathBuf {
        let log = self.log(step);
        let _ = fs::remove_file(&log);
        log
    }

    /// The log of a step.
    pub fn log(&self, step: &str) -> PathBuf {
        self.target.join("xtask-logs").join(format!("{step}.log"))
    }
}

fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("VUBC_CACHE") {
        return std::path::absolute(dir).context("VUBC_CACHE");
    }
    let base = match set("XDG_CACHE_HOME") {
        Some(dir) => dir,
        None => set("HOME").context("neither HOME nor VUBC_CACHE is set: set one of them")?.join(".cache"),
    };
    Ok(base.join("vhost-user-blk-crypto"))
}
