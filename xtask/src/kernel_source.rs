// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's sources, from Debian's source package of the guest's kernel.

use crate::cache;
use crate::debian::{self, BACKPORTS, SUITE};
use crate::mirror::Mirror;
use crate::process::{command, run_logged};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Unpacks the sources of kernel `release` into the new directory `source`: these files and directories, or all if none is named.
pub fn unpack<'a>(
    mirror: Option<&Mirror>,
    release: &str,
    parts: impl IntoIterator<Item = &'a str>,
    source: &Path,
    log: &Path,
) -> Result<()> {
    let version: Vec<&str> = release.split('.').take(2).collect();
    let package = format!("linux-source-{}", version.join("."));
    let packages = source.with_extension("packages");
    let args = ["--variant=extract".to_owned(), format!("--include={package}/{BACKPORTS}")];
    debian::make_tree(mirror, SUITE, &args, &packages, log)?;
    fs::create_dir(source)?;
    let archive = packages.join(format!("usr/src/{package}.tar.xz"));
    let mut untar = command("tar");
    untar.arg("-xJf").arg(&archive).arg("-C").arg(source).arg("--strip-components=1");
    untar.args(parts.into_iter().map(|part| format!("{package}/{part}")));
    run_logged(&mut untar, log).with_context(|| format!("{} lacks a part of the kernel", archive.display()))?;
    cache::remove_tree(&packages)
}
