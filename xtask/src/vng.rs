// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask vng-args`: a device in the background, and QEMU's options for it. Only they go to standard output.

use crate::case::parse_size;
use crate::cli::VngArgs;
use crate::driver::{self, MODULE};
use crate::kernel::Config;
use crate::paths::Paths;
use crate::process;
use crate::qemu::{self, GENERIC_DEVICE};
use crate::setup;
use crate::vm::{CONFIG_SIZE, QUEUE_SIZE, QUEUES, VIRTIO_ID_BLOCK};
use crate::{device, progress};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts the device and prints the options, or ends it.
pub fn run(paths: &Paths, args: &VngArgs) -> Result<bool> {
    let dir = paths.target.join("vng");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let place = Place { socket: dir.join("disk.sock"), pid: dir.join("device.pid"), log: dir.join("device.log") };
    let running = place.running();
    if args.stop {
        let Some(pid) = running else { bail!("no device of vng-args is running") };
        kill_process(pid, Signal::TERM).context("cannot end the device")?;
        eprintln!("the device ends");
        return Ok(true);
    }
    ensure!(running.is_none(), "the device of an earlier call is still there: cargo xtask vng-args --stop ends it");
    ensure!(is_plain(&place.socket), "vng passes its options through a shell, which {} would confuse", dir.display());
    let in_band = args.in_band || !qemu::forwards_features(&args.qemu)?;
    let program = setup::device_program(paths)?;
    let module = match &args.kdir {
        Some(kdir) => module(paths, &std::path::absolute(kdir)?, &dir.join("module"))?,
        None => None,
    };
    let image = args.image.clone().unwrap_or_else(|| dir.join("disk.img"));
    if !image.exists() {
        device::make_image(&image, parse_size(&args.size)?)?;
    }
    place.start(&program, &image, in_band, &args.device)?;
    println!("{}", options(&place.socket, in_band, args.memory.as_deref()));
    let parameter = if in_band { " in_band=1" } else { "" };
    match &module {
        Some(file) => eprintln!("in the guest: insmod {}{parameter}", file.display()),
        None if in_band => eprintln!("the guest's driver needs in_band=1: vng --append {MODULE}.in_band=1"),
        None => {}
    }
    eprintln!("image: {}; log: {}", image.display(), place.log.display());
    eprintln!("the device ends when the machine does; without one: cargo xtask vng-args --stop");
    Ok(true)
}

/// Builds the driver, unless the kernel has it.
fn module(paths: &Paths, kdir: &Path, out: &Path) -> Result<Option<PathBuf>> {
    if !Config::of_tree(kdir)?.takes_module()? {
        return Ok(None);
    }
    progress::step("guest module", || driver::for_tree(paths, kdir, out)).map(Some)
}

/// QEMU's options, as vng wants them: separated by spaces.
fn options(socket: &Path, in_band: bool, memory: Option<&str>) -> String {
    let disk = if in_band {
        format!("vhost-user-blk-pci,chardev=vubc,num-queues={QUEUES},queue-size={QUEUE_SIZE}")
    } else {
        let queues = QUEUES + 1;
        format!(
            "{GENERIC_DEVICE},chardev=vubc,virtio-id={VIRTIO_ID_BLOCK},num_vqs={queues},vq_size={QUEUE_SIZE},config_size={CONFIG_SIZE}"
        )
    };
    let memory = memory.map_or_else(String::new, |size| {
        format!("-object memory-backend-memfd,id=vubc-memory,size={size},share=on -machine memory-backend=vubc-memory ")
    });
    format!("{memory}-chardev socket,id=vubc,path={} -device {disk}", socket.display())
}

/// No character that a shell or QEMU's options take apart.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "/._+-@".contains(c)))
}

/// Where the device is.
struct Place {
    socket: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl Place {
    /// The device's process, if it still runs: the number may be another's by now.
    fn running(&self) -> Option<Pid> {
        let pid = process::text(&self.pid).trim().parse().ok().and_then(Pid::from_raw)?;
        let words = process::text(Path::new(&format!("/proc/{}/cmdline", pid.as_raw_nonzero())));
        words.split('\0').any(|word| Path::new(word) == self.socket).then_some(pid)
    }

    /// Starts it. It outlives this program and takes no signal of its terminal; it ends when QEMU has gone.
    fn start(&self, program: &Path, image: &Path, in_band: bool, extra: &[String]) -> Result<()> {
        let _ = fs::remove_file(&self.log);
        let log = process::open_log(&self.log)?;
        let mut device = Command::new(program);
        device.arg("--socket-path").arg(&self.socket).arg("--blk-file").arg(image).arg("--exit-on-disconnect");
        device.args(["--num-queues", &QUEUES.to_string(), "--queue-size", &QUEUE_SIZE.to_string()]);
        device.args(in_band.then_some("--in-band")).args(extra).process_group(0);
        device.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = device.spawn().context("cannot start the device")?;
        fs::write(&self.pid, child.id().to_string())?;
        let end = Instant::now() + Duration::from_secs(10);
        while !self.socket.exists() {
            if child.try_wait()?.is_some() || Instant::now() > end {
                let _ = child.kill();
                bail!("the device did not start:\n{}", process::tail(&self.log, 10));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words_for_a_shell() {
        let socket = Path::new("/a/target/vng/disk.sock");
        assert_eq!(
            options(socket, false, None),
            "-chardev socket,id=vubc,path=/a/target/vng/disk.sock \
             -device vhost-user-test-device-pci,chardev=vubc,virtio-id=2,num_vqs=3,vq_size=256,config_size=104"
        );
        assert!(options(socket, true, Some("1G")).starts_with(
            "-object memory-backend-memfd,id=vubc-memory,size=1G,share=on -machine memory-backend=vubc-memory -chardev "
        ));
        assert!(
            options(socket, true, None)
                .ends_with("-device vhost-user-blk-pci,chardev=vubc,num-queues=2,queue-size=256")
        );
        assert!(is_plain(socket) && !is_plain(Path::new("/a b")) && !is_plain(Path::new("/a,b")));
    }

    #[test]
    fn a_process_with_the_same_number_is_not_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let [socket, pid, log] = ["disk.sock", "device.pid", "device.log"].map(|name| dir.path().join(name));
        let place = Place { socket, pid, log };
        assert_eq!(place.running(), None);
        fs::write(&place.pid, std::process::id().to_string()).unwrap();
        assert_eq!(place.running(), None);
    }
}
