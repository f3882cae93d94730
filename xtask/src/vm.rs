// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's command line, and running it to its end. `qemu/README.md` explains the same lines for use by hand.

use crate::accel::Accelerator;
use crate::job::Scratch;
use crate::kills::RECONNECT_MS;
use crate::process::{Running, open_log};
use crate::qemu::{GENERIC_DEVICE, Qemu};
use crate::setup::Machine;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Size of the device's config space, crypto fields included.
pub const CONFIG_SIZE: u32 = 104;
/// virtio's number for block devices.
pub const VIRTIO_ID_BLOCK: u32 = 2;
const GUEST_MEMORY_MIB: u32 = 1024;

/// How the backend is attached.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Attach {
    /// vhost-user-test-device-pci: all features of the backend reach the guest.
    #[default]
    Generic,
    /// vhost-user-blk-pci: an ordinary disk.
    VhostUserBlk,
    /// vfio-user-pci: a UFS host controller.
    Ufs,
}

/// A disk that is attached in another way than the others of its guest.
#[derive(Clone, Copy)]
pub struct Front<'a> {
    /// How.
    pub attach: Attach,
    /// Request queues.
    pub queues: u16,
    /// The device's socket.
    pub socket: &'a Path,
}

/// Request queues of a device, if nothing else is asked for.
pub const QUEUES: u16 = 2;
/// Descriptors of a queue, if nothing else is asked for. The device's option has the same number.
pub const QUEUE_SIZE: u16 = 256;

/// A guest to boot.
pub struct Vm<'a> {
    /// QEMU.
    pub qemu: &'a Qemu,
    /// KVM or TCG.
    pub accel: Accelerator,
    /// The bzImage or vmlinux.
    pub kernel: &'a Path,
    /// Size of its memory in MiB.
    pub memory: u32,
    /// The root disk.
    pub root: PathBuf,
    /// How the devices are attached.
    pub attach: Attach,
    /// Each device's request queues.
    pub queues: u16,
    /// Descriptors of each queue; `None`: QEMU's default.
    pub queue_size: Option<u16>,
    /// Attach each disk behind a root port. The file is the ROM of another device: a guest can put it where it likes.
    pub root_port: Option<&'a Path>,
    /// Reconnect to a device that was killed and started again.
    pub reconnect: bool,
    /// The sockets of the devices. The guest finds them in any order: `--serial` tells them apart.
    pub disks: &'a [&'a Path],
    /// More disks, each attached in its own way.
    pub fronts: &'a [Front<'a>],
    /// The file that gets what the guest writes to its port `progress`.
    pub progress: Option<&'a Path>,
    /// A Unix socket that this process listens at, for the guest's port `dialog`.
    pub dialog: Option<&'a Path>,
    /// Where QEMU listens for its monitor. The guest then has free slots for disks and memory that are plugged in later.
    pub monitor: Option<&'a Path>,
    /// The job for the guest.
    pub job: &'a Path,
    /// Where the guest's results go.
    pub results: &'a Path,
}

impl<'a> Vm<'a> {
    /// The ordinary guest, with these devices attached.
    pub fn new(machine: &'a Machine, disks: &'a [&'a Path], scratch: &'a Scratch) -> Self {
        Self {
            qemu: &machine.qemu,
            accel: machine.accel,
            kernel: machine.kernel.to_boot(machine.accel),
            memory: if machine.kernel.slowness() > 1 { 2 * GUEST_MEMORY_MIB } else { GUEST_MEMORY_MIB },
            root: machine.root.image(),
            attach: Attach::default(),
            queues: QUEUES,
            queue_size: Some(QUEUE_SIZE),
            root_port: None,
            reconnect: false,
            disks,
            fronts: &[],
            progress: None,
            dialog: None,
            monitor: None,
            job: &scratch.job,
            results: &scratch.results,
        }
    }

    fn command(&self) -> Command {
        let mut qemu = self.qemu.command();
        qemu.args(self.accel.args());
        let memory = self.memory;
        qemu.args(["-object", &format!("memory-backend-memfd,id=mem,size={memory}M,share=on")]);
        let room = if self.monitor.is_some() { format!(",slots=2,maxmem={}M", memory + 1024) } else { String::new() };
        qemu.args(["-machine", "q35,memory-backend=mem", "-m", &format!("{memory}M{room}"), "-smp", "2"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.kernel);
        // On a loaded host, an emulated timer may be late when the kernel tests it, which then panics. With five levels of page
        // tables, KASAN finds fault with any interrupt that comes while the kernel forgets for a moment what its CPU can do.
        let append =
            "console=ttyS0 panic=-1 loglevel=5 no_timer_check no5lvl root=/dev/nvme0n1 rootwait rw init=/guest-init";
        // After an oops the guest may never answer, and the host would wait for it.
        let oops = if self.dialog.is_some() { " oops=panic" } else { "" };
        qemu.args(["-append", &format!("{append} {}{oops}", self.accel.kernel_options())]);
        qemu.arg("-drive").arg(option("if=none,id=root,format=raw,snapshot=on,file=", &self.root));
        // There must be no second NVMe disk or namespace: Linux numbers them in random order.
        qemu.args(["-device", "nvme,serial=root,drive=root", "-device", "virtio-serial-pci"]);
        // `pipe` reads a file, too: older QEMUs have no `input-path` for `file`. The guest writes nothing to it.
        qemu.arg("-chardev").arg(option("pipe,id=job,path=", self.job));
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
        if let Some(monitor) = self.monitor {
            qemu.arg("-chardev").arg(option("socket,id=monitor,server=on,wait=off,path=", monitor));
            qemu.args(["-qmp", "chardev:monitor"]);
        }
        if self.root_port.is_some() || self.monitor.is_some() {
            // One for each disk, and one for another.
            for number in 0..=self.disks.len() {
                qemu.args(["-device", &format!("pcie-root-port,id=port{number},chassis={}", number + 1)]);
            }
        }
        match self.root_port {
            None => qemu.args(["-device", "virtio-rng-pci"]),
            Some(rom) => qemu.arg("-device").arg(option("virtio-rng-pci,romfile=", rom)),
        };
        let alike = self.disks.iter().map(|socket| Front { attach: self.attach, queues: self.queues, socket });
        for (number, disk) in alike.chain(self.fronts.iter().copied()).enumerate() {
            let reconnect = if self.reconnect { format!("reconnect-ms={RECONNECT_MS},") } else { String::new() };
            if disk.attach != Attach::Ufs {
                qemu.arg("-chardev").arg(option(&format!("socket,id=disk{number},{reconnect}path="), disk.socket));
            }
            qemu.args(["-device", &self.attached(number, &disk).to_string()]);
        }
        qemu
    }

    /// A disk on a device's socket, as QEMU's monitor takes it with `device_add`.
    pub fn disk(&self, number: usize, socket: &Path) -> Value {
        self.attached(number, &Front { attach: self.attach, queues: self.queues, socket })
    }

    /// The same with QEMU's option `-device`.
    fn attached(&self, number: usize, front: &Front) -> Value {
        if front.attach == Attach::Ufs {
            let socket = json!({"type": "unix", "path": front.socket});
            return json!({"driver": "vfio-user-pci", "id": format!("disk{number}"), "socket": socket});
        }
        let (driver, queue_size, mut disk) = match front.attach {
            Attach::Generic => {
                // One more than the request queues: the control queue.
                let queues = u32::from(front.queues) + 1;
                let disk = json!({"virtio-id": VIRTIO_ID_BLOCK, "num_vqs": queues, "config_size": CONFIG_SIZE});
                (GENERIC_DEVICE, "vq_size", disk)
            }
            Attach::VhostUserBlk | Attach::Ufs => {
                ("vhost-user-blk-pci", "queue-size", json!({"num-queues": front.queues}))
            }
        };
        disk["driver"] = driver.into();
        if let Some(entries) = self.queue_size {
            disk[queue_size] = entries.into();
        }
        disk["id"] = format!("disk{number}").into();
        disk["chardev"] = disk["id"].clone();
        if self.root_port.is_some() || self.monitor.is_some() {
            disk["bus"] = format!("port{number}").into();
        }
        disk
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

    /// As [`Self::start`], then waits until it ends. Calls `meanwhile` with its process ID all the time. Kills it at the time
    /// limit, or when `meanwhile` breaks.
    pub fn run(
        &self,
        console: &Path,
        log: &Path,
        limit: Duration,
        mut meanwhile: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Ended> {
        let guest = self.start(console, log)?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = guest.wait_timeout(Duration::from_millis(10))? {
                return Ok(Ended::with(status));
            }
            if meanwhile(guest.id()).is_break() {
                return Ok(Ended::GivenUp);
            }
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
    /// Killed, because the run had failed already.
    GivenUp,
    /// Killed, because its kernel stood still before its init.
    StoodStill,
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
