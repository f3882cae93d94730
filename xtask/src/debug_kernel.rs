// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kernel in which the kernel's own checks are on: locks, memory, DMA, data races. Built on the host, like a kernel of the
//! user's own, from Debian's source package of the guest's kernel, with our patches for digests: so the checks watch their code too.

use crate::cli::{DebugKernel, DebugKernelArgs};
use crate::guest_root::{self, GuestRoot, ORDINARY};
use crate::kernel::Config;
use crate::mirror::{self, Mirror};
use crate::paths::Paths;
use crate::process::{self, command, run_logged};
use crate::{cache, kernel_source, packages, progress};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// What the kernel has: all that the guest needs, built in, and the checks.
const FRAGMENTS: [&str; 2] =
    [include_str!("../../guest-driver/guest.config"), include_str!("../../guest-driver/debug.config")];
/// Patches for it.
const PATCHES: &str = "kernel/blk-crypto-digests";
/// What only a kernel with them has.
const OF_OUR_PATCHES: &str = "CONFIG_BLK_CRYPTO_DIGEST_TEST";
/// KCSAN in place of KASAN. It finds data races. Reports once a minute for each pair of places are enough. The last lines are its own
/// defaults, which `make allnoconfig` turns off.
const KCSAN: &str = "CONFIG_KASAN=n\nCONFIG_KASAN_VMALLOC=n\nCONFIG_KCSAN=y\nCONFIG_KCSAN_REPORT_ONCE_IN_MS=60000\n\
    CONFIG_KCSAN_EARLY_ENABLE=y\nCONFIG_KCSAN_SELFTEST=y\nCONFIG_KCSAN_REPORT_VALUE_CHANGE_ONLY=y\n\
    CONFIG_KCSAN_ASSUME_PLAIN_WRITES_ATOMIC=y\nCONFIG_KCSAN_REPORT_RACE_UNKNOWN_ORIGIN=y\nCONFIG_KCSAN_DELAY_RANDOMIZE=y\n\
    CONFIG_KCSAN_SKIP_WATCH_RANDOMIZE=y\n";
/// The build tree is the source tree. Building a module against it needs no object files but those of the kernel's own tools.
const PRUNE: &str = "find . \\( -path ./tools -o -path ./scripts \\) -prune -o \\( -name '*.o' -o -name '*.a' -o -name '*.cmd' \\
    -o -name 'vmlinux*' \\) -type f -exec rm -f {} +";

/// A kernel that can be given as `--kernel` and `--kdir`.
pub struct Built {
    /// The bzImage.
    pub image: PathBuf,
    /// The tree in which it was built.
    pub tree: PathBuf,
}

/// `cargo xtask debug-kernel`.
pub fn run(paths: &Paths, args: &DebugKernelArgs) -> Result<bool> {
    packages::ensure_all(paths)?;
    let mirror = mirror::find(args.mirror.as_deref())?;
    let root = guest_root::prepare(paths, mirror.as_ref(), &ORDINARY)?;
    let which = if args.kcsan { DebugKernel::Kcsan } else { DebugKernel::Kasan };
    let built = prepare(paths, mirror.as_ref(), &root, which)?;
    let option = if args.kcsan { "--debug-kernel=kcsan" } else { "--debug-kernel" };
    println!("try `cargo xtask test --only guest {option}`, or `cargo xtask shell {option}`; elsewhere boot");
    println!("{}, built in {}", built.image.display(), built.tree.display());
    Ok(true)
}

/// Finds it in the cache, or builds it.
pub fn prepare(paths: &Paths, mirror: Option<&Mirror>, root: &GuestRoot, which: DebugKernel) -> Result<Built> {
    packages::ensure_kernel_build(paths)?;
    let config = config(which);
    let compiler = process::output(command("cc").arg("--version"))?;
    let patches = patches(&paths.root.join(PATCHES))?;
    let key = cache::key(&["debug kernel 2", &root.release, &config, &patches, &compiler]);
    let dir = cache::entry(&paths.cache, "debug-kernel", &key, |dir| {
        progress::step("debug kernel (first time only; up to 30 minutes)", || {
            build(paths, mirror, root, &config, &patches, dir)
        })
    })?;
    let tree = dir.join("source");
    Ok(Built { image: tree.join("arch/x86/boot/bzImage"), tree })
}

/// Whether the symbol's code can be used in the debug kernel with KASAN.
pub fn has(symbol: &str) -> bool {
    Config::parse(&config(DebugKernel::Kasan)).built_in(symbol)
}

fn config(which: DebugKernel) -> String {
    let [guest, debug] = FRAGMENTS;
    match which {
        DebugKernel::Kasan => format!("{guest}{debug}"),
        DebugKernel::Kcsan => {
            let debug: Vec<&str> = debug.lines().filter(|line| !line.starts_with("CONFIG_KASAN")).collect();
            format!("{guest}{}\n{KCSAN}", debug.join("\n"))
        }
    }
}

/// The directory's patches, in their order, as one.
fn patches(dir: &Path) -> Result<String> {
    let files = fs::read_dir(dir).and_then(|files| files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>, _>>());
    let mut files = files.with_context(|| format!("cannot read {}", dir.display()))?;
    files.sort();
    let texts = files.iter().map(fs::read_to_string).collect::<Result<String, _>>();
    texts.with_context(|| format!("cannot read the patches in {}", dir.display()))
}

/// Applies all of the patches or none.
fn apply(patches: &Path, source: &Path, log: &Path) -> Result<()> {
    let mut git = command("git");
    // The cache may be in the work tree of another project, where git would look for the files.
    git.env("GIT_CEILING_DIRECTORIES", source.parent().unwrap_or(source));
    run_logged(git.arg("apply").arg(patches).current_dir(source), log)
}

fn build(
    paths: &Paths,
    mirror: Option<&Mirror>,
    root: &GuestRoot,
    config: &str,
    patches: &str,
    dir: &Path,
) -> Result<()> {
    let log = paths.fresh_log("debug-kernel");
    let source = dir.join("source");
    kernel_source::unpack(mirror, &root.release, [], &source, &log)?;
    let file = dir.join("ours.patch");
    fs::write(&file, patches)?;
    let patched = apply(&file, &source, &log);
    if let Err(error) = &patched {
        // A new release of Debian's is no reason to have no debug kernel.
        progress::print(&format!(
            "{PATCHES} does not apply to Linux {}; its cases will be skipped: {error:#}",
            root.release
        ));
    }
    let wanted = dir.join("wanted.config");
    fs::write(&wanted, config)?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let make = |args: &[&str]| {
        let mut make = command("make");
        make.arg("-C").arg(&source).arg(format!("KCONFIG_ALLCONFIG={}", wanted.display())).args(args);
        run_logged(&mut make, &log).context("the debug kernel did not build")
    };
    make(&["allnoconfig"])?;
    // It drops without a word what depends on something that is not there.
    let made = Config::parse(&fs::read_to_string(source.join(".config"))?);
    let mut missing = Config::parse(config).lacking_in(&made);
    missing.retain(|symbol| symbol != OF_OUR_PATCHES || patched.is_ok());
    ensure!(missing.is_empty(), "the kernel's sources do not take these options: {}", missing.join(" "));
    make(&[&format!("-j{jobs}"), "bzImage", "modules"])?;
    run_logged(command("sh").args(["-c", PRUNE]).current_dir(&source), &log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_has_kasan_or_kcsan_and_the_rest_is_the_same() {
        let (kasan, kcsan) = (config(DebugKernel::Kasan), config(DebugKernel::Kcsan));
        let (kasan, kcsan) = (Config::parse(&kasan), Config::parse(&kcsan));
        for (config, on, off) in [(&kasan, "CONFIG_KASAN", "CONFIG_KCSAN"), (&kcsan, "CONFIG_KCSAN", "CONFIG_KASAN")] {
            assert!(config.built_in(on) && !config.built_in(off), "{on}");
            for symbol in ["CONFIG_PROVE_LOCKING", "CONFIG_DMA_API_DEBUG", "CONFIG_FAILSLAB", "CONFIG_PCI"] {
                assert!(config.built_in(symbol), "{symbol}");
            }
        }
    }
}
