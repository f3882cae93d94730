// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The peers, from Debian packages: qemu-storage-daemon, and libblkio with a compiler for our program on it.

use crate::debian::{self, BACKPORTS};
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::process::output;
use crate::tools::{self, Sources};
use crate::{cache, progress};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: &[&str] = &["gcc", "libc6-dev", "libblkio-dev"];
/// qemu-storage-daemon and qemu-img; as new as the QEMU that the guests run on.
const NEW_PACKAGES: &[&str] = &["qemu-utils"];
const CLIENT: &str = "blkio-client";

/// An unpacked tree of packages.
pub struct Root(PathBuf);

impl Root {
    /// Finds the tree in the cache or makes it.
    pub fn prepare(paths: &Paths, mirror: Option<&Mirror>) -> Result<Self> {
        let new = NEW_PACKAGES.iter().map(|p| format!("{p}/{BACKPORTS}"));
        let include: Vec<String> = PACKAGES.iter().map(|p| (*p).to_owned()).chain(new).collect();
        let include = include.join(",");
        let key = cache::key(&["bench 1", debian::SUITE, &include]);
        let dir = cache::entry(&paths.cache, "bench", &key, |dir| {
            progress::step("peers from Debian packages (first time only)", || {
                let log = paths.fresh_log("bench-root");
                debian::make_tree(mirror, debian::SUITE, &debian::small(&include), &dir.join("root"), &log)
            })
        })?;
        Ok(Self(dir.join("root")))
    }

    /// A program of the tree, run with the tree's own libraries.
    pub fn command(&self, program: &Path) -> Command {
        debian::with_libraries_of(&self.0, program)
    }

    /// A program of a package.
    pub fn packaged(&self, name: &str) -> Command {
        self.command(&self.0.join("usr/bin").join(name))
    }

    /// Compiles the libblkio client.
    pub fn client(&self, paths: &Paths) -> Result<PathBuf> {
        let sources = Sources::read(&paths.root.join("benches/blkio-client"))?;
        let out = paths.target.join("bench").join(CLIENT);
        let script = format!("gcc -O2 -Wall -Wextra -Werror -o {CLIENT} {CLIENT}.c -lblkio");
        tools::build_in_tree(&self.0, &sources, &script, &[CLIENT.to_owned()], &out)
            .context("the libblkio client did not build")?;
        Ok(out.join(CLIENT))
    }

    /// The names and versions of qemu-storage-daemon and libblkio.
    pub fn versions(&self) -> Result<[(&'static str, String); 2]> {
        let qsd = output(self.packaged("qemu-storage-daemon").arg("--version"))?;
        let qsd = qsd.lines().next().unwrap_or_default().trim_start_matches("qemu-storage-daemon version ").to_owned();
        let blkio = fs::read_to_string(self.0.join("usr/lib/x86_64-linux-gnu/pkgconfig/blkio.pc")).unwrap_or_default();
        let blkio = blkio.lines().find_map(|l| l.strip_prefix("Version:")).unwrap_or("unknown").trim().to_owned();
        Ok([("qemu-storage-daemon", qsd), ("libblkio", blkio)])
    }
}
