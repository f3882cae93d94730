// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compiling inside a tree of Debian packages: the guest's C programs of `guest-tests/tools`, and what `driver` and
//! `bench` ask for.

use crate::cache;
use crate::guest_root::GuestRoot;
use crate::paths::Paths;
use crate::{debian, process};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// Source files, read into memory so that they can be hashed and written elsewhere.
pub struct Sources(Vec<(PathBuf, Vec<u8>)>);

impl Sources {
    /// Reads a directory tree (empty when it does not exist); hidden files and build products are left out.
    pub fn read(dir: &Path) -> Result<Self> {
        if !dir.exists() {
            return Ok(Self(vec![]));
        }
        let kept = |entry: &DirEntry| {
            let product = |e| ["o", "ko", "cmd", "mod", "symvers", "order"].iter().any(|x| e == *x);
            !entry.file_name().to_string_lossy().starts_with('.') && !entry.path().extension().is_some_and(product)
        };
        let entries = WalkDir::new(dir).min_depth(1).into_iter().filter_entry(kept);
        let mut files = vec![];
        for entry in entries {
            let entry = entry?;
            if !entry.file_type().is_dir() {
                let text = fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
                files.push((entry.path().strip_prefix(dir)?.to_path_buf(), text));
            }
        }
        files.sort();
        Ok(Self(files))
    }

    /// Nothing there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes them below `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        for (name, text) in &self.0 {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap_or(dir))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn key(&self, script: &str, tree: &Path) -> String {
        // Trees are in the cache, so their paths identify their recipes.
        let mut parts = vec![script.to_owned(), tree.display().to_string()];
        parts.extend(
            self.0.iter().flat_map(|(n, t)| [n.display().to_string(), String::from_utf8_lossy(t).into_owned()]),
        );
        cache::key(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Runs a build script over `sources` in a tree of Debian packages and brings `products` and `build.log` to `out`;
/// does nothing when `out` holds the products of the same sources already.
pub fn build_in_tree(tree: &Path, sources: &Sources, script: &str, products: &[String], out: &Path) -> Result<()> {
    let stamp = out.join("sources.hash");
    let key = sources.key(script, tree);
    if fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(());
    }
    cache::remove_tree(out)?;
    fs::create_dir_all(out)?;
    let work = debian::work_dir(tree)?;
    sources.write(work.path())?;
    process::run_logged(&mut debian::in_tree(tree, &work, script)?, &out.join("build.log"))?;
    for product in products {
        fs::copy(work.path().join(product), out.join(product))
            .with_context(|| format!("the build left no {product}"))?;
    }
    fs::write(stamp, key)?;
    Ok(())
}

/// Builds the C programs of `guest-tests/tools` and returns the directory with them and with the scripts found there.
pub fn build(paths: &Paths, root: &GuestRoot) -> Result<PathBuf> {
    let source = paths.guest_tests("tools");
    let sources = Sources::read(&source)?;
    let out = paths.target.join("guest-tools");
    let mut programs = vec![];
    let mut script = String::new();
    for (name, _) in &sources.0 {
        if name.extension().is_some_and(|e| e == "c") && name.parent() == Some(Path::new("")) {
            let program = name.with_extension("").display().to_string();
            script += &format!("gcc -O2 -Wall -Wextra -Werror -static -o {program} {}\n", name.display());
            programs.push(program);
        }
    }
    build_in_tree(&root.build_tree(), &sources, &script, &programs, &out)
        .context("the guest's C programs did not build")?;
    for (name, text) in &sources.0 {
        let executable = fs::metadata(source.join(name)).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
        if executable && let Some(file) = name.file_name() {
            fs::write(out.join(file), text)?;
            fs::set_permissions(out.join(file), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(out)
}
