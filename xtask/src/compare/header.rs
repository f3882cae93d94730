// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The header of a report: the machine, the programs and the settings of a run.

use super::guest::Guest;
use super::plan::Plan;
use super::target::Disk;
use crate::accel::Accelerator;
use crate::measure::header::{Header, cpu, read};
use crate::setup::Prepared;
use anyhow::Result;

/// What every report must say; the check of reports asks for it.
pub const NAMES: [&str; 9] =
    ["date", "accelerator", "host CPU", "host kernel", "guest kernel", "QEMU", "device", "how", "command"];

/// What a reader must know before any number.
pub const TCG_WARNING: &str = "The guest's CPU was emulated (TCG). That slows down software encryption in the guest, but not \
    the device, which is an ordinary process on the host. So the ratios of native to software encryption are neither those of \
    real hardware nor those under KVM. They show how the kernel's paths differ, and that all of them work.";

/// Collects the header.
pub fn header(prepared: &Prepared, guest: &Guest, plan: &Plan, place: &str) -> Result<Header> {
    let machine = &prepared.machine;
    let mut header = Header::new()?;
    header.add("accelerator", machine.accel.name());
    header.add("host CPU", host_cpu(&read("/proc/cpuinfo")));
    header.add("host kernel", read("/proc/sys/kernel/osrelease"));
    header.add("host load", load(&read("/proc/loadavg")));
    header.add("guest kernel", &machine.kernel.name);
    header.add("guest", "2 CPUs, 1 GiB of memory");
    header.add("QEMU", &machine.qemu.version);
    header.add_version("device", &prepared.programs.device)?;
    for (disk, options) in guest.options() {
        let name = match disk {
            Disk::Main => "disk".to_owned(),
            Disk::NoRawKeys => "disk that falls back".to_owned(),
            Disk::Keyslots(n) => format!("disk churn/{n}"),
            Disk::KeysInRequests => "disk churn/none".to_owned(),
            Disk::Spare(n) => format!("disk {n}"),
            Disk::Front { .. } => format!("disk {}", disk.serial()),
        };
        header.add(name, options);
    }
    if let Some(slots) = guest.capabilities.lines().find_map(|line| line.strip_prefix("num_keyslots=")) {
        header.add("keyslots of the disk", slots);
    }
    header.add_command(&format!(
        "{} rounds, {} s each, in turns, after one to warm up; images {place}; files of {} MiB; 2 queues of 256, interrupts \
         shared (INTx)",
        plan.rounds, plan.seconds, plan.file_mib
    ));
    header.warning = (machine.accel == Accelerator::Tcg).then_some(TCG_WARNING);
    Ok(header)
}

/// How busy the host was.
fn load(loadavg: &str) -> String {
    format!("{} (mean of the last minute, when the guest was up)", loadavg.split(' ').next().unwrap_or_default())
}

/// The processor, and whether the host is a virtual machine.
fn host_cpu(cpuinfo: &str) -> String {
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    let kind = if flags.split_whitespace().any(|f| f == "hypervisor") { "virtual machine, " } else { "" };
    format!("{kind}{}", cpu(cpuinfo))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_machine_is_named_so() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu aes hypervisor\n";
        assert!(host_cpu(text).starts_with("virtual machine, AMD EPYC"));
        assert!(host_cpu("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: aes\n").starts_with("AMD EPYC"));
    }
}
