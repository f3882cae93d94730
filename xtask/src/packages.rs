// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packages that the host needs. As root, xtask installs what is missing with apt; otherwise it prints the command to run.

use crate::paths::Paths;
use crate::process::{self, command, find_program, is_root, run_logged};
use crate::progress;
use anyhow::{Result, bail};
use std::path::Path;

/// A Debian package, and how to tell whether its contents are there already.
struct Package {
    name: &'static str,
    present: fn() -> bool,
}

const RUST_SIDE: &[Package] = &[
    Package { name: "gcc", present: || find_program("cc").is_some() },
    Package { name: "libc6-dev", present: || header("stdio.h") },
    Package { name: "pkg-config", present: || find_program("pkg-config").is_some() },
    Package { name: "libssl-dev", present: || header("openssl/evp.h") },
];

const GUEST_SIDE: &[Package] = &[
    Package { name: "mmdebstrap", present: || find_program("mmdebstrap").is_some() },
    Package { name: "debian-archive-keyring", present: || crate::mirror::default_keyring().is_some() },
    Package { name: "e2fsprogs", present: || find_program("mke2fs").is_some() },
    Package { name: "xz-utils", present: || find_program("xz").is_some() },
    Package { name: "uidmap", present: || is_root() || find_program("newuidmap").is_some() },
];

const KERNEL_BUILD: &[Package] = &[
    Package { name: "make", present: || find_program("make").is_some() },
    Package { name: "flex", present: || find_program("flex").is_some() },
    Package { name: "bison", present: || find_program("bison").is_some() },
    Package { name: "bc", present: || find_program("bc").is_some() },
    Package { name: "libelf-dev", present: || header("libelf.h") },
    Package { name: "git", present: || find_program("git").is_some() },
];

fn header(name: &str) -> bool {
    let system = Path::new("/usr/include");
    system.join(name).exists() || system.join("x86_64-linux-gnu").join(name).exists()
}

/// Makes sure that Rust code that links with C libraries can be built.
pub fn ensure_rust_side(paths: &Paths) -> Result<()> {
    ensure(paths, &[RUST_SIDE])
}

/// Makes sure that a kernel can be built.
pub fn ensure_kernel_build(paths: &Paths) -> Result<()> {
    ensure(paths, &[RUST_SIDE, KERNEL_BUILD])
}

/// Makes sure that everything needed to build and boot the guest is there, too.
pub fn ensure_all(paths: &Paths) -> Result<()> {
    ensure(paths, &[RUST_SIDE, GUEST_SIDE])?;
    if !is_root() {
        check_user_namespaces()?;
    }
    Ok(())
}

fn ensure(paths: &Paths, lists: &[&[Package]]) -> Result<()> {
    let missing: Vec<&str> = lists.iter().copied().flatten().filter(|p| !(p.present)()).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if find_program("apt-get").is_none() {
        bail!("these packages are missing: {names} (Debian's names; install your system's equivalents)");
    }
    if !is_root() {
        bail!("these packages are missing; run this and try again:\n\n    sudo apt-get install -y {names}\n");
    }
    progress::step(&format!("apt-get install {names}"), || install(paths, &missing))?;
    let still: Vec<&str> = lists.iter().copied().flatten().filter(|p| !(p.present)()).map(|p| p.name).collect();
    if !still.is_empty() {
        bail!("apt-get installed {}, but their files were not found; is the installation damaged?", still.join(" "));
    }
    Ok(())
}

fn install(paths: &Paths, names: &[&str]) -> Result<()> {
    let log = paths.log("apt");
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get");
        apt.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run_logged(&mut apt, &log)
    };
    // A third-party source that is down must not stop us: what counts is that the install works.
    let update = apt(&["update"]);
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(names);
    apt(&args).or_else(|e| update.and(Err(e)))
}

/// An ordinary user builds the guest in a user namespace; says what to do where that is not possible.
fn check_user_namespaces() -> Result<()> {
    if process::output(command("unshare").args(["-rm", "true"])).is_err() {
        bail!(
            "this system does not let ordinary users create user namespaces, which building the guest needs: \
             allow them (sysctl kernel.unprivileged_userns_clone=1, or \
             kernel.apparmor_restrict_unprivileged_userns=0 where AppArmor restricts them), or run as root"
        );
    }
    let user = process::output(command("id").arg("-un"))?.trim().to_owned();
    let uid = rustix::process::geteuid().as_raw().to_string();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let has = text.lines().filter_map(|l| l.split(':').next()).any(|name| name == user || name == uid);
        if !has {
            bail!(
                "{user} has no range in {file}, which mmdebstrap needs; run this and try again:\n\n    \
                 sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}\n"
            );
        }
    }
    Ok(())
}
