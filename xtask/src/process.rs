// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running other programs: with their output in a log, with a time limit, never left behind.

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use shared_child::SharedChild;
use shared_child::unix::SharedChildExt;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Adds the sbin directories to PATH: an ordinary user's PATH on Debian lacks mke2fs.
pub fn extend_path() {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&old).collect();
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !dirs.iter().any(|d| d == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    if let Ok(path) = std::env::join_paths(dirs) {
        // SAFETY: called first thing in main, before any other thread exists.
        unsafe { std::env::set_var("PATH", path) };
    }
}

/// Looks a program up in PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// True when this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that dies with this process, so that an interrupted run leaves nothing running.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: the closure only makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from));
    }
    command
}

/// The text of a file, which need not be UTF-8; empty when it cannot be read.
pub fn text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Opens a log file for appending, making its directory.
pub fn open_log(log: &Path) -> Result<File> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))
}

/// Runs a command without input, its output appended to `log`; an error shows the end of the log.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let out = open_log(log)?;
    command.stdout(out.try_clone()?);
    run_with_stderr(command, out, log)
}

/// As [`run_logged`], but standard output goes to a file of its own.
pub fn run_to_file(command: &mut Command, output: &Path, log: &Path) -> Result<()> {
    let out = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    command.stdout(out);
    let err = open_log(log)?;
    run_with_stderr(command, err, log)
}

fn run_with_stderr(command: &mut Command, stderr: File, log: &Path) -> Result<()> {
    let name = name_of(command);
    let status = command.stdin(Stdio::null()).stderr(stderr).status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status}); the end of {}:\n{}", log.display(), tail(log, 25));
    }
    Ok(())
}

fn name_of(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The standard output of a command that must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let name = name_of(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !out.status.success() {
        bail!("{name} failed ({}): {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The last `lines` lines of a text file, indented; empty when there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = text(path);
    let all: Vec<&str> = text.lines().map(|l| l.trim_end_matches('\r')).filter(|l| !l.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|l| format!("    {l}\n")).collect()
}

/// A child that is killed when it goes out of scope.
pub struct Running(SharedChild);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = name_of(command);
        Ok(Self(SharedChild::spawn(command).with_context(|| format!("cannot run {name}"))?))
    }

    /// Sends it a signal, if it is still there.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.0.send_signal(signal.as_raw())?)
    }
}

impl Deref for Running {
    type Target = SharedChild;

    fn deref(&self) -> &SharedChild {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
