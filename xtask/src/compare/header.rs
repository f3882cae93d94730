// SPDX-License-Identifier: Apache-2.0 OR MIT
//! On which machine, with which programs and how a run was made.

use super::guest::Guest;
use super::plan::Plan;
use super::target::Disk;
use crate::accel::Accelerator;
use crate::bench::header::cpu;
use crate::process::{command, output};
use crate::setup::Prepared;
use anyhow::Result;
use std::fs;

/// What every report must say; the check of reports asks for it.
pub const NAMES: [&str; 9] =
    ["date", "accelerator", "host CPU", "host kernel", "guest kernel", "QEMU", "device", "how", "command"];

/// What a reader must know before any number.
pub const TCG_WARNING: &str = "The guest's CPU was emulated (TCG). Software encryption in the guest is slowed down by that, \
    the device, which is an ordinary process of the host, is not. So the ratios of native to software encryption are not those \
    of real hardware, and not those under KVM; they say how the kernel's paths differ, and that all of them work.";

/// Names and values, and the warning.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// In the order of the report.
    pub lines: Vec<(String, String)>,
    /// What to know before reading on.
    pub warning: Option<&'static str>,
}

impl Header {
    /// Looks at the machine.
    pub fn new(prepared: &Prepared, guest: &Guest, plan: &Plan, place: &str) -> Result<Self> {
        let machine = &prepared.machine;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let mut lines = vec![
            ("date".to_owned(), output(command("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?.trim().to_owned()),
            ("accelerator".to_owned(), machine.accel.name().to_owned()),
            ("host CPU".to_owned(), host_cpu(&cpuinfo)),
            ("host kernel".to_owned(), read("/proc/sys/kernel/osrelease")),
            ("host load".to_owned(), load(&read("/proc/loadavg"))),
            ("guest kernel".to_owned(), machine.kernel.name.clone()),
            ("guest".to_owned(), "2 CPUs, 1 GiB of memory".to_owned()),
            ("QEMU".to_owned(), machine.qemu.version.clone()),
            ("device".to_owned(), output(command(&prepared.programs.device).arg("--version"))?.trim().to_owned()),
        ];
        for (disk, options) in guest.options() {
            let name = match disk {
                Disk::Main => "disk".to_owned(),
                Disk::NoRawKeys => "disk that falls back".to_owned(),
                Disk::Keyslots(n) => format!("disk churn/{n}"),
            };
            lines.push((name, options));
        }
        let slots = guest.capabilities.lines().find_map(|l| l.strip_prefix("num_keyslots=").map(str::to_owned));
        if let Some(slots) = slots {
            lines.push(("keyslots of the disk".to_owned(), slots));
        }
        lines.push((
            "how".to_owned(),
            format!(
                "{} rounds, {} s each, in turns, after one to warm up; images {place}; files of {} MiB; 2 queues of 256, interrupts shared (INTx)",
                plan.rounds, plan.seconds, plan.file_mib
            ),
        ));
        let line = std::env::args().skip(1).fold("cargo xtask".to_owned(), |all, arg| all + " " + &arg);
        lines.push(("command".to_owned(), line));
        let warning = (machine.accel == Accelerator::Tcg).then_some(TCG_WARNING);
        Ok(Self { lines, warning })
    }

    /// A value.
    pub fn get(&self, name: &str) -> &str {
        self.lines.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mut text: String = self.lines.iter().map(|(name, value)| format!("{name:<24} {value}\n")).collect();
        if let Some(warning) = self.warning {
            text += &format!("{:<24} {warning}\n", "WARNING");
        }
        text
    }
}

/// What else the machine was doing.
fn load(loadavg: &str) -> String {
    format!("{} (mean of the last minute, when the guest was up)", loadavg.split(' ').next().unwrap_or_default())
}

/// The processor, and whether it is one of a virtual machine.
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
