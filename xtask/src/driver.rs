// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds the guest's kernel module: in the guest root's build tree for Debian's kernel, on the host for a user's own.

use crate::guest_root::GuestRoot;
use crate::kernel::{Kernel, Origin};
use crate::paths::Paths;
use crate::process::{command, run_logged};
use crate::report::Report;
use crate::tools::{self, Sources};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The module's name.
pub const MODULE: &str = "virtio_blk_crypto";

/// The built module.
pub struct Module {
    /// The .ko file.
    pub file: PathBuf,
    /// The compiler's warnings; empty in a good build.
    pub warnings: Vec<String>,
}

impl Module {
    /// The module that a build has left in this directory.
    fn built(out: &Path) -> Self {
        Self { file: out.join(format!("{MODULE}.ko")), warnings: warnings(&out.join("build.log")) }
    }

    /// Counts it as a check.
    pub fn judge(&self, report: &mut Report, name: &str, took: Duration) {
        if self.warnings.is_empty() {
            report.pass(name, took);
        } else {
            report.fail(name, took, &format!("the compiler warns:\n{}", self.warnings.join("\n")));
        }
    }
}

/// Builds the module; `None` when the kernel has the driver built in.
pub fn build(paths: &Paths, root: &GuestRoot, kernel: &Kernel) -> Result<Option<Module>> {
    let out = paths.target.join(format!("{}-module", root.name));
    match &kernel.origin {
        Origin::User { module: false, .. } => Ok(None),
        Origin::User { kdir, module: true } => {
            build_against(&sources(paths)?, kdir, &out, &out.join("build.log"))?;
            Ok(Some(Module::built(&out)))
        }
        Origin::Debian => for_debian(paths, &root.build_tree(), &root.release, "", &out).map(Some),
    }
}

/// Builds the module in a tree of Debian packages, for the kernel whose headers are there, with these variables of make.
pub fn for_debian(paths: &Paths, tree: &Path, release: &str, variables: &str, out: &Path) -> Result<Module> {
    let script = format!("make -C /lib/modules/{release}/build M=\"$PWD\" {variables} modules");
    tools::build_in_tree(tree, &sources(paths)?, &script, &[format!("{MODULE}.ko")], out)
        .context("the module did not build")?;
    Ok(Module::built(out))
}

fn sources(paths: &Paths) -> Result<Sources> {
    let source = paths.root.join("guest-driver");
    let sources = Sources::read(&source)?;
    ensure!(!sources.is_empty(), "{} is empty: the checkout is not complete", source.display());
    Ok(sources)
}

/// Builds the module against the build tree of a user's own kernel. Nothing is written there.
pub fn for_tree(paths: &Paths, kdir: &Path, out: &Path) -> Result<PathBuf> {
    build_against(&sources(paths)?, kdir, out, &out.join("build.log"))?;
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
