// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program itself, with files of its own.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{DiskKind, Guest, Options};
use tempfile::TempDir;
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
    command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

pub struct Files {
    pub directory: TempDir,
}

impl Files {
    pub fn new() -> Self {
        let files = Self { directory: TempDir::new().expect("directory") };
        std::fs::File::create(files.image()).expect("image").set_len(1 << 20).expect("image");
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn image(&self) -> PathBuf {
        self.path("image")
    }

    /// A frontend of the program that serves `socket`, with its queues started.
    pub fn guest(&self) -> Guest {
        Guest::with(Options { socket: Some(self.path("socket")), disk: DiskKind::Memory, ..Options::default() })
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("socket")).expect("connect")
    }
}

/// A running device, killed when dropped.
pub struct Running(pub Child);

impl Running {
    pub fn start(files: &Files, options: &[&str]) -> Self {
        Self::start_by(program(), files, options)
    }

    /// `command` is the program, or something that becomes it.
    pub fn start_by(mut command: Command, files: &Files, options: &[&str]) -> Self {
        let socket = files.path("socket");
        command.arg("--socket-path").arg(&socket).arg("--blk-file").arg(files.image()).args(options);
        let mut running = Self(command.stderr(Stdio::piped()).spawn().expect("program"));
        // The socket exists a moment before it listens. The device does not count a connection like this as a frontend.
        wait_for(|| UnixStream::connect(&socket).is_ok() || running.exited());
        running
    }

    pub fn exited(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }

    pub fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let signal = rustix::process::Signal::from_named_raw(signal).expect("signal");
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    /// Exit status and standard error.
    pub fn finish(mut self) -> (Option<i32>, String) {
        wait_for(|| self.exited());
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut text).expect("standard error");
        }
        (self.0.wait().expect("wait").code(), text)
    }

    /// The same, after SIGTERM.
    pub fn terminate(self) -> (Option<i32>, String) {
        self.signal(libc::SIGTERM);
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn output(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("program");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

pub fn talk(stream: UnixStream) -> Frontend {
    let frontend = Frontend::from_stream(stream, 1);
    frontend.set_owner().expect("SET_OWNER");
    let wanted = 1 << 22 | 1 << 23 | 1 << 32;
    assert_eq!(frontend.get_features().expect("GET_FEATURES") & wanted, wanted);
    frontend
}
