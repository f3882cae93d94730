// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Least privilege: what the process may do once everything that it needs is open.
//!
//! | part | what is left | since |
//! |---|---|---|
//! | [no new privileges](privileges) | set-user-ID programs and file capabilities give nothing | Linux 3.5 |
//! | [capabilities](privileges) | none, also for root | |
//! | [Landlock](files) | the files and directories named to [`Sandbox`]; no TCP, no signals to others | Linux 5.13 to 6.12 |
//! | [seccomp](calls) | the system calls on a list; any other one ends the process | Linux 3.17 |
//!
//! It applies to the calling thread and to the threads that it creates later, so there must be no others yet. Open
//! descriptors stay usable: image, sockets and files are opened before.

mod calls;
mod files;
mod privileges;

use std::io;
use std::path::{Path, PathBuf};

/// What the process may do besides serving frontends with what is open. Nothing, unless it is added here.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    rules: Vec<(PathBuf, Access)>,
    io_uring: bool,
}

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Open a file, or the files in a directory, for reading.
    Read,
    /// Open a file for writing; in a directory, also create files.
    Write,
    /// Remove files in a directory, but no directories.
    Remove,
}

/// A part of the sandbox that the system lacks: which one, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub(self) String);

/// Why a part is missing although the kernel may have it.
const FILTERED: &str = "a filter around this program forbids it (systemd's SystemCallFilter=, or that of a container)";

/// Why the sandbox failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum SandboxError {
    #[error("{0} threads exist already, which would stay outside the sandbox; please report this")]
    Threads(usize),
    #[error("cannot open {} for the sandbox: {error}", path.display())]
    Path { path: PathBuf, error: io::Error },
    #[error("cannot drop privileges: {0}")]
    Privileges(io::Error),
    #[error("Landlock has failed: {0}")]
    Landlock(#[from] Box<landlock::RulesetError>),
    #[error("seccomp has failed: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

impl Sandbox {
    /// Allows only what is already open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also allows opening this file, or the files below this directory, for reading.
    #[must_use]
    pub fn read_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Access::Read)
    }

    /// Also allows opening this file for writing; in a directory, creating and writing files. Prefer to open it before:
    /// a process that cannot open anything has a stricter filter.
    #[must_use]
    pub fn write_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Access::Write)
    }

    /// Also allows removing this file. Landlock can allow this only for all files in its directory and below.
    #[must_use]
    pub fn remove_file(self, path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.with(directory.unwrap_or(Path::new(".")), Access::Remove)
    }

    /// Allows using existing io_uring rings. Their operations must be restricted when they are created, because seccomp
    /// does not see them. No more rings can be created.
    #[must_use]
    pub fn io_uring(mut self, used: bool) -> Self {
        self.io_uring = used;
        self
    }

    fn with(mut self, path: impl Into<PathBuf>, access: Access) -> Self {
        self.rules.push((path.into(), access));
        self
    }

    /// Whether files are opened by path later.
    fn opens_files(&self) -> bool {
        self.rules.iter().any(|(_, access)| *access != Access::Remove)
    }

    /// Whether files are removed later.
    fn removes_files(&self) -> bool {
        self.rules.iter().any(|(_, access)| *access == Access::Remove)
    }

    /// Gives up everything else, permanently. Returns the parts that this system lacks.
    ///
    /// # Errors
    /// When other threads exist, a path does not exist, or a part fails that the system has. Some parts may then be in
    /// force.
    pub fn apply(&self) -> Result<Vec<Missing>, SandboxError> {
        // Without /proc they cannot be counted.
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads > 1 {
            return Err(SandboxError::Threads(threads));
        }
        // The first use makes a system call that is not on the list.
        let _ = rustix::param::page_size();
        let privileges = privileges::drop_all()?;
        // Before seccomp: Landlock's system calls and the files that it opens are not on the list.
        Ok([privileges, files::restrict(self)?, calls::restrict(self)?].into_iter().flatten().collect())
    }
}
