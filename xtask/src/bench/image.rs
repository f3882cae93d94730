// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The disk images: one that all raw contenders share, and a LUKS one of the same size. All of their blocks are allocated,
//! because reading a hole costs less than reading data.

use super::root::Root;
use crate::process::run_logged;
use anyhow::{Context, Result, ensure};
use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Where images are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Tmpfs,
    /// On a disk.
    Disk,
}

impl Place {
    /// Name, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Place::Tmpfs => "tmpfs",
            Place::Disk => "disk",
        }
    }
}

/// `TMPFS_MAGIC` of the kernel's linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Prefix of the names of image directories. The ID of the process that made one follows.
const PREFIX: &str = "vubc-bench-";
const SHARED_MEMORY: &str = "/dev/shm";
/// It need not be secret: the disk holds random data.
const SECRET: &str = "not-a-secret";

/// qemu-storage-daemon's and qemu-img's option for the LUKS key.
pub fn secret_object() -> String {
    format!("secret,id=key,data={SECRET}")
}

/// A pair of images, deleted when dropped.
pub struct Images {
    /// Where they are.
    pub place: Place,
    /// Bytes of the disks.
    pub size: u64,
    /// Raw.
    pub raw: PathBuf,
    /// LUKS.
    pub luks: PathBuf,
    _directory: tempfile::TempDir,
}

impl Images {
    /// Makes them.
    pub fn make(place: Place, size: u64, disk: &Path, root: &Root, log: &Path) -> Result<Self> {
        let parent = match place {
            Place::Tmpfs => Path::new(SHARED_MEMORY),
            Place::Disk => disk,
        };
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let is_tmpfs = statfs(parent).is_ok_and(|s| s.f_type == TMPFS_MAGIC);
        match place {
            Place::Tmpfs => ensure!(is_tmpfs, "{SHARED_MEMORY} is not a tmpfs here; try --image disk"),
            Place::Disk => ensure!(
                !is_tmpfs,
                "{} is in memory; set CARGO_TARGET_DIR to a directory on a disk or try --image tmpfs",
                parent.display()
            ),
        }
        sweep(parent);
        let space = statvfs(parent).with_context(|| format!("cannot look at {}", parent.display()))?;
        ensure!(!space.f_flag.contains(StatVfsMountFlags::RDONLY), "{} is read-only", parent.display());
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let needed = 2 * size + (64 << 20);
        ensure!(
            free > needed,
            "{} has {} MiB free, but two images of {} MiB are needed; try a smaller --size",
            parent.display(),
            free >> 20,
            size >> 20
        );
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?;
        let (raw, luks) = (directory.path().join("raw.img"), directory.path().join("luks.img"));
        File::create(&raw)?.set_len(size)?;
        fill(&raw, 0)?;
        let mut create = root.packaged("qemu-img");
        create.args(["create", "-q", "-f", "luks", "--object", &secret_object(), "-o"]);
        // The same cipher as ours; few iterations, because the key is no secret.
        create.arg("key-secret=key,cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,iter-time=10");
        run_logged(create.arg(&luks).arg(size.to_string()), log).context("no LUKS image")?;
        let header = fs::metadata(&luks)?.len().saturating_sub(size);
        fill(&luks, header)?;
        Ok(Self { place, size, raw, luks, _directory: directory })
    }
}

/// Removes what interrupted runs left behind: it would occupy memory until the next boot.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Overwrites a file with random data from `start` on, and syncs it before anything is timed.
fn fill(path: &Path, start: u64) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let mut noise = vec![0; PIECE];
    fastrand::fill(&mut noise);
    let mut file = File::options().write(true).open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(start))?;
    let mut left = end - start;
    while left > 0 {
        let count = left.min(PIECE as u64);
        file.write_all(&noise[..count as usize]).with_context(|| format!("cannot fill {}", path.display()))?;
        left -= count;
    }
    file.sync_all().with_context(|| format!("cannot fill {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_runs_have_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let dead = format!("{PREFIX}4294967295-x");
        let alive = format!("{PREFIX}{}-x", std::process::id());
        for name in [dead.as_str(), alive.as_str(), "vubc-bench-x", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        sweep(dir.path());
        assert!(!dir.path().join(dead).exists() && dir.path().join(alive).exists());
        assert!(dir.path().join("vubc-bench-x").exists() && dir.path().join("other").exists());
    }

    #[test]
    fn filling_leaves_the_front_alone_and_no_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [7; 100]).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(3 << 20).unwrap();
        fill(&path, 100).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 3 << 20 && bytes[..100].iter().all(|b| *b == 7));
        assert!(bytes[100..].chunks(4096).all(|page| page.iter().any(|b| *b != 0)));
    }
}
