// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program with an image, as a child of the test, and requests to it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vhost_user_blk_crypto::disk::{Aio, Disk, OpenOptions};

use crate::common::*;

pub const DISK: u64 = 16 << 20;

/// A running program with an image, killed when dropped.
pub struct Device {
    pub child: Child,
    pub directory: tempfile::TempDir,
}

impl Device {
    /// With `options`, which name the image; 2 request queues and, unless they say otherwise, 4 keyslots, as the
    /// frontend's default.
    pub fn start(options: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(tempfile::TempDir::new().expect("directory"), options, prepare)
    }

    /// The same, with all files in this directory.
    pub fn start_in(directory: tempfile::TempDir, options: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let path = |name: &str| directory.path().join(name);
        File::create(path("image")).expect("image").set_len(DISK).expect("image");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").stdin(Stdio::null());
        command.args(["--serial", "serial-of-the-test"]);
        if !options.contains(&"--keyslots") {
            command.args(["--keyslots", "4"]);
        }
        if !options.contains(&"--ufs") {
            command.args(["--num-queues", "2", "--key-types", "raw,wrapped", "--wrapping-key-file"]);
            command.arg(path("wrapping-key"));
        }
        command.arg("--socket-path").arg(path("socket")).arg("--stats").arg(path("stats"));
        if !options.contains(&"--blk-ram") {
            command.arg("--blk-file").arg(path("image"));
        }
        command.args(options).stderr(File::create(path("log")).expect("log"));
        prepare(&mut command);
        let child = command.spawn().expect("program");
        let mut device = Self { child, directory };
        // The program logs this when the sandbox is complete. The sockets exist before.
        device.wait(|device| device.log().contains("serving ") || device.exited());
        device
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("log")
    }

    pub fn exited(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    pub fn wait(&mut self, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition(self) {
            assert!(Instant::now() < deadline, "timed out: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A frontend that has started all queues.
    pub fn guest(&self) -> Guest {
        self.guest_with_rings(256)
    }

    /// The same, with rings of this size.
    pub fn guest_with_rings(&self, ring_size: u16) -> Guest {
        Guest::with(Options {
            socket: Some(self.path("socket")),
            block_device: Some(self.path("image")),
            disk: DiskKind::Memory,
            image_bytes: DISK,
            ring_size,
            ..Options::default()
        })
    }

    /// Ends it with SIGTERM. It must exit with 0, flush, write the counters and remove the socket.
    pub fn finish(mut self) -> serde_json::Value {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        self.wait(Self::exited);
        let status = self.child.wait().expect("wait");
        assert_eq!(status.code(), Some(0), "{status}: {}", self.log());
        for name in ["socket", "control"] {
            assert!(!self.path(name).exists(), "the socket {name} is removed");
        }
        serde_json::from_slice(&std::fs::read(self.path("stats")).expect("stats")).expect("JSON")
    }

    /// A line of `/proc/PID/status`, for each thread.
    pub fn status(&self, name: &str) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("threads");
        let line = |task: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(task.expect("thread").path().join("status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
            Some(line.trim().to_owned())
        };
        tasks.filter_map(line).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes each kind of request once. With `on_image`, compares the image with OpenSSL's ciphertext.
pub fn exercise(guest: &mut Guest, on_image: bool) {
    let control = guest.control();
    let key = key(7);
    guest.request(control, &Program::new(2, &key, 12).bytes(), 1).assert_only_status(OK);
    for (sector, len) in [(0u64, 4096), (64, 600 << 10)] {
        let data = pattern(sector + 1, len);
        let answer = guest.request(0, &crypto_write(sector, 2, [sector, 0, 0, 0], &data), 1);
        answer.assert_only_status(OK);
        let answer = guest.request(1, &crypto_header(CRYPTO_IN, sector, 2, [sector, 0, 0, 0]), len + 1);
        assert!(answer.status == OK && answer.data == data, "encrypted data");
        if on_image {
            let expected = openssl_xts(&key, sector.into(), 4096, &data);
            assert!(guest.image_bytes(sector * 512, len) == expected, "ciphertext");
        }
        guest.request(0, &write_request(sector, &data), 1).assert_only_status(OK);
        assert!(guest.request(1, &header(IN, sector), len + 1).data == data, "plain data");
    }
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    assert_eq!(guest.request(0, &header(GET_ID, 0), 21).status, OK);
    for request_type in [WRITE_ZEROES, DISCARD] {
        let answer = guest.request(0, &[header(request_type, 0), range(64, 8, 0)].concat(), 1);
        // Not every file system supports discard.
        assert!(answer.status == OK || (request_type == DISCARD && answer.status == UNSUPP), "{answer:?}");
    }
    assert!(guest.request(0, &header(IN, 64), 4097).data == [0; 4096]);
    // Hardware-wrapped keys.
    let blob = |answer: Answer| {
        assert_eq!(answer.status, OK);
        blob_of(&answer.data)
    };
    let long_term = blob(guest.request(control, &key_blob(GENERATE_KEY, &[]), 133));
    let ephemeral = blob(guest.request(control, &key_blob(PREPARE_KEY, &long_term), 133));
    let program = Program { key_type: 2, ..Program::new(3, &ephemeral, 12) }.bytes();
    guest.request(control, &program, 1).assert_only_status(OK);
    guest.request(0, &crypto_write(0, 3, [0; 4], &[1; 4096]), 1).assert_only_status(OK);
    guest.request(control, &evict(3), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(0, 3, [0; 4], &[1; 4096]), 1).assert_only_status(NOKEY);
    // Write-through, and queues that stop and start.
    guest.set_config(32, &[0]);
    guest.request(0, &write_request(0, &[3; 4096]), 1).assert_only_status(OK);
    guest.restart();
    guest.request(0, &write_request(0, &[4; 4096]), 1).assert_only_status(OK);
}

/// Why a way to the disk cannot be used here.
pub fn obstacle(options: &[&str]) -> Option<&'static str> {
    let file = tempfile::NamedTempFile::new().expect("image");
    file.as_file().set_len(1 << 20).expect("image");
    let direct = options.contains(&"none");
    let open = OpenOptions { read_only: false, discard: false, direct, logical_block_size: 512 };
    let Ok(image) = open.open(file.path()) else { return Some("no O_DIRECT on this file system") };
    let io_uring = options.contains(&"io_uring") && Disk::new(image, Some(Aio::IoUring)).is_err();
    io_uring.then_some("io_uring is forbidden here")
}

/// The client of the control socket: its exit status and output.
pub fn ctl(device: &Device, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
    let output = command.arg("ctl").arg("--control").arg(device.path("control")).args(arguments).output();
    let output = output.expect("program");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A running program with a control socket, and more options that may name files in its directory.
pub fn controlled(options: impl Fn(&std::path::Path) -> Vec<String>) -> Device {
    Device::start(&["--sandbox", "require"], |command| {
        let stats =
            command.get_args().skip_while(|argument| *argument != "--stats").nth(1).expect("--stats").to_owned();
        let directory = std::path::Path::new(&stats).parent().expect("directory");
        command.arg("--control").arg(directory.join("control")).args(options(directory));
    })
}
