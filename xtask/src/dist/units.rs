// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Boots a Debian with systemd, installs the program's package there as docs/install.md says, and uses the disk that its units serve.

use super::{Cpu, copy, tree};
use crate::debian;
use crate::job::Scratch;
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::process::{self, command, run_logged};
use crate::setup::Machine;
use crate::vm::{Ended, Vm};
use anyhow::{Result, bail};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

/// The machine. qemu-io is the client of the disk, by libblkio.
const PACKAGES: &str = "systemd-sysv,qemu-utils,qemu-block-extra";

/// What docs/install.md tells the user to do.
const USERS_LINES: &str = "apt install ./PACKAGE
mkdir -p /var/lib/private/vhost-user-blk-crypto/one
truncate -s 1G /var/lib/private/vhost-user-blk-crypto/one/disk.img
systemctl enable --now vhost-user-blk-crypto@one.socket
";

/// A client comes, writes and goes; the next one finds what the first has written, after the service was started again.
const USE: &str = "disk() { qemu-io --image-opts driver=virtio-blk-vhost-user,path=/run/vhost-user-blk-crypto/one.sock,cache.direct=on \"$@\"; }
disk -c 'write -P 0xa5 1M 1M' -c flush
systemctl is-active vhost-user-blk-crypto@one.service
systemctl reload vhost-user-blk-crypto@one.service
systemctl stop vhost-user-blk-crypto@one.service
qemu-io -rf raw -c 'read -P 0xa5 1M 1M' -c 'read -P 0 0 1M' /var/lib/private/vhost-user-blk-crypto/one/disk.img
disk -c 'read -P 0xa5 1M 1M'
journalctl -q -u vhost-user-blk-crypto@one.service > journal
grep -q serving journal
if grep -E 'warn:|Failed|unset' journal; then exit 1; fi
systemctl disable --now vhost-user-blk-crypto@one.socket
apt-get -y purge vhost-user-blk-crypto
";

/// The last line of a run without errors.
const PASSED: &str = "the units serve their disk";

/// Runs the script once the machine is up, and then powers it off.
const UNIT: &str = "[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
WorkingDirectory=/root
Environment=HOME=/root DEBIAN_FRONTEND=noninteractive
ExecStart=/bin/sh -eux /root/script
ExecStopPost=/bin/journalctl -q --no-hostname -u vhost-user-blk-crypto@one.service
StandardOutput=append:/dev/ttyS0
StandardError=inherit
";

/// Runs it.
pub fn run(
    paths: &Paths,
    machine: &Machine,
    mirror: Option<&Mirror>,
    cpu: &Cpu,
    out: &Path,
    work: &Path,
) -> Result<()> {
    let clean = tree(paths, mirror, "boot", &debian::small(PACKAGES))?;
    let log = paths.fresh_log("dist-units");
    fs::create_dir_all(work)?;
    let root = work.join("root");
    run_logged(command("cp").args(["-a", "--reflink=auto"]).arg(clean).arg(&root), &log)?;
    copy(&out.join(cpu.package()), &root.join("root").join(cpu.package()))?;
    fs::write(root.join("root/script"), script(cpu))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("check.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink("../check.service", units.join("multi-user.target.wants/check.service"))?;
    // Without udev, systemd waits for terminals in vain.
    symlink("/dev/null", units.join("getty.target"))?;
    symlink("lib/systemd/systemd", root.join("guest-init"))?;
    let image = work.join("root.ext4");
    debian::make_ext4(&root, &image, "2G", &log)?;

    let scratch = Scratch::new()?;
    fs::write(&scratch.job, "")?;
    let vm = Vm { root: image, ..Vm::new(machine, &[], &scratch) };
    let console = work.join("console.log");
    let limit = machine.accel.default_limit() + Duration::from_secs(300);
    let ended = vm.run(&console, &work.join("qemu.log"), limit, |_| ControlFlow::Continue(()))?;
    if !process::text(&console).lines().any(|line| line.trim_end() == PASSED) {
        let late = if matches!(ended, Ended::TimedOut) { "too late; " } else { "" };
        bail!("{late}the end of {}:\n{}", console.display(), process::tail(&console, 25));
    }
    Ok(())
}

fn script(cpu: &Cpu) -> String {
    format!("{}{USE}echo {PASSED}\n", USERS_LINES.replace("PACKAGE", &cpu.package()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::CPUS;

    #[test]
    fn the_lines_are_those_of_the_docs() {
        let docs = include_str!("../../../docs/install.md");
        let lines: String = USERS_LINES.lines().map(|line| format!("    {line}\n")).collect();
        assert!(docs.contains(&lines.replace("PACKAGE", &CPUS[0].package())), "{lines}");
    }
}
