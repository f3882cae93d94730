// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Least privilege: what the process may do once everything is open that it needs.
//!
//! | part | what is left | since |
//! |---|---|---|
//! | [no new privileges](privileges) | set-user-ID programs and file capabilities give nothing | Linux 3.5 |
//! | [capabilities](privileges) | none, also for root | |
//! | [Landlock](files) | the files and directories named to [`Sandbox`]; no TCP, no signals to others | Linux 5.13 to 6.12 |
//! | [seccomp](calls) | the system calls on a list; any other one ends the process | Linux 3.17 |
//!
//! It holds for the calling thread and the threads that it makes later, so it must be applied before there are others.
//! Open descriptors stay usable: image, sockets and files are opened before.

mod calls;
mod files;
mod privileges;

use std::io;
use std::path::{Path, PathBuf};

/// What may be done besides serving frontends with what is open already. Nothing, unless it is added here.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    rules: Vec<(PathBuf, Access)>,
    io_uring: bool,
}

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Open a file, or what is in a directory, for reading.
    Read,
    /// Open a file for writing; in a directory make files, too.
    Write,
    /// Remove what is in a directory, but no directories.
    Remove,
}

/// A part of the sandbox that the system does not have. The text says which, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub(self) String);

/// Why a part is missing that the kernel may have.
const FILTERED: &str = "a filter around this program forbids it (systemd's SystemCallFilter=, or that of a container)";

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Threads that exist already would stay outside.
    #[error("{0} threads exist already, which would stay outside the sandbox; please report this")]
    Threads(usize),
    /// A path cannot be opened.
    #[error("cannot look at {} for the sandbox: {error}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The capabilities cannot be dropped.
    #[error("cannot drop privileges: {0}")]
    Privileges(io::Error),
    /// The system refuses a ruleset that it should understand.
    #[error("Landlock has failed: {0}")]
    Landlock(#[from] Box<landlock::RulesetError>),
    /// The filter cannot be made.
    #[error("seccomp has failed: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

impl Sandbox {
    /// Nothing but what is open already.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also lets the process open this file, or the files below this directory, for reading.
    #[must_use]
    pub fn read_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Access::Read)
    }

    /// Also lets the process open this file for writing; when it is a directory, make and write files in it. Better open
    /// it before: a process that cannot open anything has a stricter filter.
    #[must_use]
    pub fn write_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Access::Write)
    }

    /// Also lets the process remove this file, which Landlock knows only as: any file in its directory and below.
    #[must_use]
    pub fn remove_file(self, path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.with(directory.unwrap_or(Path::new(".")), Access::Remove)
    }

    /// Rings of io_uring that exist already are used. What they can do must be restricted when they are made: seccomp sees no
    /// operations. No more can be made.
    #[must_use]
    pub fn io_uring(mut self, used: bool) -> Self {
        self.io_uring = used;
        self
    }

    fn with(mut self, path: impl Into<PathBuf>, access: Access) -> Self {
        self.rules.push((path.into(), access));
        self
    }

    /// Whether files are opened by path later on.
    fn opens_files(&self) -> bool {
        self.rules.iter().any(|(_, access)| *access != Access::Remove)
    }

    /// Whether there are files to remove later on.
    fn removes_files(&self) -> bool {
        self.rules.iter().any(|(_, access)| *access == Access::Remove)
    }

    /// Gives up everything else, for good. Returns the parts that this system does not have.
    ///
    /// # Errors
    /// When other threads exist already, a path does not exist, or a part fails that the system has. Some parts may be
    /// in force then.
    pub fn apply(&self) -> Result<Vec<Missing>, SandboxError> {
        // It cannot be told where /proc is not mounted.
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads > 1 {
            return Err(SandboxError::Threads(threads));
        }
        // Asks the system when it is first used, in a way that is not on the list of calls.
        let _ = rustix::param::page_size();
        let privileges = privileges::drop_all()?;
        // Landlock's own system calls and the files that it opens are not on the list of calls.
        Ok([privileges, files::restrict(self)?, calls::restrict(self)?].into_iter().flatten().collect())
    }
}
