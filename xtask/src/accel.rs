// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KVM or TCG: a short test boot decides, because a guest may fail to run even though /dev/kvm opens.

use crate::cli::Accel;
use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::process::{self, Running, open_log};
use crate::qemu::Qemu;
use crate::{cache, progress};
use anyhow::Result;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// What runs the guest's CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// The host's CPU.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accelerator {
    /// Its options for QEMU.
    pub fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Where these bits are set, Linux copies memory and clears pages with instructions that are emulated byte by byte.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off"],
        }
    }

    /// Its options for the guest's kernel.
    pub fn kernel_options(self) -> &'static str {
        match self {
            Self::Kvm => "",
            // Without `lpj`, the second CPU counts for most of a second. This is right for 2 GHz and 250 ticks a second; elsewhere the
            // kernel's short delays are longer or shorter, which emulated hardware does not mind. The others spare a fifth of a case's
            // time: tests of the kernel's own ciphers, and zeros in all memory that is allocated (Debian's hardening). Searches of memory for
            // keys only find more without those zeros.
            Self::Tcg => "lpj=8000000 cryptomgr.notests init_on_alloc=0",
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (emulation)",
        }
    }

    /// How long a case may run if its header has no limit.
    pub fn default_limit(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 120 } else { 300 })
    }
}

/// Chooses one. If it is not KVM, prints a line with the reason.
pub fn choose(paths: &Paths, wanted: Accel, qemu: &Qemu, kernel: &Kernel) -> Result<Accelerator> {
    match wanted {
        Accel::Kvm => return Ok(Accelerator::Kvm),
        Accel::Tcg => return Ok(Accelerator::Tcg),
        Accel::Auto => {}
    }
    let verdict = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => remembered(paths, qemu, kernel)?,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Some("no permission to open /dev/kvm (on Debian: sudo adduser $USER kvm, then log in again)".to_owned())
        }
        Err(e) => Some(format!("/dev/kvm: {e}")),
    };
    Ok(match verdict {
        None => Accelerator::Kvm,
        Some(reason) => {
            eprintln!("KVM is not usable, so QEMU emulates the guest, which is slower: {reason}");
            Accelerator::Tcg
        }
    })
}

/// The result of the test boot. It runs once for each combination of host boot, QEMU and kernel.
fn remembered(paths: &Paths, qemu: &Qemu, kernel: &Kernel) -> Result<Option<String>> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = paths.cache.join("kvm-verdict");
    let line = format!("{} ", cache::key(&[&boot, &qemu.identity(), &kernel.image.to_string_lossy()]));
    let old = fs::read_to_string(&file).unwrap_or_default();
    if let Some(verdict) = old.lines().find_map(|l| l.strip_prefix(&line)) {
        return Ok((verdict != "works").then(|| verdict.to_owned()));
    }
    let verdict = progress::step("KVM test boot", || test_boot(paths, qemu, &kernel.image))?;
    fs::create_dir_all(&paths.cache)?;
    let text = verdict.as_deref().unwrap_or("works");
    let last: Vec<&str> = old.lines().rev().take(9).collect();
    fs::write(&file, format!("{line}{text}\n{}\n", last.join("\n")))?;
    Ok(verdict)
}

/// When QEMU prints this, it stops the guest but does not exit.
const INTERNAL_ERROR: &str = "KVM internal error";

/// Boots the kernel without a root disk. With a working KVM, the kernel panics and QEMU exits within seconds.
fn test_boot(paths: &Paths, qemu: &Qemu, kernel: &Path) -> Result<Option<String>> {
    let log = paths.fresh_log("kvm");
    let out = open_log(&log)?;
    let mut boot = qemu.command();
    boot.args(Accelerator::Kvm.args()).args(["-machine", "q35", "-m", "512", "-smp", "2", "-nodefaults"]);
    boot.args(["-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    boot.arg("-kernel").arg(kernel).args(["-append", "console=ttyS0 panic=-1"]);
    boot.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let running = Running::start(&mut boot)?;
    let mut ended = None;
    let mut text = String::new();
    for _ in 0..50 {
        ended = running.wait_timeout(Duration::from_millis(300))?;
        text = process::text(&log);
        if ended.is_some() || text.contains(INTERNAL_ERROR) {
            break;
        }
    }
    let reached_root = text.contains("Kernel panic - not syncing: VFS");
    Ok(match ended {
        Some(status) if status.success() && reached_root => None,
        _ if text.contains(INTERNAL_ERROR) => Some("a test boot ended in a KVM internal error".to_owned()),
        Some(status) => Some(format!("a test boot failed, QEMU ended with {status} (log: {})", log.display())),
        None => Some(format!("a test boot hung (log: {})", log.display())),
    })
}
