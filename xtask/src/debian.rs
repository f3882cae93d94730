// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Making directory trees from Debian packages with mmdebstrap, as root or as an ordinary user.

use crate::mirror::Mirror;
use crate::process::{command, is_root, run_logged, run_to_file};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The Debian release that guest and QEMU come from.
pub const SUITE: &str = "trixie";
/// The suite with the recent kernel and QEMU.
pub const BACKPORTS: &str = "trixie-backports";

/// With mmdebstrap's own default mirror: adds the backports of whatever it chose.
const ADD_BACKPORTS: &str = r#"cd "$1/etc/apt" && { cat sources.list sources.list.d/*.list 2>/dev/null |
    sed -n 's/^\(deb .*\) trixie main.*/\1 trixie-backports main/p' | head -n 1 > backports && test -s backports; } &&
    mv backports sources.list.d/backports.list"#;

/// Runs mmdebstrap with the packages of `suite`, and of the backports when it is [`SUITE`]; its tree comes out as `tar`.
pub fn mmdebstrap(mirror: Option<&Mirror>, suite: &str, args: &[String], tar: &Path, log: &Path) -> Result<()> {
    let suites: &[&str] = if suite == SUITE { &[SUITE, BACKPORTS] } else { &[suite] };
    let mut mm = command("mmdebstrap");
    mm.arg(if is_root() { "--mode=root" } else { "--mode=unshare" });
    mm.arg("--aptopt=Acquire::Languages \"none\"").arg("--architectures=amd64").args(args);
    // In user-namespace mode another uid works in the temporary directory and starts in the current one.
    mm.current_dir("/");
    if std::env::var_os("TMPDIR").is_none() && Path::new("/var/tmp").is_dir() {
        mm.env("TMPDIR", "/var/tmp");
    }
    match mirror {
        Some(mirror) => {
            let signed = mirror.keyring.as_ref().map(|k| format!("[signed-by={}] ", k.display())).unwrap_or_default();
            mm.args([suite, "-"]);
            for suite in suites {
                mm.arg(format!("deb {signed}{} {suite} main", mirror.uri));
            }
        }
        None => {
            if suites.contains(&BACKPORTS) {
                mm.arg(format!("--setup-hook={ADD_BACKPORTS}"));
            }
            mm.args([suite, "-"]);
        }
    }
    run_to_file(&mut mm, tar, log).context(
        "cannot fetch Debian packages (the mirror can be chosen with --mirror URL or the variable DEBIAN_MIRROR)",
    )
}

/// Unpacks a tree; as an ordinary user everything then belongs to that user and device nodes are left out.
pub fn unpack(tar: &Path, dir: &Path, log: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let mut untar = command("tar");
    untar.arg("-xf").arg(tar).arg("-C").arg(dir);
    if !is_root() {
        untar.args(["--no-same-owner", "--exclude=./dev/*"]);
    }
    run_logged(&mut untar, log)
}

/// A command that sees itself as root over this user's files: for making images that belong to root.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return command(program);
    }
    let mut unshare = command("unshare");
    unshare.args(["-r", "--", program]);
    unshare
}

/// A shell script run inside a tree made by [`unpack`].
pub fn in_tree(tree: &Path, script: &str) -> Command {
    // The kernel's build needs /dev/null and /proc (objtool reads its stack limit there).
    let enter =
        "mount --rbind /dev \"$1/dev\"; mount --rbind /proc \"$1/proc\"; exec chroot \"$1\" /bin/sh -euc \"$2\"";
    let mut shell = command("unshare");
    shell.args([if is_root() { "-m" } else { "-rm" }, "--", "sh", "-euc", enter, "sh"]).arg(tree).arg(script);
    shell
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/");
    for name in ["MAKEFLAGS", "MFLAGS", "CFLAGS", "TMPDIR", "KBUILD_OUTPUT", "ARCH", "CROSS_COMPILE"] {
        shell.env_remove(name);
    }
    shell
}
