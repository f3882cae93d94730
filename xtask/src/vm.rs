// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's command line, and running it to its end. `qemu/README.md` explains the same lines for use by hand.

use crate::accel::Accelerator;
use crate::kills::RECONNECT_MS;
use crate::process::{Running, open_log};
use crate::qemu::{GENERIC_DEVICE, Qemu};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Size of the device's config space, crypto fields included.
const CONFIG_SIZE: u32 = 104;
/// virtio's number for block devices.
const VIRTIO_ID_BLOCK: u32 = 2;
const GUEST_MEMORY: &str = "1024M";

/// How the backend is attached.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Attach {
    /// vhost-user-test-device-pci: all features of the backend reach the guest.
    #[default]
    Generic,
    /// vhost-user-blk-pci: an ordinary disk.
    VhostUserBlk,
}

/// Descriptors of a queue, where nothing else is asked for.
pub const QUEUE_SIZE: u16 = 256;

/// A guest to boot.
pub struct Vm<'a> {
    /// QEMU.
    pub qemu: &'a Qemu,
    /// KVM or TCG.
    pub accel: Accelerator,
    /// The bzImage.
    pub kernel: &'a Path,
    /// The root disk.
    pub root: &'a Path,
    /// How the devices are attached.
    pub attach: Attach,
    /// Each device's request queues.
    pub queues: u16,
    /// Descriptors of each queue.
    pub queue_size: u16,
    /// Attach each disk behind a root port. The file is the ROM of another device: a guest can put it where it likes.
    pub root_port: Option<&'a Path>,
    /// Reconnect to a device that was killed and started again.
    pub reconnect: bool,
    /// The sockets of the devices. In which order the guest finds them is not defined: `--serial` tells them apart.
    pub disks: &'a [&'a Path],
    /// Where what the guest writes to its port `progress` goes as it comes.
    pub progress: Option<&'a Path>,
    /// A Unix socket that this process listens at, for the guest's port `dialog`.
    pub dialog: Option<&'a Path>,
    /// The job for the guest.
    pub job: &'a Path,
    /// Where the guest's results go.
    pub results: &'a Path,
}

impl Vm<'_> {
    fn command(&self) -> Command {
        let mut qemu = self.qemu.command();
        qemu.args(self.accel.args());
        qemu.args(["-object", &format!("memory-backend-memfd,id=mem,size={GUEST_MEMORY},share=on")]);
        qemu.args(["-machine", "q35,memory-backend=mem", "-m", GUEST_MEMORY, "-smp", "2"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.kernel);
        let append = "console=ttyS0 panic=-1 loglevel=5 root=/dev/nvme0n1 rootwait rw init=/guest-init";
        qemu.args(["-append", append]);
        qemu.arg("-drive").arg(option("if=none,id=root,format=raw,snapshot=on,file=", self.root));
        // A second NVMe disk or namespace is out of the question: they are numbered in random order.
        qemu.args(["-device", "nvme,serial=root,drive=root", "-device", "virtio-serial-pci"]);
        qemu.arg("-chardev").arg(option("file,id=job,path=/dev/null,input-path=", self.job));
        qemu.args(["-device", "virtserialport,chardev=job,name=job"]);
        qemu.arg("-chardev").arg(option("file,id=results,path=", self.results));
        qemu.args(["-device", "virtserialport,chardev=results,name=results"]);
        if let Some(progress) = self.progress {
            qemu.arg("-chardev").arg(option("file,id=progress,path=", progress));
            qemu.args(["-device", "virtserialport,chardev=progress,name=progress"]);
        }
        if let Some(dialog) = self.dialog {
            qemu.arg("-chardev").arg(option("socket,id=dialog,path=", dialog));
            qemu.args(["-device", "virtserialport,chardev=dialog,name=dialog"]);
        }
        match self.root_port {
            None => qemu.args(["-device", "virtio-rng-pci"]),
            Some(rom) => qemu.arg("-device").arg(option("virtio-rng-pci,romfile=", rom)),
        };
        for (number, socket) in self.disks.iter().enumerate() {
            let reconnect = if self.reconnect { format!("reconnect-ms={RECONNECT_MS},") } else { String::new() };
            qemu.arg("-chardev").arg(option(&format!("socket,id=disk{number},{reconnect}path="), socket));
            let mut disk = self.disk(number);
            if self.root_port.is_some() {
                qemu.args(["-device", &format!("pcie-root-port,id=port{number},chassis={}", number + 1)]);
                disk += &format!(",bus=port{number}");
            }
            qemu.args(["-device", &disk]);
        }
        qemu
    }

    fn disk(&self, number: usize) -> String {
        let queues = u32::from(self.queues);
        match self.attach {
            // One more than the request queues: the control queue.
            Attach::Generic => format!(
                "{GENERIC_DEVICE},chardev=disk{number},virtio-id={VIRTIO_ID_BLOCK},num_vqs={},vq_size={},config_size={CONFIG_SIZE}",
                queues + 1,
                self.queue_size
            ),
            Attach::VhostUserBlk => format!("vhost-user-blk-pci,chardev=disk{number},num-queues={queues}"),
        }
    }

    /// Boots it with its console in a file.
    pub fn start(&self, console: &Path, log: &Path) -> Result<Running> {
        let _ = fs::remove_file(log);
        let err = open_log(log)?;
        let out = File::create(console).with_context(|| format!("cannot write {}", console.display()))?;
        let mut qemu = self.command();
        qemu.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(out).stderr(err);
        Running::start(&mut qemu)
    }

    /// As [`Self::start`], then waits for its end; it is killed at the time limit. Calls `meanwhile` again and again
    /// with its process number.
    pub fn run(&self, console: &Path, log: &Path, limit: Duration, mut meanwhile: impl FnMut(u32)) -> Result<Ended> {
        let mut guest = self.start(console, log)?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = guest.wait_for(Duration::from_millis(10))? {
                return Ok(Ended::with(status));
            }
            meanwhile(guest.id());
        }
        Ok(Ended::TimedOut)
    }

    /// Boots it with its console on this terminal.
    pub fn run_on_terminal(&self) -> Result<bool> {
        let mut qemu = self.command();
        qemu.args(["-serial", "mon:stdio"]);
        Ok(Running::start(&mut qemu)?.wait()?.success())
    }
}

/// How a guest's run ended.
pub enum Ended {
    /// There was no device for it.
    NotStarted,
    /// By itself.
    PoweredOff,
    /// QEMU failed.
    Failed(String),
    /// Killed at the time limit.
    TimedOut,
}

impl Ended {
    /// From QEMU's exit status.
    pub fn with(status: ExitStatus) -> Self {
        if status.success() { Self::PoweredOff } else { Self::Failed(status.to_string()) }
    }
}

/// A QEMU option that ends with a file name; commas in it are doubled, as QEMU wants.
fn option(prefix: &str, path: &Path) -> OsString {
    let path: PathBuf = path.into();
    OsString::from(format!("{prefix}{}", path.display().to_string().replace(',', ",,")))
}
