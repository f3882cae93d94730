// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starting and ending the servers: a fresh process for each measurement, on its core.

use super::contender::{Contender, Disk, Kind};
use super::cpus::{self, Cpus};
use super::image::{Images, secret_object};
use super::root::Root;
use crate::process::{self, Running, command, open_log};
use anyhow::{Result, bail};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of a memory disk. With the client's buffers it fits in a last-level cache, so that a run measures the device
/// and not the memory.
const MEMORY_DISK: u64 = 16 << 20;

/// What servers are made from.
pub struct Servers<'a> {
    /// This device's program.
    pub device: &'a Path,
    /// The peers.
    pub root: &'a Root,
    /// The cores.
    pub cpus: Cpus,
    /// Where sockets go.
    pub sockets: &'a Path,
    /// Where messages go.
    pub logs: &'a Path,
}

/// A running server.
pub struct Server {
    process: Running,
    log: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Its process.
    pub pid: u32,
}

impl Servers<'_> {
    fn command(&self, contender: &Contender, images: &Images, socket: &Path) -> Command {
        match contender.kind {
            Kind::Qsd { disk, poll_ns } => self.qsd(disk, poll_ns, images, socket),
            Kind::Ours { options, memory } => {
                let mut program = command(self.device);
                program.arg("--socket-path").arg(socket).args(["--num-queues", "1", "--workers", "1"]);
                match memory {
                    true => program.args(["--blk-ram", &MEMORY_DISK.to_string()]),
                    false => program.arg("--blk-file").arg(&images.raw),
                };
                program.args(options);
                program
            }
            // It has no server; see `run`.
            Kind::Engine => command("false"),
        }
    }

    fn qsd(&self, disk: Disk, poll_ns: Option<u32>, images: &Images, socket: &Path) -> Command {
        let mut program = self.root.packaged("qemu-storage-daemon");
        let poll = poll_ns.map(|ns| format!(",poll-max-ns={ns}")).unwrap_or_default();
        program.args(["--object", &format!("iothread,id=io0{poll}")]);
        // The previous daemon may still hold its lock while it closes the image. Nothing else uses the images.
        let file = |node: &str, path: &Path, aio: &str, direct: bool| {
            let direct = if direct { "on" } else { "off" };
            let path = path.display();
            format!("driver=file,node-name={node},filename={path},locking=off,aio={aio},cache.direct={direct}")
        };
        match disk {
            Disk::Null => {
                // Writing zeros into the client's buffers would cost more than the rings.
                let size = images.size;
                program.args(["--blockdev", &format!("driver=null-co,node-name=disk,size={size},read-zeroes=off")]);
            }
            Disk::Raw { aio, direct } => {
                program.args(["--blockdev", &file("disk", &images.raw, aio, direct)]);
            }
            Disk::Luks => {
                program.args(["--object", &secret_object()]);
                program.args(["--blockdev", &file("file", &images.luks, "io_uring", false)]);
                program.args(["--blockdev", "driver=luks,node-name=disk,file=file,key-secret=key"]);
            }
        }
        let export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=1,iothread=io0";
        program.args(["--export", &format!("{export},addr.type=unix,addr.path={}", socket.display())]);
        program
    }

    /// Starts a server and waits until it listens.
    pub fn start(&self, contender: &Contender, images: &Images) -> Result<Server> {
        let socket = self.sockets.join("s");
        let _ = fs::remove_file(&socket);
        let log = self.logs.join(format!("{}.log", contender.name));
        let _ = fs::remove_file(&log);
        let out = open_log(&log)?;
        let mut program = self.command(contender, images, &socket);
        program.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        cpus::pin(&mut program, self.cpus.server);
        let process = Running::start(&mut program)?;
        let pid = process.id();
        let server = Server { process, log, socket, pid };
        let end = Instant::now() + Duration::from_secs(20);
        while !listens(&server.socket) {
            if let Some(status) = server.process.try_wait()? {
                bail!("it did not start ({status}): {}", server.last_words());
            }
            if Instant::now() > end {
                bail!("it created no socket within 20 s: {}", server.last_words());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }
}

impl Server {
    /// The end of its messages.
    pub fn last_words(&self) -> String {
        process::tail(&self.log, 3).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Ends it. Fails if it exited with an error or too early.
    pub fn finish(self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the server ended by itself ({status}): {}", self.last_words());
        }
        self.process.signal(Signal::TERM)?;
        match self.process.wait_timeout(Duration::from_secs(10))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the server exited with an error ({status}): {}", self.last_words()),
            None => bail!("the server did not end within 10 s of SIGTERM: {}", self.last_words()),
        }
    }
}

/// Whether a process listens at a socket's path. Connecting to find out would begin a session.
fn listens(socket: &Path) -> bool {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    is_listening(&text, &socket.display().to_string())
}

/// Columns of /proc/net/unix: address, references, protocol, flags, type, state, inode, path. Flag 0x10000 is
/// `__SO_ACCEPTCON` of the kernel's linux/net.h.
fn is_listening(table: &str, path: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words.get(3).and_then(|f| u32::from_str_radix(f, 16).ok()).unwrap_or(0);
        words.get(7) == Some(&path) && flags & 0x1_0000 != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 1 /tmp/a\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 2 /tmp/b\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 3\n";
        assert!(is_listening(table, "/tmp/a"));
        assert!(!is_listening(table, "/tmp/b") && !is_listening(table, "/tmp"));
    }
}
