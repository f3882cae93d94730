// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's own UFS driver, with inline encryption, which Debian's cloud kernel does not have: built unmodified out of
//! Debian's source package, against the headers of the guest's kernel.

use crate::cli::GuestArgs;
use crate::debian::{self, BACKPORTS, SUITE};
use crate::kernel::Origin;
use crate::paths::Paths;
use crate::process::{command, run_logged};
use crate::setup::Machine;
use crate::tools::{self, Sources};
use crate::{cache, progress};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules, in the order in which they are loaded.
pub const MODULES: [&str; 2] = ["ufshcd-core.ko", "ufshcd-pci.ko"];

/// The Makefiles of the kernel do not look at `CONFIG_` variables of a module outside, and the headers not at those of `make`.
const SCRIPT: &str = r#"cd drivers/ufs
echo 'obj-y += core/ host/' > Kbuild
make -C /lib/modules/RELEASE/build M="$PWD" CONFIG_SCSI_UFSHCD=m CONFIG_SCSI_UFSHCD_PCI=m CONFIG_SCSI_UFS_CRYPTO=y \
    KCFLAGS="-DCONFIG_SCSI_UFSHCD_MODULE=1 -DCONFIG_SCSI_UFSHCD_PCI_MODULE=1 -DCONFIG_SCSI_UFS_CRYPTO=1 -I$PWD" modules
mv core/ufshcd-core.ko host/ufshcd-pci.ko ../..
"#;

/// What a user's own kernel must have built in.
const BUILT_IN: [&str; 3] = ["CONFIG_SCSI_UFSHCD_PCI", "CONFIG_SCSI_UFS_CRYPTO", "CONFIG_BLK_DEV_SD"];

/// The guest without a driver of ours: a user's own kernel need not know it.
pub fn guest(args: &GuestArgs) -> GuestArgs {
    GuestArgs { no_module: args.kernel.is_some(), ..args.clone() }
}

/// The modules' files; built the first time that they are asked for. None for a user's own kernel, which has the driver built in.
pub fn modules(paths: &Paths, machine: &Machine) -> Result<Vec<PathBuf>> {
    if let Origin::User { .. } = machine.kernel.origin {
        let missing: Vec<&str> = BUILT_IN.into_iter().filter(|symbol| !machine.kernel.has(symbol)).collect();
        ensure!(
            missing.is_empty(),
            "the kernel lacks options for UFS; set these to y and build it again: {}",
            missing.join(" ")
        );
        return Ok(vec![]);
    }
    let release = &machine.root.release;
    let script = SCRIPT.replace("RELEASE", release);
    let tree = machine.root.build_tree();
    let key = cache::key(&["ufs 1", &script, &tree.display().to_string()]);
    let dir = cache::entry(&paths.cache, "ufs", &key, |dir| {
        progress::step("the kernel's UFS driver (first time only)", || build(paths, machine, dir, &script))
    })?;
    Ok(MODULES.iter().map(|module| dir.join(module)).collect())
}

fn build(paths: &Paths, machine: &Machine, dir: &Path, script: &str) -> Result<()> {
    let log = paths.fresh_log("ufs");
    let version: Vec<&str> = machine.root.release.split('.').take(2).collect();
    let package = format!("linux-source-{}", version.join("."));
    let packages = dir.join("packages");
    let args = ["--variant=extract".to_owned(), format!("--include={package}/{BACKPORTS},xz-utils")];
    debian::make_tree(machine.mirror.as_ref(), SUITE, &args, &packages, &log)?;
    let source = dir.join("source");
    fs::create_dir(&source)?;
    let archive = packages.join(format!("usr/src/{package}.tar.xz"));
    let mut unpack = command("tar");
    unpack.arg("-xJf").arg(&archive).arg("-C").arg(&source).arg("--strip-components=1");
    run_logged(unpack.arg(format!("{package}/drivers/ufs")), &log)
        .with_context(|| format!("there is no UFS driver in {}", archive.display()))?;
    cache::remove_tree(&packages)?;
    let (sources, out) = (Sources::read(&source)?, dir.join("build"));
    tools::build_in_tree(&machine.root.build_tree(), &sources, script, &MODULES.map(str::to_owned), &out)
        .context("the kernel's UFS driver did not build")?;
    for module in MODULES {
        fs::rename(out.join(module), dir.join(module))?;
    }
    cache::remove_tree(&source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Config;

    #[test]
    fn the_fragment_for_kernels_of_ones_own_has_the_driver() {
        let fragment = Config::parse(include_str!("../../guest-driver/guest.config"));
        assert!(BUILT_IN.iter().all(|symbol| fragment.built_in(symbol)));
    }
}
