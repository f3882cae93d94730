// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What this machine has that the device, or a user of it, wants.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use scattered_xts::Implementation;
use vhost_user_blk_crypto::disk::probe_io_uring;
use vhost_user_blk_crypto::keyslot::KeyslotTable;
use vhost_user_blk_crypto::sandbox::Sandbox;

use super::{Check, Finding};

/// As many as large hardware has.
const MANY_KEYSLOTS: u16 = 64;

pub fn checks(qemu: Option<&Path>) -> Vec<Check> {
    let checks = [("locked memory", locked_memory()), ("io_uring", io_uring()), ("KVM", kvm())];
    checks.into_iter().map(|(name, finding)| (name.to_owned(), finding)).chain([self::qemu(qemu)]).collect()
}

fn locked_memory() -> Finding {
    match KeyslotTable::new(MANY_KEYSLOTS, Implementation::detect()) {
        Ok(_) => Finding::Good(format!("enough for {MANY_KEYSLOTS} keyslots")),
        Err(error) => Finding::Missing(format!(
            "too little for {MANY_KEYSLOTS} keyslots ({error}); raise the limit (ulimit -l, LimitMEMLOCK=), or use fewer --keyslots"
        )),
    }
}

fn io_uring() -> Finding {
    match probe_io_uring() {
        Ok(()) => Finding::Good("for block devices and --cache none".into()),
        Err(error) => Finding::Missing(format!(
            "{error}: threads take its place, which are slower (sysctl kernel.io_uring_disabled, or a container's filter)"
        )),
    }
}

fn kvm() -> Finding {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Finding::Good("/dev/kvm can be opened".into()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::Missing("no permission to open /dev/kvm; add yourself to its group (usually kvm)".into())
        }
        Err(error) => Finding::Missing(format!("/dev/kvm: {error}; QEMU can emulate the guest's CPU, slowly")),
    }
}

fn qemu(program: Option<&Path>) -> Check {
    let usual = format!("qemu-system-{}", std::env::consts::ARCH);
    let program = program.unwrap_or(Path::new(&usual));
    let mut command = Command::new(program);
    command.args(["-machine", "none", "-device", "help"]).stdin(Stdio::null());
    let finding = match command.output() {
        Err(error) => Finding::Missing(format!("{error}; install it, or name it with --qemu")),
        Ok(output) if !output.status.success() => {
            let text = String::from_utf8_lossy(&output.stderr);
            Finding::Missing(format!("it does not run: {}", text.lines().next().unwrap_or("no reason given")))
        }
        Ok(output) => {
            let devices = String::from_utf8_lossy(&output.stdout);
            let has = |name: &str| devices.contains(&format!("\"{name}\""));
            if has("vhost-user-test-device-pci") {
                Finding::Good("has vhost-user-test-device-pci, which passes all of the device on".into())
            } else if has("vhost-user-blk-pci") {
                Finding::Missing(
                    "lacks vhost-user-test-device-pci (QEMU 10.1); vhost-user-blk-pci serves with --in-band".into(),
                )
            } else {
                Finding::Missing("has no vhost-user device; use a QEMU that was built with them".into())
            }
        }
    };
    (program.display().to_string(), finding)
}

/// Applies the sandbox to this process.
pub fn sandbox() -> Check {
    let finding = match Sandbox::new().apply() {
        Err(error) => Finding::Bad(format!("{error}; --sandbox none goes without")),
        Ok(missing) if missing.is_empty() => Finding::Good("no privileges, Landlock, seccomp".into()),
        Ok(missing) => {
            let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
            Finding::Missing(missing.join("; "))
        }
    };
    ("sandbox".into(), finding)
}
