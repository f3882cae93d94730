// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds the guest's kernel module: in the guest root's build tree for Debian's kernel, on the host for a user's own.

use crate::guest_root::GuestRoot;
use crate::kernel::{Kernel, Origin};
use crate::paths::Paths;
use crate::process::{command, run_logged};
use crate::tools::{self, Sources};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The module's name.
pub const MODULE: &str = "virtio_blk_crypto";

/// The built module.
pub struct Module {
    /// The .ko file.
    pub file: PathBuf,
    /// The compiler's warnings; empty in a good build.
    pub warnings: Vec<String>,
}

/// Builds the module; `None` when the kernel has the driver built in.
pub fn build(paths: &Paths, root: &GuestRoot, kernel: &Kernel) -> Result<Option<Module>> {
    let source = paths.root.join("guest-driver");
    let sources = Sources::read(&source)?;
    if sources.is_empty() {
        bail!("{} is empty: the checkout is not complete", source.display());
    }
    let out = paths.target.join(format!("{}-module", root.name));
    let (log, file) = (out.join("build.log"), out.join(format!("{MODULE}.ko")));
    match &kernel.origin {
        Origin::User { module: false, .. } => return Ok(None),
        Origin::User { kdir, module: true } => {
            build_against(&sources, kdir, &out, &log)?;
        }
        Origin::Debian => {
            let script = format!("make -C /lib/modules/{}/build M=\"$PWD\" modules", root.release);
            tools::build_in_tree(&root.build_tree(), &sources, &script, &[format!("{MODULE}.ko")], &out)
                .context("the module did not build")?;
        }
    }
    Ok(Some(Module { warnings: warnings(&log), file }))
}

/// Builds the module against the build tree of a user's own kernel. Nothing is written there.
pub fn for_tree(paths: &Paths, kdir: &Path, out: &Path) -> Result<PathBuf> {
    let sources = Sources::read(&paths.root.join("guest-driver"))?;
    build_against(&sources, kdir, out, &out.join("build.log"))?;
    Ok(out.join(format!("{MODULE}.ko")))
}

fn build_against(sources: &Sources, kdir: &Path, out: &Path, log: &Path) -> Result<()> {
    crate::cache::remove_tree(out)?;
    sources.write(out)?;
    let mut make = command("make");
    make.arg("-C").arg(kdir).arg(format!("M={}", out.display())).arg("modules");
    run_logged(&mut make, log).context("the module did not build against --kdir")
}

fn warnings(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|l| l.contains("warning:") || l.starts_with("WARNING:")).map(str::to_owned).collect()
}
