// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parts of the kernel that Debian's cloud kernel lacks, as modules: built unmodified out of Debian's source package, against the
//! headers of the guest's kernel.

use crate::case::UFS_NEEDS;
use crate::kernel::{Kernel, Origin};
use crate::paths::Paths;
use crate::setup::Machine;
use crate::tools::{self, Sources};
use crate::{cache, kernel_source, progress};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// A part of the kernel.
struct Part {
    /// The kernel has it if it has the first of these; it is built with all of them.
    symbols: &'static [&'static str],
    /// Its directory or file in the kernel's source.
    source: &'static str,
    /// For the Makefile.
    objects: &'static str,
    /// Its modules, in the order in which they are loaded.
    modules: &'static [&'static str],
}

static PARTS: [Part; 4] = [
    Part {
        symbols: &["CONFIG_SCSI_UFS_CRYPTO=y", "CONFIG_SCSI_UFSHCD=m", "CONFIG_SCSI_UFSHCD_PCI=m"],
        source: "drivers/ufs",
        objects: "obj-y += drivers/ufs/core/ drivers/ufs/host/",
        modules: &["ufshcd-core.ko", "ufshcd-pci.ko"],
    },
    Part {
        // As in Debian's other kernels.
        symbols: &[
            "CONFIG_F2FS_FS=m",
            "CONFIG_F2FS_STAT_FS=y",
            "CONFIG_F2FS_FS_XATTR=y",
            "CONFIG_F2FS_FS_POSIX_ACL=y",
            "CONFIG_F2FS_FS_SECURITY=y",
            "CONFIG_F2FS_FS_COMPRESSION=y",
            "CONFIG_F2FS_FS_LZO=y",
            "CONFIG_F2FS_FS_LZORLE=y",
            "CONFIG_F2FS_FS_LZ4=y",
            "CONFIG_F2FS_FS_LZ4HC=y",
            "CONFIG_F2FS_FS_ZSTD=y",
            "CONFIG_F2FS_IOSTAT=y",
        ],
        source: "fs/f2fs",
        objects: "obj-y += fs/f2fs/",
        modules: &["f2fs.ko"],
    },
    Part {
        symbols: &["CONFIG_DM_INLINECRYPT=m"],
        source: "drivers/md/dm-inlinecrypt.c",
        objects: "obj-m += drivers/md/dm-inlinecrypt.o",
        modules: &["dm-inlinecrypt.ko"],
    },
    Part {
        // The library for POLYVAL is in the kernel, and XCTR is in its aesni_intel.
        symbols: &["CONFIG_CRYPTO_HCTR2=m"],
        source: "crypto/hctr2.c",
        objects: "obj-m += crypto/hctr2.o",
        modules: &["hctr2.ko"],
    },
];

impl Part {
    /// Whether the modules are needed: a user's own kernel has what its user wants.
    fn is_lacking(&self, kernel: &Kernel) -> bool {
        matches!(kernel.origin, Origin::Debian) && !self.symbols().next().is_some_and(|symbol| kernel.has(symbol))
    }

    fn symbols(&self) -> impl Iterator<Item = &'static str> {
        self.symbols.iter().filter_map(|setting| setting.split('=').next())
    }
}

/// Whether the guest can use the symbol's code: the kernel has it, or modules of these parts have.
pub fn usable(kernel: &Kernel, symbol: &str) -> bool {
    kernel.has(symbol) || PARTS.iter().any(|part| part.is_lacking(kernel) && part.symbols().any(|s| s == symbol))
}

/// The modules that these symbols need and the kernel lacks, in the order in which they are loaded. All parts are built the first
/// time that one is needed, so that the source package is fetched once.
pub fn files<'a>(paths: &Paths, machine: &Machine, needs: impl IntoIterator<Item = &'a str>) -> Result<Vec<PathBuf>> {
    let needs: Vec<&str> = needs.into_iter().collect();
    let lacking: Vec<&Part> = PARTS.iter().filter(|part| part.is_lacking(&machine.kernel)).collect();
    let wanted: Vec<&str> = lacking
        .iter()
        .filter(|part| part.symbols().any(|symbol| needs.contains(&symbol)))
        .flat_map(|part| part.modules.iter().copied())
        .collect();
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    let script = script(&machine.root.release, &lacking);
    // Guests whose headers are the same share the modules.
    let symbols =
        machine.root.build_tree().join(format!("usr/src/linux-headers-{}/Module.symvers", machine.root.release));
    let symbols = fs::read(&symbols).with_context(|| format!("cannot read {}", symbols.display()))?;
    let key = cache::key(&["kernel modules 1", &script, &cache::content_key(&symbols)]);
    let dir = cache::entry(&paths.cache, "kernel-modules", &key, |dir| {
        progress::step("kernel modules (first time only)", || build(paths, machine, dir, &lacking, &script))
    })?;
    Ok(wanted.iter().map(|module| dir.join(MODULES).join(module)).collect())
}

/// The modules for a UFS host controller with inline encryption.
///
/// # Errors
/// Also if a user's own kernel lacks a part: it needs all of them built in.
pub fn ufs(paths: &Paths, machine: &Machine) -> Result<Vec<PathBuf>> {
    let missing: Vec<&str> = UFS_NEEDS.into_iter().filter(|symbol| !usable(&machine.kernel, symbol)).collect();
    ensure!(
        missing.is_empty(),
        "the kernel lacks options for UFS; set these to y and build it again: {}",
        missing.join(" ")
    );
    files(paths, machine, UFS_NEEDS)
}

/// Where the modules are in the cache's entry.
const MODULES: &str = "modules";

/// The Makefiles of the kernel do not look at `CONFIG_` variables of a module outside, and the headers not at those of `make`.
fn script(release: &str, parts: &[&Part]) -> String {
    let settings: Vec<&str> = parts.iter().flat_map(|part| part.symbols.iter().copied()).collect();
    let define = |setting: &&str| format!("-D{}", setting.replace("=m", "_MODULE=1").replace("=y", "=1"));
    let defines: Vec<String> = settings.iter().map(define).collect();
    let objects: Vec<&str> = parts.iter().map(|part| part.objects).collect();
    format!(
        r#"cat > Kbuild << END
{}
END
make -j"$(nproc)" -C /lib/modules/{release}/build M="$PWD" {} KCFLAGS="{} -I$PWD/drivers/ufs" modules
for module in $(find */ -name '*.ko'); do
    strip -g -o "${{module##*/}}" "$module"
done
"#,
        objects.join("\n"),
        settings.join(" "),
        defines.join(" ")
    )
}

fn build(paths: &Paths, machine: &Machine, dir: &Path, parts: &[&Part], script: &str) -> Result<()> {
    let log = paths.fresh_log("kernel-modules");
    let source = dir.join("source");
    kernel_source::unpack(
        machine.mirror.as_ref(),
        &machine.root.release,
        parts.iter().map(|part| part.source),
        &source,
        &log,
    )?;
    let modules: Vec<String> = parts.iter().flat_map(|part| part.modules).map(ToString::to_string).collect();
    tools::build_in_tree(&machine.root.build_tree(), &Sources::read(&source)?, script, &modules, &dir.join(MODULES))
        .context("the kernel's modules did not build")?;
    cache::remove_tree(&source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Config;

    fn kernel(config: &str, origin: Origin) -> Kernel {
        Kernel { image: PathBuf::new(), vmlinux: None, config: Config::parse(config), origin, name: String::new() }
    }

    #[test]
    fn what_debians_kernel_has_itself_is_not_built() {
        let lacking = |config: &str| {
            let kernel = kernel(config, Origin::Debian);
            assert!(usable(&kernel, "CONFIG_F2FS_FS") && usable(&kernel, "CONFIG_SCSI_UFSHCD_PCI"));
            assert!(!usable(&kernel, "CONFIG_XFS_FS"));
            PARTS.iter().filter(|part| part.is_lacking(&kernel)).map(|part| part.source).collect::<Vec<_>>()
        };
        assert_eq!(lacking("").len(), PARTS.len());
        let some = "CONFIG_F2FS_FS=m\nCONFIG_CRYPTO_HCTR2=y\nCONFIG_SCSI_UFSHCD_PCI=m\n";
        assert_eq!(lacking(some), ["drivers/ufs", "drivers/md/dm-inlinecrypt.c"]);
    }

    #[test]
    fn a_users_own_kernel_gets_no_modules() {
        let own = kernel("CONFIG_F2FS_FS=y\n", Origin::User { kdir: PathBuf::new(), module: true });
        assert!(usable(&own, "CONFIG_F2FS_FS") && !usable(&own, "CONFIG_DM_INLINECRYPT"));
        assert!(PARTS.iter().all(|part| !part.is_lacking(&own)));
    }

    #[test]
    fn the_fragment_for_kernels_of_ones_own_has_ufs() {
        let fragment = Config::parse(include_str!("../../guest-driver/guest.config"));
        assert!(UFS_NEEDS.iter().all(|symbol| fragment.built_in(symbol)));
    }

    #[test]
    fn settings_reach_makefiles_and_headers() {
        let text = script("1.2.3", &[&PARTS[0], &PARTS[2]]);
        assert!(text.contains(" CONFIG_SCSI_UFS_CRYPTO=y CONFIG_SCSI_UFSHCD=m "), "{text}");
        assert!(text.contains("-DCONFIG_SCSI_UFS_CRYPTO=1 -DCONFIG_SCSI_UFSHCD_MODULE=1 "), "{text}");
        assert!(text.contains("\nobj-m += drivers/md/dm-inlinecrypt.o\nEND\n"), "{text}");
    }
}
