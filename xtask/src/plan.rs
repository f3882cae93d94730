// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `cargo xtask test` runs: everything, what filters match, or what a change can break.

use crate::case;
use crate::changed::{self, Part};
use crate::cli::{Half, TestArgs};
use crate::compare;
use crate::device;
use crate::driver_builds;
use crate::paths::Paths;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Formatting, clippy, dependencies.
    pub lints: bool,
    /// Calls of `cargo test`, each by its arguments.
    pub tests: Vec<Vec<String>>,
    /// Parts of the names of the tests to run; none: all tests.
    pub filters: Vec<String>,
    /// The tests of optimised code.
    pub optimised: bool,
    /// The fuzz targets, for a short time each.
    pub fuzz: bool,
    /// The guest cases.
    pub cases: Vec<PathBuf>,
    /// A quick run of `compare`.
    pub compare: bool,
    /// The guest's module is built, even without cases.
    pub module: bool,
    /// The module is built for other kernels, too.
    pub builds: bool,
    /// What `cargo xtask test` does not test.
    pub notes: BTreeSet<&'static str>,
}

impl Plan {
    /// What the command line asks for.
    pub fn new(paths: &Paths, args: &TestArgs) -> Result<Self> {
        let scripts = case::scripts(&paths.guest_tests("cases"))?;
        if let Some(base) = &args.changed {
            let files = changed::files(paths, base)?;
            let parts = files.iter().flat_map(|file| changed::parts(file));
            return Ok(Self::of(&parts.collect(), &scripts));
        }
        let unfiltered = args.filter.is_empty();
        let has = |name: &str| unfiltered || args.filter.iter().any(|filter| name.contains(filter.as_str()));
        let all = Self::everything(scripts.into_iter().filter(|script| has(&case::name(script))).collect());
        let (rust, guest) = (args.only != Some(Half::Guest), args.only != Some(Half::Rust));
        let plan = Self {
            lints: rust && unfiltered,
            tests: if rust { all.tests } else { Vec::new() },
            filters: args.filter.clone(),
            optimised: rust && unfiltered,
            fuzz: rust && has("fuzz"),
            cases: if guest { all.cases } else { Vec::new() },
            compare: guest && has(compare::SMOKE_TEST),
            module: guest && unfiltered,
            builds: guest && has(driver_builds::NAME),
            notes: all.notes,
        };
        ensure!(plan.has_rust() || plan.has_guest(), "no guest case is selected");
        Ok(plan)
    }

    fn everything(cases: Vec<PathBuf>) -> Self {
        Self {
            lints: true,
            tests: vec![vec!["--workspace".to_owned()]],
            filters: Vec::new(),
            optimised: true,
            fuzz: true,
            cases,
            compare: true,
            module: true,
            builds: true,
            notes: BTreeSet::new(),
        }
    }

    /// What the changed parts need.
    fn of(parts: &BTreeSet<Part>, scripts: &[PathBuf]) -> Self {
        let mut plan = Self::default();
        if parts.contains(&Part::Everything) {
            plan = Self::everything(scripts.to_vec());
        }
        let wants = |script: &Path| {
            let text = fs::read_to_string(script).unwrap_or_default();
            parts.iter().any(|part| match part {
                Part::Cases => true,
                Part::CasesWith(words) => text.contains(words),
                Part::Case(name) => case::name(script) == *name,
                _ => false,
            })
        };
        if plan.cases.is_empty() {
            plan.cases = scripts.iter().filter(|script| wants(script)).cloned().collect();
        }
        let whole = parts.contains(&Part::Package(device::PROGRAM));
        for part in parts {
            match part {
                Part::Lints => plan.lints = true,
                Part::Optimised => plan.optimised = true,
                Part::Fuzz => plan.fuzz = true,
                Part::Compare => plan.compare = true,
                Part::Cases => (plan.module, plan.builds) = (true, true),
                Part::Note(note) => drop(plan.notes.insert(note)),
                Part::Package(package) if !parts.contains(&Part::Everything) => {
                    plan.tests.push(vec!["--package".to_owned(), (*package).to_owned()]);
                }
                Part::Test(test) if !parts.contains(&Part::Everything) && !whole => {
                    plan.tests.push(vec!["--test".to_owned(), test.clone()]);
                }
                _ => {}
            }
        }
        plan
    }

    /// Whether a guest boots or the module is built.
    pub fn has_guest(&self) -> bool {
        self.module || self.builds || self.compare || !self.cases.is_empty()
    }

    /// Whether there is something for cargo.
    pub fn has_rust(&self) -> bool {
        self.lints || self.optimised || self.fuzz || !self.tests.is_empty()
    }

    /// In words, for a run that chose by itself.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        if self.lints {
            words.push("lints".to_owned());
        }
        words.extend(self.tests.iter().map(|arguments| format!("cargo test {}", arguments.join(" "))));
        for (wanted, name) in [(self.optimised, "optimised tests"), (self.fuzz, "fuzz targets")] {
            words.extend(wanted.then(|| name.to_owned()));
        }
        if self.has_guest() {
            words.push(format!("the module, {} guest cases", self.cases.len()));
        }
        for (wanted, name) in [(self.builds, driver_builds::NAME), (self.compare, compare::SMOKE_TEST)] {
            words.extend(wanted.then(|| name.to_owned()));
        }
        if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(files: &[&str]) -> Plan {
        let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tests/cases");
        let scripts = case::scripts(Path::new(cases)).unwrap();
        Plan::of(&files.iter().flat_map(|file| changed::parts(file)).collect(), &scripts)
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.cases.iter().map(|script| case::name(script)).collect()
    }

    #[test]
    fn what_is_not_known_runs_everything() {
        for file in ["Cargo.toml", "src/engine/mod.rs", "xts/src/lib.rs", "xtask/src/vm.rs", "a-new-directory/file"] {
            let plan = plan(&[file, "docs/guest.md"]);
            assert_eq!(plan, Plan::everything(plan.cases.clone()), "{file}");
            assert!(plan.cases.len() > 100, "{file}");
        }
    }

    #[test]
    fn nothing_changed_runs_nothing() {
        assert_eq!(plan(&[]), Plan::default());
    }

    #[test]
    fn a_case_runs_alone() {
        let plan = plan(&["guest-tests/cases/20-native-ext4.sh"]);
        assert_eq!(names(&plan), ["20-native-ext4"]);
        assert!(plan.tests.is_empty() && !plan.lints && !plan.fuzz && plan.has_guest());
        assert_eq!(plan.describe(), "the module, 1 guest cases");
    }

    #[test]
    fn a_case_that_is_gone_runs_nothing() {
        assert!(!plan(&["guest-tests/cases/1000-gone.sh"]).has_guest());
    }

    #[test]
    fn the_driver_runs_all_cases() {
        let plan = plan(&["guest-driver/vbc_main.c"]);
        assert!(plan.cases.len() > 100 && plan.compare && plan.module && !plan.has_rust());
    }

    #[test]
    fn a_test_runs_alone_unless_its_package_runs() {
        let one = plan(&["tests/resize.rs"]);
        assert_eq!((one.tests, one.lints, one.cases.len()), (vec![vec!["--test".into(), "resize".into()]], true, 0));
        let both = plan(&["tests/resize.rs", "src/command/inspect.rs"]);
        assert_eq!(both.tests, [["--package", device::PROGRAM]]);
    }

    #[test]
    fn the_ufs_front_runs_its_cases() {
        let plan = plan(&["src/ufs/serve.rs"]);
        let names = names(&plan);
        assert!(!names.is_empty() && names.iter().all(|name| name.contains("ufs")), "{names:?}");
        assert!(plan.lints && !plan.fuzz);
    }
}
