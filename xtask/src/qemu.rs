// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which QEMU to run: the user's choice, or the system's if it is recent enough, or else Debian's backport, unpacked into the
//! cache and run with its own libraries. Cases about older QEMUs name the Debian release that ships theirs.

use crate::debian::{self, BACKPORTS};
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::process::{self, command, find_program};
use crate::{cache, progress};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// QEMU's usual name.
pub const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
/// The device that forwards any backend's features; QEMU 10.1 and newer have it.
pub const GENERIC_DEVICE: &str = "vhost-user-test-device-pci";

/// The releases of Debian whose own QEMU a case may ask for: 7.2 and 10.0.
pub const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// A QEMU that can be run.
pub struct Qemu {
    program: PathBuf,
    /// The tree of Debian packages that it is from.
    tree: Option<PathBuf>,
    /// As it names itself.
    pub version: String,
}

impl Qemu {
    fn new(program: PathBuf, tree: Option<PathBuf>) -> Result<Self> {
        let mut qemu = Self { program, tree, version: String::new() };
        let text = process::output(qemu.command().arg("--version"))?;
        let first = text.lines().next().unwrap_or_default();
        qemu.version = first.trim_start_matches("QEMU emulator version ").to_owned();
        Ok(qemu)
    }

    /// A command with what every call needs.
    pub fn command(&self) -> Command {
        let Some(tree) = &self.tree else { return command(&self.program) };
        let mut qemu = debian::with_libraries_of(tree, &self.program);
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(tree.join(data));
        }
        qemu
    }

    /// What identifies it in a recipe.
    pub fn identity(&self) -> String {
        format!("{} {}", self.program.display(), self.version)
    }

    fn has_generic_device(&self) -> bool {
        process::output(self.command().args(["-machine", "none", "-device", "help"]))
            .is_ok_and(|text| text.contains(&format!("\"{GENERIC_DEVICE}\"")))
    }
}

/// Whether this QEMU can attach the device with all of its features.
pub fn forwards_features(program: &Path) -> Result<bool> {
    Ok(Qemu::new(program.to_path_buf(), None)?.has_generic_device())
}

/// Finds a QEMU, or fetches one.
pub fn prepare(paths: &Paths, option: Option<&Path>, mirror: Option<&Mirror>) -> Result<Qemu> {
    if let Some(program) = option {
        let qemu = Qemu::new(program.to_path_buf(), None)?;
        if !qemu.has_generic_device() {
            bail!("{} ({}) has no {GENERIC_DEVICE}: QEMU 10.1 or newer is needed", program.display(), qemu.version);
        }
        return Ok(qemu);
    }
    if let Some(program) = find_program(PROGRAM)
        && let Ok(qemu) = Qemu::new(program, None)
        && qemu.has_generic_device()
    {
        return Ok(qemu);
    }
    let key = cache::key(&["qemu 1", debian::SUITE, BACKPORTS, &PACKAGES.join(",")]);
    let packages: Vec<String> = PACKAGES.iter().map(|p| format!("{p}/{BACKPORTS}")).collect();
    fetch(paths, mirror, "qemu", &key, debian::SUITE, &packages.join(","))
}

/// The QEMU that a release of Debian ships, fetched the first time that it is asked for.
pub fn of_release(paths: &Paths, mirror: Option<&Mirror>, release: &str) -> Result<Qemu> {
    let packages = PACKAGES.join(",");
    let key = cache::key(&["qemu 1", release, &packages]);
    fetch(paths, mirror, &format!("qemu-{release}"), &key, release, &packages)
}

fn fetch(paths: &Paths, mirror: Option<&Mirror>, name: &str, key: &str, suite: &str, packages: &str) -> Result<Qemu> {
    let root = cache::entry(&paths.cache, name, key, |dir| {
        progress::step("QEMU from Debian packages (first time only)", || {
            let log = paths.fresh_log(name);
            let args = ["--variant=extract".to_owned(), format!("--include={packages}")];
            debian::make_tree(mirror, suite, &args, &dir.join("root"), &log)
        })
    })?;
    let tree = root.join("root");
    Qemu::new(tree.join("usr/bin").join(PROGRAM), Some(tree))
        .with_context(|| format!("{} does not run: try cargo xtask clean-cache", root.display()))
}
