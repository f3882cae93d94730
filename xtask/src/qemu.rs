// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which QEMU to run: the user's choice, the system's when it is recent enough, else Debian's backport unpacked
//! into the cache and run with its own libraries. Cases about older QEMUs name the Debian release that ships theirs.

use crate::debian::{self, BACKPORTS};
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::process::{self, command, find_program};
use crate::{cache, progress};
use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
/// The device that forwards any backend's features; QEMU 10.1 and newer have it.
pub const GENERIC_DEVICE: &str = "vhost-user-test-device-pci";

/// The releases of Debian whose own QEMU a case may ask for: 7.2 and 10.0.
pub const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// A QEMU that can be run.
pub struct Qemu {
    program: PathBuf,
    args: Vec<OsString>,
    module_dir: Option<PathBuf>,
    /// As it names itself.
    pub version: String,
}

impl Qemu {
    /// A command with what every call needs.
    pub fn command(&self) -> Command {
        let mut qemu = command(&self.program);
        qemu.args(&self.args);
        if let Some(dir) = &self.module_dir {
            qemu.env("QEMU_MODULE_DIR", dir);
        }
        qemu
    }

    /// What identifies it in a recipe.
    pub fn identity(&self) -> String {
        format!("{} {}", self.program.display(), self.version)
    }

    fn plain(program: PathBuf) -> Result<Self> {
        Self { program, args: vec![], module_dir: None, version: String::new() }.with_version()
    }

    /// Debian's packages unpacked in `root`: started through their own dynamic linker.
    fn unpacked(root: &Path) -> Result<Self> {
        // Packages up to bookworm's have a part of their libraries outside /usr.
        let libs = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| root.join(dir));
        let linker = libs.iter().map(|lib| lib.join("ld-linux-x86-64.so.2")).find(|program| program.exists());
        let program = linker.context("the packages have no dynamic linker")?;
        let mut args: Vec<OsString> =
            vec!["--library-path".into(), env::join_paths(&libs)?, "--argv0".into(), PROGRAM.into()];
        args.push(root.join("usr/bin").join(PROGRAM).into());
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            args.extend(["-L".into(), root.join(data).into()]);
        }
        let module_dir = Some(libs[0].join("qemu"));
        Self { program, args, module_dir, version: String::new() }.with_version()
    }

    fn with_version(mut self) -> Result<Self> {
        let text = process::output(self.command().arg("--version"))?;
        let first = text.lines().next().unwrap_or_default();
        self.version = first.trim_start_matches("QEMU emulator version ").to_owned();
        Ok(self)
    }

    fn has_generic_device(&self) -> bool {
        process::output(self.command().args(["-machine", "none", "-device", "help"]))
            .is_ok_and(|text| text.contains(&format!("\"{GENERIC_DEVICE}\"")))
    }
}

/// Finds a QEMU, or fetches one.
pub fn prepare(paths: &Paths, option: Option<&Path>, mirror: Option<&Mirror>) -> Result<Qemu> {
    if let Some(program) = option {
        let qemu = Qemu::plain(program.to_path_buf())?;
        if !qemu.has_generic_device() {
            bail!("{} ({}) has no {GENERIC_DEVICE}: QEMU 10.1 or newer is needed", program.display(), qemu.version);
        }
        return Ok(qemu);
    }
    if let Some(program) = find_program(PROGRAM)
        && let Ok(qemu) = Qemu::plain(program)
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
            let log = paths.log(name);
            let _ = fs::remove_file(&log);
            let args = ["--variant=extract".to_owned(), format!("--include={packages}")];
            let tar = dir.join("root.tar");
            debian::mmdebstrap(mirror, suite, &args, &tar, &log)?;
            debian::unpack(&tar, &dir.join("root"), &log)?;
            fs::remove_file(&tar)?;
            Ok(())
        })
    })?;
    Qemu::unpacked(&root.join("root"))
        .with_context(|| format!("{} does not run: try cargo xtask clean-cache", root.display()))
}
