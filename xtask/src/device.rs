// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Building and running the device program, one process per guest.

use crate::paths::Paths;
use crate::process::{self, Running, command, open_log, run_logged};
use crate::vm::QUEUE_SIZE;
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The program's name.
pub const PROGRAM: &str = "vhost-user-blk-crypto";

/// Runs cargo on this work tree.
pub fn cargo(paths: &Paths) -> std::process::Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&paths.root);
    // What `cargo run` set for this program must not leak into the build of others.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Builds a package of the workspace in release mode and returns its program.
pub fn build_program(paths: &Paths, package: &str) -> Result<PathBuf> {
    let log = paths.fresh_log(&format!("build-{package}"));
    run_logged(cargo(paths).args(["build", "--release", "--package", package]), &log)
        .with_context(|| format!("{package} did not build"))?;
    Ok(paths.target.join("release").join(package))
}

/// A running device.
pub struct Device {
    process: Running,
    log: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
}

/// How a device is started.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The built program.
    pub program: &'a Path,
    /// The disk image.
    pub image: &'a Path,
    /// Request queues, of the usual size; `None`: those of its personality.
    pub queues: Option<u16>,
    /// More options, from a case's header or the command line.
    pub extra: &'a [String],
    /// Where its statistics go at its end.
    pub stats: &'a Path,
    /// Where its messages go.
    pub log: &'a Path,
    /// A directory with a short path, for the socket.
    pub socket_dir: &'a Path,
}

impl Device {
    /// Starts it and waits until it listens.
    pub fn start(options: &Options) -> Result<Self> {
        let _ = fs::remove_file(options.log);
        Self::start_logged(options)
    }

    /// Kills it. It must not have ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the device ended by itself ({status}):\n{}", process::tail(&self.log, 10));
        }
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts another one in its place.
    pub fn start_again(&mut self, options: &Options) -> Result<()> {
        *self = Self::start_logged(options)?;
        Ok(())
    }

    /// Sends it SIGHUP.
    pub fn hang_up(&self) -> Result<()> {
        self.process.signal(Signal::HUP)
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn start_logged(options: &Options) -> Result<Self> {
        let socket = options.socket_dir.join("device.sock");
        let log = open_log(options.log)?;
        let mut program = command(options.program);
        program.arg("--socket-path").arg(&socket).arg("--blk-file").arg(options.image);
        if let Some(queues) = options.queues {
            program.arg("--num-queues").arg(queues.to_string()).arg("--queue-size").arg(QUEUE_SIZE.to_string());
        }
        program.arg("--stats").arg(options.stats);
        program.arg("--exit-on-disconnect").args(options.extra).env("RUST_BACKTRACE", "1");
        program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = Running::start(&mut program)?;
        let end = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            if let Some(status) = process.try_wait()? {
                bail!("the device did not start ({status}):\n{}", process::tail(options.log, 10));
            }
            if Instant::now() > end {
                bail!("the device created no socket within 10 s:\n{}", process::tail(options.log, 10));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, log: options.log.to_path_buf(), socket })
    }

    /// Waits until it exits, after QEMU. Fails if something was wrong with it.
    pub fn finish(self) -> Result<()> {
        let (status, late) = match self.process.wait_timeout(Duration::from_secs(10))? {
            Some(status) => (Some(status), false),
            None => {
                self.process.signal(Signal::TERM)?;
                (self.process.wait_timeout(Duration::from_secs(10))?, true)
            }
        };
        if let Some(line) = process::text(&self.log).lines().find(|l| l.contains("panicked at")) {
            bail!("the device panicked: {line}");
        }
        match status {
            None => bail!("the device ended neither when QEMU did nor on SIGTERM, so it was killed"),
            Some(s) if !s.success() => bail!("the device ended with {s}:\n{}", process::tail(&self.log, 10)),
            Some(_) if late => bail!("the device did not end when QEMU did"),
            Some(_) => Ok(()),
        }
    }
}

/// Makes a fresh sparse image.
pub fn make_image(path: &Path, bytes: u64) -> Result<()> {
    let _ = fs::remove_file(path);
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.set_len(bytes).with_context(|| format!("cannot make {} {bytes} bytes long", path.display()))
}
