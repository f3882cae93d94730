// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Building the user's checkouts of xfstests and fscryptctl for the guest: copies are compiled in the guest's build
//! tree and put into a disk image, which is kept in the cache under a hash of the copied files.

use crate::guest_root::{GuestRoot, Recipe};
use crate::paths::Paths;
use crate::process::{self, command, run_logged};
use crate::{cache, debian, progress};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// The guest that builds and runs them.
pub const RECIPE: Recipe = Recipe {
    name: "guest-fstests",
    run: &[
        "perl",
        "gawk",
        "attr",
        "acl",
        "bc",
        "psmisc",
        "quota",
        "lz4",
        "xxd",
        "file",
        "xz-utils",
        "bsdextrautils",
        "uuid-runtime",
        "libaio1t64",
        "libcap2",
        "liburing2",
    ],
    build: &[
        "autoconf",
        "automake",
        "libtool-bin",
        "pkgconf",
        "xfslibs-dev",
        "uuid-dev",
        "libattr1-dev",
        "libacl1-dev",
        "libaio-dev",
        "libcap-dev",
        "liburing-dev",
    ],
};

/// Leaves what the guest gets in `image`.
const SCRIPT: &str = "umask 022
mkdir -p image/bin image/xfstests
tar -xf xfstests.tar -C image/xfstests
make -C image/xfstests -j\"$(nproc)\"
find image/xfstests -name '*.o' -delete
if [ -e fscryptctl.tar ]; then
    mkdir fscryptctl
    tar -xf fscryptctl.tar -C fscryptctl
    make -C fscryptctl VERSION= fscryptctl
    cp fscryptctl/fscryptctl image/bin/
fi
";

/// The user's checkouts: their names, and their files in tar archives.
pub struct Checkouts(Vec<(&'static str, Vec<u8>)>);

impl Checkouts {
    /// Reads them.
    pub fn read(fstests: &Path, fscryptctl: Option<&Path>) -> Result<Self> {
        let mut archives = vec![("xfstests", pack(fstests, "xfstests", "check")?)];
        if let Some(dir) = fscryptctl {
            archives.push(("fscryptctl", pack(dir, "fscryptctl", "fscryptctl.c")?));
        }
        Ok(Self(archives))
    }
}

/// Builds them, or finds them in the cache; returns the image.
pub fn build(paths: &Paths, root: &GuestRoot, Checkouts(archives): &Checkouts) -> Result<PathBuf> {
    let mut recipe = vec!["fstests 1".to_owned(), SCRIPT.to_owned(), root.image().display().to_string()];
    recipe.extend(archives.iter().map(|(name, tar)| format!("{name} {}", cache::content_key(tar))));
    let key = cache::key(&recipe.iter().map(String::as_str).collect::<Vec<_>>());
    let dir = cache::entry(&paths.cache, "fstests", &key, |dir| {
        progress::step("xfstests (first time for these files)", || build_image(paths, root, archives, dir))
    })?;
    Ok(dir.join("fstests.ext4"))
}

fn build_image(paths: &Paths, root: &GuestRoot, archives: &[(&str, Vec<u8>)], dir: &Path) -> Result<()> {
    let log = paths.fresh_log("fstests-build");
    let tree = root.build_tree();
    let work = debian::work_dir(&tree)?;
    for (name, tar) in archives {
        fs::write(work.path().join(format!("{name}.tar")), tar)?;
    }
    run_logged(&mut debian::in_tree(&tree, &work, SCRIPT)?, &log).context("the checkouts did not build")?;
    debian::make_ext4(&work.path().join("image"), &dir.join("fstests.ext4"), "2G", &log)
}

/// A tar archive of a checkout, the same for the same files. Of a git checkout, what git ignores is left out.
fn pack(dir: &Path, project: &str, telltale: &str) -> Result<Vec<u8>> {
    ensure!(dir.join(telltale).is_file(), "{} is no checkout of {project}: it has no {telltale}", dir.display());
    let mut names = if dir.join(".git").exists() { git_files(dir)? } else { all_files(dir)? };
    names.sort();
    names.dedup();
    if names.iter().any(|n| *n == Path::new("include/builddefs")) {
        bail!("{} was built in place; give a clean tree or a git checkout", dir.display());
    }
    let mut tar = tar::Builder::new(vec![]);
    tar.mode(tar::HeaderMode::Deterministic);
    tar.follow_symlinks(false);
    for name in names {
        let path = dir.join(&name);
        // What git knows but the user has deleted, and submodules.
        if fs::symlink_metadata(&path).is_ok_and(|m| !m.is_dir()) {
            tar.append_path_with_name(&path, &name).with_context(|| format!("cannot read {}", path.display()))?;
        }
    }
    Ok(tar.into_inner()?)
}

fn git_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut git = command("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(dir);
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let text = process::output(&mut git).with_context(|| format!("cannot list the files of {}", dir.display()))?;
    Ok(text.split('\0').filter(|n| !n.is_empty()).map(PathBuf::from).collect())
}

fn all_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = WalkDir::new(dir).into_iter().filter(|entry| !entry.as_ref().is_ok_and(|e| e.file_type().is_dir()));
    files.map(|entry| Ok(entry?.path().strip_prefix(dir)?.to_path_buf())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_depends_on_the_files_alone() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let tars = dirs.each_ref().map(|dir| {
            fs::create_dir(dir.path().join("sub")).unwrap();
            fs::write(dir.path().join("sub/check"), "1").unwrap();
            fs::write(dir.path().join("check"), "2").unwrap();
            pack(dir.path(), "xfstests", "check").unwrap()
        });
        assert_eq!(tars[0], tars[1]);
        fs::write(dirs[0].path().join("sub/check"), "3").unwrap();
        assert_ne!(pack(dirs[0].path(), "xfstests", "check").unwrap(), tars[1]);
    }

    #[test]
    fn wrong_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(pack(dir.path(), "xfstests", "check").unwrap_err().to_string().contains("no checkout of xfstests"));
        fs::create_dir(dir.path().join("include")).unwrap();
        for file in ["check", "include/builddefs"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert!(pack(dir.path(), "xfstests", "check").unwrap_err().to_string().contains("built in place"));
    }
}
