// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest: it boots once, with all disks, then executes one command after the other.

use super::dialog::{Dialog, Mark};
use super::disk::{Counters, Disk};
use super::load::{self, Load};
use super::plan::Plan;
use super::results::Sample;
use super::target::{self, Kind, Target};
use super::verdict::{Said, Words};
use crate::console;
use crate::job::{Job, Scratch};
use crate::kernel_modules;
use crate::paths::Paths;
use crate::process::{Running, tail, text};
use crate::setup::Prepared;
use crate::vm::{Attach, Front, Vm};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// From QEMU's start until the guest is ready.
const BOOT: Duration = Duration::from_secs(300);
/// For any command, in addition to the time that it is meant to take.
const PATIENCE: Duration = Duration::from_secs(300);
/// From the last command to QEMU's end.
const POWER_OFF: Duration = Duration::from_secs(120);
/// Size of each target's part of a disk.
pub const PART_MIB: u64 = 512;
/// For the partition table.
const TABLE_MIB: u64 = 4;

/// What was counted between two marks.
pub struct Window {
    /// CPU time of the guest, in seconds.
    pub guest_cpu: f64,
    /// CPU time of the device's process, in seconds.
    pub device_cpu: f64,
    /// What the device counted.
    pub counters: Counters,
}

/// A guest that is up.
pub struct Guest {
    qemu: Running,
    dialog: Dialog,
    disks: Vec<Disk>,
    words: Words,
    logs: PathBuf,
    /// What the kernel reports about the main disk's inline encryption, as `NAME=VALUE` lines.
    pub capabilities: String,
    scratch: Scratch,
}

impl Guest {
    /// Starts the devices, with images in `images`, and boots the guest; divides the disks for the plan's targets.
    pub fn boot(
        paths: &Paths,
        prepared: &Prepared,
        plan: &Plan,
        user: &[String],
        places: (&Path, &Path),
    ) -> Result<Self> {
        let disks = plan.disks();
        let parts = |what| plan.targets.iter().filter(|t| t.disk == what).count();
        // All have the same size.
        let most = disks.iter().map(|what| parts(*what)).max().unwrap_or(0) as u64;
        let bytes = (most * PART_MIB + TABLE_MIB) << 20;
        let needs = plan.targets.iter().flat_map(super::run::symbols);
        let script = ("compare/run.sh", kernel_modules::files(paths, &prepared.machine, needs)?);
        let mut guest = Self::start(paths, prepared, script, (&disks, bytes), user, places)?;
        for what in disks {
            let text = guest.ask(&format!("disk {} {} {PART_MIB}", what.serial(), parts(what)))?;
            if what == target::Disk::Main {
                guest.capabilities = text;
            }
        }
        if plan.groups.iter().any(|g| *g.load == Load::Untar) {
            guest.ask(&format!("small_files {}", plan.small_files * 8))?;
        }
        Ok(guest)
    }

    /// Starts a device for each disk, with images of this size in `images`. Boots the guest with a script that executes
    /// the host's commands, and with modules that its kernel lacks.
    pub fn start(
        paths: &Paths,
        prepared: &Prepared,
        (script, kernel_modules): (&str, Vec<PathBuf>),
        (disks, bytes): (&[target::Disk], u64),
        user: &[String],
        (images, logs): (&Path, &Path),
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let script = Some(paths.guest_tests(script));
        Job { script, kernel_modules, ..Job::new(prepared) }.write(paths, &scratch)?;
        let program = &prepared.programs.device;
        let disks: Vec<Disk> = disks
            .iter()
            .map(|what| Disk::start(*what, program, user, (images, bytes), (scratch.path(), logs)))
            .collect::<Result<_>>()?;
        let sockets: Vec<(Option<Attach>, PathBuf)> = disks.iter().map(|d| (front(d.what), d.socket())).collect();
        let fronts = sockets.iter().filter_map(|(front, socket)| Some(Front { attach: (*front)?, queues: 1, socket }));
        let fronts: Vec<Front> = fronts.collect();
        let sockets = sockets.iter().filter(|(front, _)| front.is_none()).map(|(_, socket)| socket.as_path());
        let sockets: Vec<&Path> = sockets.collect();
        let path = scratch.join("dialog");
        let listener = Dialog::listen(&path)?;
        let vm = Vm { dialog: Some(&path), fronts: &fronts, ..Vm::new(&prepared.machine, &sockets, &scratch) };
        let qemu = vm.start(&logs.join("console.log"), &logs.join("qemu.log"))?;
        let dialog = Dialog::accept(&listener, BOOT, || alive(&qemu, logs))
            .with_context(|| format!("the end of the guest's console:\n{}", tail(&logs.join("console.log"), 15)))?;
        Ok(Self {
            qemu,
            dialog,
            disks,
            words: Words::default(),
            logs: logs.to_path_buf(),
            capabilities: String::new(),
            scratch,
        })
    }

    /// The disks' options, for the report.
    pub fn options(&self) -> Vec<(target::Disk, String)> {
        self.disks.iter().map(|d| (d.what, d.options.join(" "))).collect()
    }

    /// Makes a target and its files; returns fscrypt's messages about it. An error is the reason why it cannot be made.
    pub fn make(&mut self, plan: &Plan, target: &Target) -> Result<Said> {
        let id = target.id();
        let make = ["make", &id, target.fs.name(), target.how.name(), &target.disk.serial()].join(" ");
        self.ask(&format!("{make} {}", plan.part(target)))?;
        if plan.bears(target, |l| matches!(l, Load::Fio(_))) {
            self.ask(&format!("layout {id} {}", plan.file_mib))?;
        }
        if target.kind == Kind::Churn {
            self.ask(&format!("churn_files {id} {}", plan.key_files()))?;
        }
        let text = self.ask("words")?;
        Ok(self.words.feed(&text))
    }

    /// fscrypt's messages since the last call.
    pub fn said(&mut self) -> Result<Said> {
        let text = self.ask("words")?;
        Ok(self.words.feed(&text))
    }

    /// One measurement, of this many seconds unless the load has an end of its own.
    pub fn measure(
        &mut self,
        plan: &Plan,
        (load, seconds): (&Load, f64),
        target: &Target,
        round: u32,
    ) -> Result<Sample> {
        let command = load.command(&target.id(), seconds, plan.file_mib, round);
        let (text, window) = self.watch(target.disk, &command, seconds)?;
        let counted = load::parse(&text).with_context(|| format!("the load counted nothing: {}", text.trim()))?;
        let Window { guest_cpu, device_cpu, counters } = window;
        Ok(Sample { counted, guest_cpu, device_cpu, counters })
    }

    /// Runs a command that takes this many seconds and sends marks; returns its output, and what was counted between
    /// the marks.
    pub fn watch(&mut self, what: target::Disk, command: &str, seconds: f64) -> Result<(String, Window)> {
        let Self { qemu, dialog, disks, logs, .. } = self;
        let disk = disks.iter_mut().find(|d| d.what == what).context("the target has no disk")?;
        let mut marks: Vec<(Mark, u64, Counters, f64)> = vec![];
        let limit = PATIENCE + Duration::from_secs_f64(seconds);
        let text = dialog.ask(
            command,
            limit,
            || alive(qemu, logs),
            |mark, ticks| {
                marks.push((mark, ticks, disk.counters()?, disk.cpu()?));
                Ok(())
            },
        )?;
        let [(Mark::Begin, ticks, before, cpu), (Mark::End, ticks_after, after, cpu_after)] = marks.as_slice() else {
            bail!("the guest sent {} marks, not begin and end", marks.len());
        };
        let window = Window {
            guest_cpu: ticks_after.saturating_sub(*ticks) as f64 / 100.0,
            device_cpu: (cpu_after - cpu).max(0.0),
            counters: after.since(*before),
        };
        Ok((text, window))
    }

    /// Runs a command in the guest; returns its output.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        let Self { qemu, dialog, logs, .. } = self;
        dialog.ask(command, PATIENCE, || alive(qemu, logs), |_, _| Ok(()))
    }

    /// Ends guest and devices; returns their problems.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let mut problems = vec![];
        self.dialog.end()?;
        match self.qemu.wait_timeout(POWER_OFF)? {
            None => problems.push("the guest did not power off".to_owned()),
            Some(status) if !status.success() => problems.push(format!("QEMU ended with {status}")),
            Some(_) => {}
        }
        drop(self.qemu);
        let out = self.logs.join("out");
        self.scratch.unpack_results(&out)?;
        for log in [text(&self.logs.join("console.log")), text(&out.join("dmesg"))] {
            if let Some(line) = console::trouble(&log) {
                problems.push(format!("the guest's kernel says: {line}"));
                break;
            }
        }
        if text(&out.join("status")).trim() != "0" {
            problems.push(format!("the guest's script failed:\n{}", tail(&out.join("log"), 10)));
        }
        for disk in self.disks {
            problems.extend(disk.finish().err().map(|e| format!("{e:#}")));
        }
        Ok(problems)
    }
}

/// How a disk is attached that compares fronts; it has one queue.
fn front(what: target::Disk) -> Option<Attach> {
    match what {
        target::Disk::Front { ufs, .. } => Some(if ufs { Attach::Ufs } else { Attach::Generic }),
        _ => None,
    }
}

/// Fails if QEMU has exited.
fn alive(qemu: &Running, logs: &Path) -> Result<()> {
    let ended = qemu.try_wait()?;
    let console = logs.join("console.log");
    if ended.is_some()
        && let Some(line) = console::trouble(&text(&console))
    {
        bail!("the guest is gone; its kernel said: {line} ({})", console.display());
    }
    ensure!(
        ended.is_none(),
        "QEMU ended early; the end of the guest's console:\n{}{}",
        tail(&console, 15),
        tail(&logs.join("qemu.log"), 5)
    );
    Ok(())
}
