// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test --changed`: which files a branch changes, and what each of them can break. Whatever the table does not
//! know can break everything.

use crate::device::PROGRAM;
use crate::paths::Paths;
use crate::process::{self, command};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// A part of `cargo xtask test`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All of it.
    Everything,
    /// Formatting, clippy, dependencies.
    Lints,
    /// The tests of a package.
    Package(&'static str),
    /// One test program of the device's package.
    Test(String),
    /// The tests of optimised code.
    Optimised,
    /// The fuzz targets.
    Fuzz,
    /// All guest cases, and the module.
    Cases,
    /// The guest cases whose script contains these words.
    CasesWith(&'static str),
    /// One guest case.
    Case(String),
    /// The quick run of `compare`.
    Compare,
    /// Nothing tests it; what to do instead.
    Note(&'static str),
}

use Part::{Cases, CasesWith, Compare, Everything, Fuzz, Lints, Note, Optimised, Package};

const XTASK: Part = Package("xtask");
const DEVICE: Part = Package(PROGRAM);
const FUZZ_PACKAGE: Part = Package("vhost-user-blk-crypto-fuzz");

/// What the files below a directory can break. The first line that fits counts.
const DIRECTORIES: &[(&str, &[Part])] = &[
    // Front ends and commands, which only their own tests and fuzz targets use.
    ("src/ufs/", &[Lints, DEVICE, FUZZ_PACKAGE, CasesWith("attach: ufs")]),
    ("src/vfio_user/", &[Lints, DEVICE, FUZZ_PACKAGE, CasesWith("attach: ufs")]),
    ("src/command/ctl", &[Lints, DEVICE, CasesWith("host: ctl"), CasesWith("host: fails ctl")]),
    ("src/command/", &[Lints, DEVICE]),
    ("tests/sandbox/", &[Lints, DEVICE, Optimised]),
    ("tests/key_stack.rs", &[Lints, DEVICE, Optimised]),
    ("tests/common/", &[Lints, DEVICE, Optimised]),
    ("tests/data/", &[DEVICE]),
    ("proptest-regressions/", &[DEVICE]),
    ("test-driver/", &[Lints, DEVICE, FUZZ_PACKAGE, Package("vubc-load"), Fuzz]),
    ("fuzz/", &[Lints, FUZZ_PACKAGE, Fuzz]),
    ("benches/", &[Lints, Package("vubc-load"), Note("cargo xtask bench --quick runs the benchmark")]),
    // The guest. A test of xtask reads guest.config.
    ("guest-driver/guest.config", &[XTASK, Note("docs/own-kernel.md says how to build a kernel with it")]),
    ("guest-driver/debug.config", &[XTASK, Note("cargo xtask test --only guest --debug-kernel boots such a kernel")]),
    ("guest-driver/dkms.conf", &[Note("cargo xtask dist --check installs the driver with it")]),
    ("guest-driver/README.md", TEXT),
    ("guest-driver/", &[Cases, Compare]),
    ("guest-tests/README.md", TEXT),
    ("guest-tests/verify/", &[Lints, Package("fscrypt-verify"), CasesWith("check: fscrypt")]),
    ("guest-tests/compare/", &[Compare]),
    ("guest-tests/btrfs/", &[Note("cargo xtask btrfs runs the guest's part of itself")]),
    ("contrib/xfstests/", &[Note("cargo xtask fstests uses the local.config")]),
    ("guest-tests/fstests/", &[Note("cargo xtask fstests runs the guest's part of itself")]),
    ("guest-tests/demo.sh", &[Note("cargo xtask demo runs it")]),
    ("guest-tests/dialoglib.sh", &[Compare, Note("cargo xtask btrfs uses it, too")]),
    ("guest-tests/", &[Cases, Compare]),
    ("kernel/", &[XTASK, Note("kernel/README.md says how to build and try the patches")]),
    // The commands of xtask that `test` does not use.
    ("xtask/src/compare/", &[Lints, XTASK, Compare]),
    ("xtask/src/bench/", &[Lints, XTASK, Note("cargo xtask bench --quick runs the benchmark")]),
    ("xtask/src/btrfs/", &[Lints, XTASK, Note("cargo xtask btrfs runs it")]),
    ("xtask/src/fstests", &[Lints, XTASK, Note("cargo xtask fstests runs it")]),
    ("xtask/src/demo.rs", &[Lints, XTASK, Note("cargo xtask demo runs it")]),
    ("xtask/src/shell.rs", &[Lints, XTASK, Note("cargo xtask shell runs it")]),
    ("xtask/src/miri.rs", &[Lints, XTASK, Note("cargo xtask miri runs it")]),
    ("systemd/", TEXT),
    ("docs/", TEXT),
    ("man/", TEXT),
    ("contrib/", TEXT),
    (".github/", TEXT),
];

/// Documents and files to install: tests of both packages compare them with the source, and follow their links.
const TEXT: &[Part] = &[DEVICE, XTASK];

/// What a changed file can break.
pub fn parts(file: &str) -> Vec<Part> {
    if let Some(name) = stem(file, "guest-tests/cases/", ".sh") {
        // Documents may have links to a case that was deleted.
        return if exists(file) { vec![Part::Case(name)] } else { vec![XTASK] };
    }
    if let Some((_, parts)) = DIRECTORIES.iter().find(|(directory, _)| file.starts_with(directory)) {
        return parts.to_vec();
    }
    if let Some(name) = stem(file, "tests/", ".rs") {
        // There is no such program if the file was deleted.
        return if exists(file) { vec![Lints, Part::Test(name)] } else { vec![Lints, DEVICE] };
    }
    let text = !file.contains('/') && file.ends_with(".md") || file == "qemu/README.md";
    if text { TEXT.to_vec() } else { vec![Everything] }
}

fn exists(file: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(file).exists()
}

/// The name of a file that lies directly in this directory.
fn stem(file: &str, directory: &str, extension: &str) -> Option<String> {
    let name = file.strip_prefix(directory)?.strip_suffix(extension)?;
    (!name.contains('/')).then(|| name.to_owned())
}

/// The files that differ from where the branch has left `base`, committed or not, and those that git does not know yet.
pub fn files(paths: &Paths, base: &str) -> Result<BTreeSet<String>> {
    let git = |arguments: &[&str]| process::output(command("git").current_dir(&paths.root).args(arguments));
    let fork = git(&["merge-base", base, "HEAD"])
        .with_context(|| format!("cannot compare with {base}; name a branch or commit with --changed=REVISION"))?;
    let changed = git(&["diff", "--name-only", "--no-renames", "-z", fork.trim()])?;
    let untracked = git(&["ls-files", "--others", "--exclude-standard", "-z"])?;
    Ok([changed, untracked]
        .iter()
        .flat_map(|list| list.split('\0'))
        .filter(|f| !f.is_empty())
        .map(Into::into)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_there_is() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (directory, _) in DIRECTORIES {
            let (parent, start) = directory.rsplit_once('/').unwrap();
            let exists = root.join(parent).read_dir().is_ok_and(|entries| {
                entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(start))
            });
            assert!(exists, "{directory} is not there any more");
        }
        let packages = DIRECTORIES.iter().flat_map(|(_, parts)| parts.iter());
        let manifests = ["", "xtask", "fuzz", "benches/load", "guest-tests/verify"]
            .map(|package| std::fs::read_to_string(root.join(package).join("Cargo.toml")).unwrap());
        for part in packages {
            if let Package(name) = part {
                let line = format!("name = \"{name}\"\n");
                assert!(manifests.iter().any(|manifest| manifest.contains(&line)), "{name} is no package");
            }
        }
    }

    #[test]
    fn first_lines_first() {
        assert_eq!(parts("guest-driver/README.md"), TEXT);
        assert_eq!(parts("guest-driver/vbc_key.c"), [Cases, Compare]);
        assert_eq!(parts("tests/resize.rs"), [Lints, Part::Test("resize".into())]);
        assert_eq!(parts("tests/common/ring.rs"), [Lints, DEVICE, Optimised]);
        assert_eq!(parts("README.md"), TEXT);
        assert_eq!(parts("xts/README.md"), [Everything], "its examples are tests");
        assert_eq!(parts("rustfmt.toml"), [Everything]);
    }
}
