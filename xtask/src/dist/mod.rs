// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask dist`: what others install, in `target/dist`. Static programs, Debian packages of the program and of the guest's
//! driver, and their SHA-256 sums.

mod check;
mod units;

use crate::cli::DistArgs;
use crate::debian::{self, SUITE};
use crate::device::{PROGRAM, cargo};
use crate::mirror::{self, Mirror};
use crate::paths::Paths;
use crate::process::{self, command, find_program, run_logged};
use crate::tools::Sources;
use crate::{cache, packages, progress};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A CPU, as Rust and Debian call it.
struct Cpu {
    rust: &'static str,
    debian: &'static str,
}

const CPUS: [Cpu; 2] = [Cpu { rust: "x86_64", debian: "amd64" }, Cpu { rust: "aarch64", debian: "arm64" }];

impl Cpu {
    /// The file name of the program.
    fn program(&self) -> String {
        format!("{PROGRAM}-{VERSION}-{}", self.rust)
    }

    /// The file name of the program's package.
    fn package(&self) -> String {
        format!("{PROGRAM}_{VERSION}_{}.deb", self.debian)
    }
}

/// The file name of the package of the guest's driver.
fn module_package() -> String {
    format!("virtio-blk-crypto-dkms_{VERSION}_all.deb")
}

/// Where the shells look for completions, and what they call the file.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", PROGRAM), ("zsh", "_vhost-user-blk-crypto"), ("fish", "vhost-user-blk-crypto.fish")];

/// Makes the packages. lintian knows Debian's rules for them.
const SCRIPT: &str = "cd source
mv packaging/debian .
chmod +x debian/rules
for cpu in CPUS; do
    dpkg-architecture -f -a $cpu -c debian/rules binary-arch
    debian/rules clean
done
debian/rules binary-indep
cd ..
lintian --allow-root --fail-on error,warning *.deb
";

/// Makes everything, and checks it if asked to.
pub fn run(paths: &Paths, args: &DistArgs) -> Result<bool> {
    packages::ensure_all(paths)?;
    let mirror = mirror::find(args.mirror.as_deref())?;
    let out = paths.target.join("dist");
    cache::remove_tree(&out)?;
    fs::create_dir_all(&out)?;
    for cpu in &CPUS {
        progress::step(&format!("{PROGRAM} for {}", cpu.rust), || program(paths, cpu, &out))?;
    }
    let tree = tree(paths, mirror.as_ref(), "packaging", &debian::small("debhelper,dh-dkms,lintian"))?;
    progress::step("Debian packages", || make_packages(paths, &tree, &out))?;
    sums(&out)?;
    println!("{} has programs, packages and SHA256SUMS", out.display());
    if args.check { check::run(paths, args, mirror.as_ref(), &out) } else { Ok(true) }
}

/// A tree of packages from the cache.
fn tree(paths: &Paths, mirror: Option<&Mirror>, name: &str, args: &[String]) -> Result<PathBuf> {
    let recipe: Vec<&str> = ["dist 1", SUITE].into_iter().chain(args.iter().map(String::as_str)).collect();
    let dir = cache::entry(&paths.cache, name, &cache::key(&recipe), |dir| {
        progress::step(&format!("tree for {name} from Debian packages (first time only)"), || {
            debian::make_tree(mirror, SUITE, args, &dir.join("root"), &paths.fresh_log(name))
        })
    })?;
    Ok(dir.join("root"))
}

/// Builds the program for a CPU. rustc brings a linker and musl along, so this needs no compiler for that CPU.
fn program(paths: &Paths, cpu: &Cpu, out: &Path) -> Result<()> {
    let target = format!("{}-unknown-linux-musl", cpu.rust);
    let log = paths.fresh_log(&format!("dist-{}", cpu.rust));
    if find_program("rustup").is_some() {
        run_logged(command("rustup").args(["target", "add", &target]), &log)
            .with_context(|| format!("Rust's library for {target} is missing, and cannot be fetched"))?;
    }
    let mut cargo = cargo(paths);
    cargo.args(["build", "--release", "--package", PROGRAM, "--target", &target]);
    cargo.env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")), "rust-lld");
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "true");
    run_logged(&mut cargo, &log).with_context(|| format!("{PROGRAM} did not build for {target}"))?;
    copy(&paths.target.join(target).join("release").join(PROGRAM), &out.join(cpu.program()))
}

/// Runs debhelper in `tree`.
fn make_packages(paths: &Paths, tree: &Path, out: &Path) -> Result<()> {
    let work = debian::work_dir(tree)?;
    let source = work.path().join("source");
    for dir in ["docs", "guest-driver", "man", "packaging", "qemu", "src/personality", "systemd"] {
        Sources::read(&paths.root.join(dir))?.write(&source.join(dir))?;
    }
    for file in ["README.md", "CHANGELOG.md"] {
        copy(&paths.root.join(file), &source.join(file))?;
    }
    for cpu in &CPUS {
        copy(&out.join(cpu.program()), &source.join("program").join(cpu.debian).join(PROGRAM))?;
    }
    let own = CPUS.iter().find(|cpu| cpu.rust == std::env::consts::ARCH).context("not on this CPU")?;
    fs::create_dir(source.join("completions"))?;
    for (shell, file) in COMPLETIONS {
        let text = process::output(command(out.join(own.program())).args(["completions", shell]))?;
        fs::write(source.join("completions").join(file), text)?;
    }
    let script = SCRIPT.replace("CPUS", &CPUS.each_ref().map(|c| c.debian).join(" "));
    run_logged(&mut debian::in_tree(tree, &work, &script)?, &paths.fresh_log("dist-packages"))?;
    for package in CPUS.iter().map(Cpu::package).chain([module_package()]) {
        copy(&work.path().join(&package), &out.join(&package))
            .context("packaging/debian/changelog and guest-driver/dkms.conf must have the version of Cargo.toml")?;
    }
    Ok(())
}

fn sums(out: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(out)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut text = String::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        writeln!(text, "{}  {name}", cache::content_key(&fs::read(&file)?))?;
    }
    Ok(fs::write(out.join("SHA256SUMS"), text)?)
}

/// Copies a file, and makes the directory for it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
