// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel the guest runs: Debian's, or one that the user built.

use crate::accel::Accelerator;
use crate::cli::GuestArgs;
use crate::guest_root::GuestRoot;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a kernel must have built in to boot the guest's image without an initrd.
const TO_BOOT: &[&str] = &[
    "CONFIG_PCI",
    "CONFIG_BLK_DEV_NVME",
    "CONFIG_EXT4_FS",
    "CONFIG_VIRTIO_PCI",
    "CONFIG_VIRTIO_CONSOLE",
    "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_DEVTMPFS",
    "CONFIG_TMPFS",
    "CONFIG_PROC_FS",
    "CONFIG_SYSFS",
    "CONFIG_BINFMT_ELF",
    "CONFIG_BINFMT_SCRIPT",
    "CONFIG_MAGIC_SYSRQ",
];
/// What inline encryption needs built in.
const TO_ENCRYPT: &[&str] =
    &["CONFIG_BLK_INLINE_ENCRYPTION", "CONFIG_BLK_INLINE_ENCRYPTION_FALLBACK", "CONFIG_FS_ENCRYPTION_INLINE_CRYPT"];
/// The driver, when it was dropped into the kernel's tree.
const OUR_DRIVER: &str = "CONFIG_VIRTIO_BLK_CRYPTO";

/// A kernel's `.config`.
#[derive(Default)]
pub struct Config(HashMap<String, String>);

impl Config {
    /// Parses the text of a `.config`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter(|l| l.starts_with("CONFIG_")).filter_map(|l| l.split_once('='));
        Self(pairs.map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned())).collect())
    }

    /// Reads the `.config` of a build tree.
    pub fn of_tree(kdir: &Path) -> Result<Self> {
        let text = fs::read_to_string(kdir.join(".config")).with_context(|| {
            format!("--kdir: {} has no .config; name the tree the kernel was built in", kdir.display())
        })?;
        Ok(Self::parse(&text))
    }

    /// Whether a kernel of the user's own takes our driver as a module; if not, it is built in.
    pub fn takes_module(&self) -> Result<bool> {
        let module = self.built_in("CONFIG_MODULES") && !self.built_in(OUR_DRIVER);
        if !module && !self.built_in(OUR_DRIVER) {
            bail!(
                "the kernel has neither modules nor {OUR_DRIVER}=y: guest-driver/README.md says how to add the driver"
            );
        }
        Ok(module)
    }

    /// `y`, `m`, another value, or nothing.
    pub fn get(&self, symbol: &str) -> Option<&str> {
        self.0.get(symbol).map(String::as_str)
    }

    /// What is built in here and not there.
    pub fn lacking_in(&self, other: &Self) -> Vec<String> {
        let mut lacking: Vec<_> = self.0.keys().filter(|s| self.built_in(s) && !other.built_in(s)).cloned().collect();
        lacking.sort();
        lacking
    }

    /// Built in.
    pub fn built_in(&self, symbol: &str) -> bool {
        self.get(symbol) == Some("y")
    }
}

/// Where a kernel is from.
pub enum Origin {
    /// Debian's, in the guest root.
    Debian,
    /// The user's, with its build tree; `module` is false when our driver is built in.
    User {
        /// The build tree.
        kdir: PathBuf,
        /// Whether our module is to be built against it.
        module: bool,
    },
}

/// A kernel to boot.
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// Debian's kernel, not compressed, which QEMU boots by PVH; `None` for a user's own.
    pub vmlinux: Option<PathBuf>,
    /// Its configuration.
    pub config: Config,
    /// Where it is from.
    pub origin: Origin,
    /// Its name: a release or a path.
    pub name: String,
}

impl Kernel {
    /// How many times longer a guest takes than on an ordinary kernel.
    pub fn slowness(&self) -> u32 {
        let has = |symbol| self.config.built_in(symbol);
        if has("CONFIG_KASAN") || has("CONFIG_KCSAN") {
            6
        } else if has("CONFIG_PROVE_LOCKING") {
            2
        } else {
            1
        }
    }

    /// What a guest boots. An emulated CPU takes two seconds to unpack a kernel.
    pub fn to_boot(&self, accel: Accelerator) -> &Path {
        self.vmlinux.as_deref().filter(|_| accel == Accelerator::Tcg).unwrap_or(&self.image)
    }

    /// True when the symbol's code can be used in the guest: the modules of a user's own kernel are not there.
    pub fn has(&self, symbol: &str) -> bool {
        match self.config.get(symbol) {
            None | Some("n") => false,
            Some("m") => matches!(self.origin, Origin::Debian),
            Some(_) => true,
        }
    }
}

/// Chooses the kernel: Debian's if the user has none of their own.
pub fn choose(args: &GuestArgs, root: &GuestRoot) -> Result<Kernel> {
    let (Some(image), Some(kdir)) = (&args.kernel, &args.kdir) else {
        let config = root.kernel_config();
        let text = fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let config = Config::parse(&text);
        return Ok(Kernel {
            image: root.kernel(),
            vmlinux: root.vmlinux().filter(|_| config.built_in("CONFIG_PVH")),
            config,
            origin: Origin::Debian,
            name: format!("{} (Debian)", root.release),
        });
    };
    users_own(image, kdir, args.no_module)
}

/// A kernel that was built on this machine. Checks that it has what the guest needs.
pub fn users_own(image: &Path, kdir: &Path, no_module: bool) -> Result<Kernel> {
    ensure!(image.is_file(), "--kernel: there is no file {}", image.display());
    let config = Config::of_tree(kdir)?;
    let missing: Vec<&str> = TO_BOOT.iter().chain(TO_ENCRYPT).copied().filter(|s| !config.built_in(s)).collect();
    if !missing.is_empty() {
        bail!(
            "the kernel lacks options that the guest needs built in; set these to y and build it again: {}",
            missing.join(" ")
        );
    }
    let module = !no_module && config.takes_module()?;
    let release = fs::read_to_string(kdir.join("include/config/kernel.release")).unwrap_or_default();
    Ok(Kernel {
        image: std::path::absolute(image)?,
        vmlinux: None,
        config,
        origin: Origin::User { kdir: std::path::absolute(kdir)?, module },
        name: format!("{} ({})", release.trim(), image.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragment_for_kernels_of_ones_own_has_all_that_is_needed() {
        let fragment = Config::parse(include_str!("../../guest-driver/guest.config"));
        for symbol in TO_BOOT.iter().chain(TO_ENCRYPT) {
            assert!(fragment.built_in(symbol), "{symbol}");
        }
    }

    #[test]
    fn config_is_parsed() {
        let c = Config::parse("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"x y\"\n");
        assert_eq!((c.get("CONFIG_A"), c.built_in("CONFIG_B"), c.built_in("CONFIG_C")), (None, true, false));
        assert_eq!(c.get("CONFIG_D"), Some("x y"));
    }
}
