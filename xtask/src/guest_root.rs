// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's file systems, from Debian packages: a small disk image to boot, and a tree with compiler and kernel
//! headers in which the module and the guest's C programs are built.

use crate::debian::{self, BACKPORTS};
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::{cache, progress};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Packages of the guest that runs.
const RUN: &str = "kmod,util-linux,fio,e2fsprogs,xfsprogs,btrfs-progs,f2fs-tools,keyutils,python3-minimal,dmsetup,fsverity,\
    cryptsetup-bin,openssl,fdisk,procps";
/// Packages that only building needs.
const BUILD: &str = "gcc make libc6-dev zstd";

/// Installs the kernel of the backports, then notes what a running guest needs, then installs the build packages.
/// linux-binary and linux-modules in place of linux-image, which drags an initramfs builder in. Last, it takes the kernel out of its
/// bzImage, which takes an emulated CPU two seconds (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length; the last
/// four bytes are the size of the data).
const HOOK: &str = r#"set -eu
root=$1
apt() { APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q -oDPkg::Chroot-Directory="$root" -oDPkg::Pre-Install-Pkgs::= "$@"; }
headers=linux-headers-cloud-amd64/BACKPORTS
kv=$(apt install -s $headers | sed -n 's/^Inst linux-headers-\([0-9][^ ]*-cloud-amd64\) .*/\1/p')
test -n "$kv"
apt install -y --no-install-recommends linux-binary-$kv linux-modules-$kv
echo $kv > "$root/kernel-release"
(cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp \
    -o -path ./var/cache -o -path ./var/lib/apt -o -path ./var/log \) -prune -o -print) > "$root/run-files.new"
mv "$root/run-files.new" "$root/run-files"
apt install -y --no-install-recommends BUILD linux-headers-$kv
cd "$root/usr/lib/modules/$kv"
field() { od -An -t"$2" -j$(($1)) -N"${2#u}" vmlinuz; }
start=$((($(field 0x1f1 u1) + 1) * 512 + $(field 0x248 u4)))
tail -c +$((start + 1)) vmlinuz | head -c $(($(field 0x24c u4) - 4)) | chroot "$root" zstd -dq > vmlinux || {
    echo 'vmlinuz is not compressed with zstd: emulated guests boot slower'
    rm vmlinux
}
"#;

/// First process of the guest; see the file.
const STUB: &str = include_str!("guest_stub.sh");

/// What a guest is made of besides Debian's kernel.
pub struct Recipe {
    /// Its name in the cache.
    pub name: &'static str,
    /// More packages for the guest that runs.
    pub run: &'static [&'static str],
    /// More packages that only building needs.
    pub build: &'static [&'static str],
}

/// The guest of demo, cases and shell.
pub const ORDINARY: Recipe = Recipe { name: "guest", run: &[], build: &[] };

/// A built guest, in the cache.
pub struct GuestRoot {
    dir: PathBuf,
    /// Its recipe's name.
    pub name: &'static str,
    /// Debian's kernel in it.
    pub release: String,
    files: HashSet<String>,
}

impl GuestRoot {
    /// The disk image, only ever opened as a snapshot.
    pub fn image(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }

    /// The tree with compiler and headers.
    pub fn build_tree(&self) -> PathBuf {
        self.dir.join("build")
    }

    /// Debian's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.modules().join("vmlinuz")
    }

    /// The same, not compressed; `None` if it was not compressed with zstd.
    pub fn vmlinux(&self) -> Option<PathBuf> {
        Some(self.modules().join("vmlinux")).filter(|vmlinux| vmlinux.exists())
    }

    /// Its configuration.
    pub fn kernel_config(&self) -> PathBuf {
        self.modules().join("config")
    }

    fn modules(&self) -> PathBuf {
        self.build_tree().join("usr/lib/modules").join(&self.release)
    }

    /// True when the running guest has this command.
    pub fn has_command(&self, name: &str) -> bool {
        ["bin", "sbin"].iter().any(|d| self.files.contains(&format!("./usr/{d}/{name}")))
    }
}

/// Finds the guest in the cache or builds it.
pub fn prepare(paths: &Paths, mirror: Option<&Mirror>, recipe: &Recipe) -> Result<GuestRoot> {
    let run = [&[RUN], recipe.run].concat().join(",");
    let hook = HOOK.replace("BACKPORTS", BACKPORTS).replace("BUILD", &[&[BUILD], recipe.build].concat().join(" "));
    let key = cache::key(&["guest 1", debian::SUITE, &run, &hook, STUB]);
    let dir = cache::entry(&paths.cache, recipe.name, &key, |dir| {
        progress::step("guest from Debian packages (first time only)", || build(paths, dir, mirror, &run, &hook))
    })?;
    let release = fs::read_to_string(dir.join("build/kernel-release"))
        .with_context(|| format!("{} is damaged: run cargo xtask clean-cache", dir.display()))?
        .trim()
        .to_owned();
    let files = fs::read_to_string(dir.join("build/run-files"))?.lines().map(str::to_owned).collect();
    Ok(GuestRoot { dir, name: recipe.name, release, files })
}

fn build(paths: &Paths, dir: &Path, mirror: Option<&Mirror>, run: &str, hook: &str) -> Result<()> {
    let log = paths.fresh_log("guest-root");
    let mut args = debian::small(run);
    args.push(format!("--customize-hook={hook}"));
    let tree = dir.join("build");
    debian::make_tree(mirror, debian::SUITE, &args, &tree, &log)?;
    make_image(dir, &tree, &log)
}

/// Makes the disk image from the files that were there before the build packages came.
fn make_image(dir: &Path, tree: &Path, log: &Path) -> Result<()> {
    let run = dir.join("run");
    fs::create_dir(&run)?;
    let list = fs::read_to_string(tree.join("run-files")).context("mmdebstrap's hook left no file list")?;
    for name in list.lines().filter(|n| *n != ".") {
        link(&tree.join(name), &run.join(name)).with_context(|| format!("cannot put {name} into the guest's image"))?;
    }
    for name in ["dev", "proc", "sys", "run", "tmp", "mnt", "var/log", "var/cache", "var/tmp"] {
        fs::create_dir_all(run.join(name))?;
    }
    let init = run.join("guest-init");
    fs::write(&init, STUB)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    debian::make_ext4(&run, &dir.join("root.ext4"), "1G", log)?;
    cache::remove_tree(&run)
}

/// Copies a directory entry, by hard link where it is a file; what mmdebstrap cleaned away is left out.
fn link(from: &Path, to: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(from) else { return Ok(()) };
    let kind = meta.file_type();
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        fs::set_permissions(to, meta.permissions())?;
    } else if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        fs::hard_link(from, to)?;
    } else {
        bail!("unexpected kind of file");
    }
    Ok(())
}
