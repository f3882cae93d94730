// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What goes into the guest (a tar archive with the init script, the module, programs and the case) and what comes back.

use crate::driver::{MODULE, Module};
use crate::paths::Paths;
use crate::setup::Prepared;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A temporary directory for a guest's run; its path is short enough for sockets.
pub struct Scratch {
    dir: TempDir,
    /// The job for the guest.
    pub job: PathBuf,
    /// Where the guest's results go.
    pub results: PathBuf,
}

impl Scratch {
    /// Makes an empty directory.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vubc-").tempdir()?;
        Ok(Self { job: dir.path().join("job.tar"), results: dir.path().join("results.tar"), dir })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Unpacks the guest's results, if there are any; a truncated archive gives what it has.
    pub fn unpack_results(&self, out: &Path) -> Result<()> {
        if !self.results.exists() {
            return Ok(());
        }
        fs::create_dir_all(out)?;
        let mut archive = tar::Archive::new(File::open(&self.results)?);
        archive.set_preserve_permissions(false);
        for entry in archive.entries()? {
            let Ok(mut entry) = entry else { break };
            if (entry.header().entry_type().is_file() || entry.header().entry_type().is_dir())
                && entry.unpack_in(out).is_err()
            {
                break;
            }
        }
        Ok(())
    }
}

/// A job for the guest.
pub struct Job<'a> {
    /// The case's script, or none for a shell.
    pub script: Option<PathBuf>,
    /// Driver to load first: a module's name, or `none`.
    pub driver: &'a str,
    /// The module, unless built into the kernel.
    pub module: Option<&'a Module>,
    /// Modules that the kernel lacks, in the order in which they are loaded.
    pub kernel_modules: Vec<PathBuf>,
    /// More files, under their own names.
    pub others: Vec<PathBuf>,
    /// Directory of programs, if the script needs any.
    pub tools: Option<&'a Path>,
    /// More variables for the guest (names and values without quotes).
    pub variables: Vec<(String, String)>,
    /// A directory that the guest gets as `state`.
    pub state: Option<PathBuf>,
}

impl<'a> Job<'a> {
    /// The driver, and the programs of `guest-tests/tools`.
    pub fn new(prepared: &'a Prepared) -> Self {
        Self { tools: Some(&prepared.programs.tools), ..Self::with_module(prepared.module.as_ref()) }
    }

    /// The driver alone.
    pub fn with_module(module: Option<&'a Module>) -> Self {
        Self {
            script: None,
            driver: MODULE,
            module,
            kernel_modules: vec![],
            others: vec![],
            tools: None,
            variables: vec![],
            state: None,
        }
    }

    /// Writes the archive.
    pub fn write(&self, paths: &Paths, scratch: &Scratch) -> Result<()> {
        let tar = &scratch.job;
        let file = File::create(tar).with_context(|| format!("cannot write {}", tar.display()))?;
        let mut tar = tar::Builder::new(file);
        tar.mode(tar::HeaderMode::Deterministic);
        let mut add = |path: PathBuf, name: &str| {
            tar.append_path_with_name(&path, name).with_context(|| format!("cannot pack {}", path.display()))
        };
        add(paths.guest_tests("init"), "init")?;
        for library in [
            "lib.sh",
            "fslib.sh",
            "caselib.sh",
            "hostlib.sh",
            "driverlib.sh",
            "wrappedlib.sh",
            "dialoglib.sh",
            "ufslib.sh",
        ] {
            add(paths.guest_tests(library), library)?;
        }
        if let Some(module) = self.module {
            add(module.file.clone(), &format!("{MODULE}.ko"))?;
        }
        let mut kernel_modules = vec![];
        for module in &self.kernel_modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            add(module.clone(), &name)?;
            kernel_modules.push(name);
        }
        for other in &self.others {
            add(other.clone(), &other.file_name().unwrap_or_default().to_string_lossy())?;
        }
        if let Some(script) = &self.script {
            add(script.clone(), "case")?;
        }
        let tools = self.tools.map(|dir| fs::read_dir(dir).with_context(|| format!("no {}", dir.display())));
        for entry in tools.transpose()?.into_iter().flatten() {
            let entry = entry?;
            if !["build.log", "sources.hash"].iter().any(|n| entry.file_name() == *n) {
                add(entry.path(), &format!("bin/{}", entry.file_name().to_string_lossy()))?;
            }
        }
        if let Some(state) = self.state.as_ref().filter(|s| s.exists()) {
            tar.append_dir_all("state", state).with_context(|| format!("cannot pack {}", state.display()))?;
        }
        let mode = if self.script.is_some() { "case" } else { "shell" };
        let mut variables =
            format!("MODE='{mode}'\nDRIVER='{}'\nKERNEL_MODULES='{}'\n", self.driver, kernel_modules.join(" "));
        for (name, value) in &self.variables {
            variables += &format!("{name}='{}'\n", value.replace('\'', ""));
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(variables.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, "variables", variables.as_bytes())?;
        tar.finish()?;
        Ok(())
    }
}
