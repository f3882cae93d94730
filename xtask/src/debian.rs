// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Making directory trees from Debian packages with mmdebstrap, as root or as an ordinary user.

use crate::mirror::Mirror;
use crate::process::{command, is_root, run_logged, run_to_file};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The Debian release that guest and QEMU come from.
pub const SUITE: &str = "trixie";
/// The suite with the recent kernel and QEMU.
pub const BACKPORTS: &str = "trixie-backports";
/// What the next releases are made from.
pub const SID: &str = "sid";
/// What is too new even for that.
pub const EXPERIMENTAL: &str = "experimental";

/// With mmdebstrap's own default mirror: adds the suite MORE to the suite BASE of whatever it chose.
const ADD_SUITE: &str = r#"cd "$1/etc/apt" && { cat sources.list sources.list.d/*.list 2>/dev/null |
    sed -n 's/^\(deb .*\) BASE main.*/\1 MORE main/p' | head -n 1 > more && test -s more; } &&
    mv more sources.list.d/more.list"#;

/// Makes a tree of packages of `suite`, with the backports when it is [`SUITE`], with sid when it is [`EXPERIMENTAL`].
pub fn make_tree(mirror: Option<&Mirror>, suite: &str, args: &[String], tree: &Path, log: &Path) -> Result<()> {
    let tar = tree.with_extension("tar");
    mmdebstrap(mirror, suite, args, &tar, log)?;
    unpack(&tar, tree, log)?;
    fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))
}

/// Options for a small tree with these packages and what they depend on.
pub fn small(packages: &str) -> Vec<String> {
    let mut args = vec![
        "--variant=minbase".to_owned(),
        "--aptopt=Apt::Install-Recommends \"false\"".to_owned(),
        format!("--include={packages}"),
    ];
    args.extend(["man", "locale", "doc"].map(|d| format!("--dpkgopt=path-exclude=/usr/share/{d}/*")));
    args
}

fn mmdebstrap(mirror: Option<&Mirror>, suite: &str, args: &[String], tar: &Path, log: &Path) -> Result<()> {
    let suites: &[&str] = match suite {
        SUITE => &[SUITE, BACKPORTS],
        EXPERIMENTAL => &[SID, EXPERIMENTAL],
        other => &[other],
    };
    let mut mm = command("mmdebstrap");
    mm.arg(if is_root() { "--mode=root" } else { "--mode=unshare" });
    mm.arg("--aptopt=Acquire::Languages \"none\"").arg("--architectures=amd64").args(args);
    if suites[0] == SID {
        // A mirror may keep a copy of these that it does not update. What is old there will do.
        mm.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    }
    // In user-namespace mode another uid works in the temporary directory and starts in the current one.
    mm.current_dir("/");
    if std::env::var_os("TMPDIR").is_none() && Path::new("/var/tmp").is_dir() {
        mm.env("TMPDIR", "/var/tmp");
    }
    match mirror {
        Some(mirror) => {
            let signed = mirror.keyring.as_ref().map(|k| format!("[signed-by={}] ", k.display())).unwrap_or_default();
            mm.args([suites[0], "-"]);
            for suite in suites {
                mm.arg(format!("deb {signed}{} {suite} main", mirror.uri));
            }
        }
        None => {
            if let [base, more] = suites {
                mm.arg(format!("--setup-hook={}", ADD_SUITE.replace("BASE", base).replace("MORE", more)));
            }
            mm.args([suites[0], "-"]);
        }
    }
    run_to_file(&mut mm, tar, log)
        .context("cannot fetch Debian packages (choose another mirror with --mirror URL or the variable DEBIAN_MIRROR)")
}

/// Unpacks a tree; as an ordinary user everything then belongs to that user and device nodes are left out.
fn unpack(tar: &Path, dir: &Path, log: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let mut untar = command("tar");
    untar.arg("-xf").arg(tar).arg("-C").arg(dir);
    if !is_root() {
        untar.args(["--no-same-owner", "--exclude=./dev/*"]);
    }
    run_logged(&mut untar, log)
}

/// Makes an ext4 image of a directory, whose files belong to root in it.
pub fn make_ext4(dir: &Path, image: &Path, size: &str, log: &Path) -> Result<()> {
    let mut mke2fs = command(if is_root() { "mke2fs" } else { "unshare" });
    if !is_root() {
        mke2fs.args(["-r", "--", "mke2fs"]);
    }
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(dir).arg(image).arg(size);
    run_logged(&mut mke2fs, log)
}

/// A program with the libraries of a tree, started through the tree's own dynamic linker.
pub fn with_libraries_of(tree: &Path, program: &Path) -> Command {
    // Packages up to bookworm's have a part of their libraries outside /usr.
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| tree.join(dir));
    let linkers = libraries.each_ref().map(|dir| dir.join("ld-linux-x86-64.so.2"));
    let mut command = command(linkers.iter().find(|linker| linker.exists()).unwrap_or(&linkers[0]));
    command.arg("--library-path").arg(libraries.each_ref().map(|dir| dir.display().to_string()).join(":"));
    command.arg("--argv0").arg(program.file_name().unwrap_or_default()).arg(program);
    command.env("QEMU_MODULE_DIR", libraries[0].join("qemu"));
    command
}

/// A directory for a build inside a tree.
pub fn work_dir(tree: &Path) -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("build-").tempdir_in(tree.join("tmp"))?)
}

/// A shell script run inside a tree made by [`make_tree`], in a directory made by [`work_dir`].
pub fn in_tree(tree: &Path, dir: &TempDir, script: &str) -> Result<Command> {
    let script = format!("cd /{}\n{script}\n", dir.path().strip_prefix(tree)?.display());
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
    Ok(shell)
}
