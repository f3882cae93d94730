// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds the guest's driver for kernels that the guest does not run: Debian's oldest, without inline encryption, and what will
//! come next. So a change of the kernel's interfaces is noticed early.

use crate::cache;
use crate::debian::{self, EXPERIMENTAL, SID, SUITE};
use crate::driver::{self, Module};
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::progress::timed;
use crate::report::Report;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// For `--filter`.
pub const NAME: &str = "driver-builds";
/// Where the kernels are from.
const SUITES: [&str; 3] = [SUITE, SID, EXPERIMENTAL];

/// Debian's oldest kernel has no inline encryption, so its module lacks the files that an older kernel with it is a test for. They
/// are compiled for it all the same. No kernel loads the result: modpost would not find half of its symbols.
const WITH_CRYPTO: &str =
    "CONFIG_BLK_INLINE_ENCRYPTION=y KCFLAGS=-DCONFIG_BLK_INLINE_ENCRYPTION=1 KBUILD_MODPOST_WARN=1";

/// Fetches the headers of each kernel and builds the driver. What cannot be fetched is skipped.
pub fn run(paths: &Paths, mirror: Option<&Mirror>, report: &mut Report) {
    for suite in SUITES {
        let name = format!("{NAME}: {suite}");
        let tree = paths.target.join(NAME).join(suite);
        let (fetched, took) = timed(&name, || fetch(paths, mirror, suite, &tree));
        if let Err(e) = fetched {
            report.skip(&name, took, &format!("no headers of a kernel: {e:#}"));
            continue;
        }
        let mut builds = vec![(name.clone(), "")];
        if suite == SUITE {
            builds.push((format!("{name}, with inline encryption"), WITH_CRYPTO));
        }
        for (name, variables) in builds {
            let (module, took) = timed(&name, || build(paths, &tree, variables));
            match module {
                Ok(module) => module.judge(report, &name, took),
                Err(e) => report.fail(&name, took, &format!("{e:#}")),
            }
        }
        if let Err(e) = cache::remove_tree(&tree) {
            report.fail(&name, took, &format!("{e:#}"));
        }
    }
}

/// Makes a tree with the headers, and the compiler that they depend on.
fn fetch(paths: &Paths, mirror: Option<&Mirror>, suite: &str, tree: &Path) -> Result<()> {
    cache::remove_tree(tree)?;
    fs::create_dir_all(tree)?;
    // Without its name, apt takes nothing from there.
    let from = if suite == EXPERIMENTAL { "/experimental" } else { "" };
    let packages = debian::small(&format!("linux-headers-cloud-amd64{from},make"));
    debian::make_tree(mirror, suite, &packages, tree, &paths.fresh_log(&format!("{NAME}-{suite}")))
}

fn build(paths: &Paths, tree: &Path, variables: &str) -> Result<Module> {
    let modules = tree.join("usr/lib/modules");
    let mut kernels = fs::read_dir(&modules).with_context(|| format!("cannot read {}", modules.display()))?;
    let kernel = kernels.next().context("the packages have no kernel")??;
    let release = kernel.file_name().to_string_lossy().into_owned();
    let mut module = driver::for_debian(paths, tree, &release, variables, &tree.with_extension("module"))
        .with_context(|| format!("Linux {release}"))?;
    if variables == WITH_CRYPTO {
        module.warnings.retain(|line| !(line.starts_with("WARNING: modpost: ") && line.ends_with(" undefined!")));
    }
    Ok(module)
}
