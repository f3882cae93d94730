// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs one guest case: the device, the guest, and the checks afterwards.

use crate::accel::Accelerator;
use crate::case::Case;
use crate::device::{self, Device};
use crate::host_steps::{self, HostSteps, Step};
use crate::job::{Job, Scratch};
use crate::kernel::Origin;
use crate::kills::{self, Kills};
use crate::paths::Paths;
use crate::process::{self, tail};
use crate::setup::Prepared;
use crate::stats::Stats;
use crate::verify::{self, Verified};
use crate::vm::{Attach, Ended, QUEUE_SIZE, Vm};
use crate::watch::Watch;
use crate::{cache, console, debug_kernel, kernel_modules, progress, qemu};
use anyhow::{Context, Result};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What boots of a case share: files on the host that the device's options name, and files of the guest in its results.
const STATE: &str = "state";

/// The script's exit status when it has skipped itself.
const SKIPPED: &str = "77";
/// What `guest-tests/init` says first.
const INIT: &str = "guest: init";
/// From a guest's start to its init, which takes some seconds. Now and then the kernel of an emulated guest with two CPUs stands still
/// before that, with both CPUs busy. No case has begun then; only firmware and drivers that are built in may have read the disk.
const TO_INIT: Duration = Duration::from_secs(90);
/// Size of a root port's ROM: that of a disk's registers, because a case may map it in their place.
const ROM_BYTES: usize = 16 << 10;

/// A case's verdict.
pub enum Outcome {
    /// All is well.
    Passed,
    /// The problems, the most important first.
    Failed(Vec<String>),
    /// Why it could not run.
    Skipped(String),
}

/// A case that ran, or was skipped.
pub struct CaseRun {
    /// The verdict.
    pub outcome: Outcome,
    /// Where its logs and results are.
    pub dir: PathBuf,
    /// What the device counted.
    pub stats: Option<Stats>,
    /// What the verifier found.
    pub verified: Option<Verified>,
}

impl CaseRun {
    /// A file of the guest's results, empty when there is none.
    pub fn result(&self, name: &str) -> String {
        process::text(&self.dir.join("out").join(name))
    }
}

/// Runs it. An error is a problem of the host; the case's own result is in the outcome.
pub fn run(paths: &Paths, prepared: &Prepared, case: &Case, keep: bool) -> Result<CaseRun> {
    let dir = paths.results(&case.name);
    cache::remove_tree(&dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut run = CaseRun { outcome: Outcome::Passed, dir, stats: None, verified: None };
    if let Some(reason) = missing(prepared, case) {
        run.outcome = Outcome::Skipped(reason);
        return Ok(run);
    }
    let image = run.dir.join("disk.img");
    device::make_image(&image, case.image)?;
    for lun in 1..case.luns {
        device::make_image(&lun_image(&run.dir, lun), case.image)?;
    }
    fs::create_dir(run.dir.join(STATE))?;
    let mut problems = vec![];
    for number in 1..=case.boots {
        if number > 1 {
            set_aside(&run.dir, number - 1)?;
        }
        let (mut ended, mut device) = boot(paths, prepared, case, number, &run.dir, &image)?;
        if matches!(ended, Ended::StoodStill) && device.is_ok() && may_boot_again(prepared, case, &run.dir) {
            progress::print(&format!(
                "{}: the kernel stood still before its init; the guest boots once more",
                case.name
            ));
            for name in ["console.log", "device.log", "qemu.log"] {
                fs::rename(run.dir.join(name), run.dir.join(format!("{name}.stood-still")))?;
            }
            (ended, device) = boot(paths, prepared, case, number, &run.dir, &image)?;
        }
        judge_guest(&run, case, prepared, &ended, &mut problems);
        problems.extend(device.err().map(|e| format!("{e:#}")));
        if !problems.is_empty() || skipped(&run).is_some() {
            if case.boots > 1 {
                problems.iter_mut().for_each(|p| *p = format!("boot {number} of {}: {p}", case.boots));
            }
            break;
        }
    }
    if let Some(reason) = skipped(&run)
        && problems.is_empty()
    {
        run.outcome = Outcome::Skipped(reason);
    } else {
        run.stats = Stats::read(&run.dir.join("stats.json")).ok();
        // After a script that stopped early, the image would only give more errors.
        if problems.is_empty() {
            judge_image(&mut run, case, prepared, &image, &mut problems);
        }
        if !problems.is_empty() {
            run.outcome = Outcome::Failed(problems);
        }
    }
    if !keep && !matches!(run.outcome, Outcome::Failed(_)) {
        fs::remove_file(&image)?;
        for lun in 1..case.luns {
            fs::remove_file(lun_image(&run.dir, lun))?;
        }
    }
    Ok(run)
}

/// The first thing that the case needs and the guest lacks.
fn missing(prepared: &Prepared, case: &Case) -> Option<String> {
    let machine = &prepared.machine;
    if case.driver == "virtio_blk" && !machine.kernel.has("CONFIG_VIRTIO_BLK") {
        return Some("the guest's kernel has no virtio_blk (built in, when it is a kernel of your own)".to_owned());
    }
    case.needs.iter().find_map(|need| {
        if need.starts_with("CONFIG_") {
            (!kernel_modules::usable(&machine.kernel, need)).then(|| {
                let elsewhere = matches!(machine.kernel.origin, Origin::Debian) && debug_kernel::has(need);
                format!("the guest's kernel has no {need}{}", if elsewhere { " (try --debug-kernel)" } else { "" })
            })
        } else {
            let there = machine.root.has_command(need) || prepared.programs.tools.join(need).exists();
            (!there).then(|| format!("the guest has no command {need}"))
        }
    })
}

/// The image of a logical unit beside the first one.
fn lun_image(dir: &Path, lun: u32) -> PathBuf {
    dir.join(format!("disk-{lun}.img"))
}

/// Moves what a boot left to a directory of its own; what all boots share stays.
fn set_aside(dir: &Path, number: u32) -> Result<()> {
    let aside = boot_dir(dir, number);
    fs::create_dir(&aside)?;
    for name in ["console.log", "device.log", "qemu.log", "stats.json", "used", "out"] {
        let (from, to) = (dir.join(name), aside.join(name));
        if from.exists() {
            fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        }
    }
    Ok(())
}

/// What an earlier boot left.
fn boot_dir(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("boot-{number}"))
}

/// Starts the device and the guest and waits for the end of both: how the guest ended, and how the device did.
fn boot(
    paths: &Paths,
    prepared: &Prepared,
    case: &Case,
    number: u32,
    dir: &Path,
    image: &Path,
) -> Result<(Ended, Result<()>)> {
    let scratch = Scratch::new()?;
    let progress = scratch.join("progress");
    let job = Job {
        script: Some(case.script.clone()),
        driver: &case.driver,
        variables: vec![
            ("CASE".into(), case.name.clone()),
            ("BOOT".into(), number.to_string()),
            ("KILLS".into(), case.kills.to_string()),
        ],
        kernel_modules: kernel_modules::files(paths, &prepared.machine, case.needs.iter().map(String::as_str))?,
        state: (number > 1).then(|| boot_dir(dir, number - 1).join("out").join(STATE)),
        ..Job::new(prepared)
    };
    job.write(paths, &scratch)?;
    let mut others = case.device_options(number, &dir.join(STATE));
    for lun in 1..case.luns {
        others.extend(["--blk-file".to_owned(), lun_image(dir, lun).display().to_string()]);
    }
    let control = scratch.join("control");
    if !case.host.is_empty() {
        others.extend(host_steps::control_options(&control));
    }
    let extra = if case.kills > 0 { kills::options_after(0, &others) } else { others.clone() };
    let options = device::Options {
        program: &prepared.programs.device,
        image,
        queues: (case.rings.is_none() && case.attach != Attach::Ufs).then_some(case.queues),
        extra: &extra,
        stats: &dir.join("stats.json"),
        log: &dir.join("device.log"),
        socket_dir: scratch.path(),
    };
    let mut device = match Device::start(&options) {
        Ok(device) => device,
        Err(e) => return Ok((Ended::NotStarted, Err(e))),
    };
    let machine = &prepared.machine;
    let release = case.qemu.as_deref().map(|release| qemu::of_release(paths, machine.mirror.as_ref(), release));
    let release = release.transpose()?;
    let (queues, queue_size) = case.rings.unwrap_or((case.queues, Some(QUEUE_SIZE)));
    let rom = scratch.join("rom");
    fs::write(&rom, [0xff; ROM_BYTES])?;
    let needs_progress = case.kills > 0 || !case.host.is_empty() || case.bounds.calm.is_some();
    let monitor = scratch.join("monitor");
    let disks = [device.socket.clone()];
    let disks = disks.each_ref().map(PathBuf::as_path);
    let mut vm = Vm {
        qemu: release.as_ref().unwrap_or(&machine.qemu),
        attach: case.attach,
        queues,
        queue_size,
        root_port: case.root_port.then_some(rom.as_path()),
        reconnect: case.kills > 0,
        progress: needs_progress.then_some(progress.as_path()),
        monitor: case.host.iter().any(Step::needs_monitor).then_some(monitor.as_path()),
        ..Vm::new(machine, &disks, &scratch)
    };
    if case.needs.iter().any(|need| need == "CONFIG_EDD") {
        // Only the first code of a bzImage asks the firmware about disks.
        vm.kernel = &machine.kernel.image;
    }
    let verifier = (prepared.programs.verifier.as_path(), dir);
    let mut kills = Kills::new(case.kills, options, &others, &progress, machine.kernel.slowness(), verifier);
    let mut steps = HostSteps::new(&case.host, options, control, &vm, &progress, dir.join("host.log"));
    let mut watch = Watch::new(&case.bounds, &progress);
    let mut disturbed = Ok(());
    let due = Instant::now() + TO_INIT * machine.kernel.slowness();
    let mut init = Init { console: dir.join("console.log"), due: Some(due), late: false };
    let mut ended = vm.run(&dir.join("console.log"), &dir.join("qemu.log"), limit(prepared, case), |qemu| {
        if disturbed.is_ok() {
            disturbed = kills.step(&mut device).and_then(|()| steps.step(&device, qemu));
        }
        watch.step(device.id());
        if disturbed.is_ok() && !init.is_late() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if matches!(ended, Ended::GivenUp) && init.late {
        ended = Ended::StoodStill;
    }
    scratch.unpack_results(&dir.join("out"))?;
    // Why the guest ended early is the better reason.
    let status = fs::read_to_string(dir.join("out/status")).unwrap_or_default();
    if disturbed.is_ok() && matches!(ended, Ended::PoweredOff) && status.trim() != SKIPPED {
        disturbed = kills.finish().and_then(|()| steps.finish());
    }
    let report = watch.report();
    if !report.is_empty() {
        fs::write(dir.join("used"), report)?;
    }
    let mut device = disturbed.and(device.finish());
    // The other reasons are better.
    if device.is_ok() && matches!(ended, Ended::PoweredOff) {
        device = watch.finish();
    }
    Ok((ended, device))
}

/// Whether a guest that stood still may try again: under emulation, if no driver under test and no word of the kernel can be the cause.
fn may_boot_again(prepared: &Prepared, case: &Case, dir: &Path) -> bool {
    prepared.machine.accel == Accelerator::Tcg
        && (prepared.module.is_some() || case.attach == Attach::Ufs)
        && console::trouble(&process::text(&dir.join("console.log"))).is_none()
}

/// The wait for a guest's init.
struct Init {
    console: PathBuf,
    /// Until then it must have begun. `None`: it has, or it is late.
    due: Option<Instant>,
    late: bool,
}

impl Init {
    /// Looks once, when the time has come.
    fn is_late(&mut self) -> bool {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.due = None;
            self.late = !process::text(&self.console).contains(INIT);
        }
        self.late
    }
}

/// How long a case may run: its header can raise the usual limit.
fn limit(prepared: &Prepared, case: &Case) -> Duration {
    let usual = prepared.machine.accel.default_limit();
    case.timeout.map_or(usual, |own| own.max(usual)) * prepared.machine.kernel.slowness()
}

/// The problems that QEMU's end, the guest's kernel and the case's script report.
fn judge_guest(run: &CaseRun, case: &Case, prepared: &Prepared, ended: &Ended, problems: &mut Vec<String>) {
    let console = run.dir.join("console.log");
    let text = process::text(&console);
    let dmesg = run.result("dmesg");
    for log in [&text, &dmesg, &run.result("kmemleak")] {
        if let Some(line) = console::trouble(log) {
            problems.insert(0, format!("the guest's kernel says: {line}"));
            break;
        }
    }
    if let Some(line) = console::error(&text).or_else(|| console::error(&dmesg)).filter(|_| !case.errors) {
        problems.push(format!(
            "a request failed or a file system found an error, and the case has no `# errors: expected`: {line}"
        ));
    }
    match ended {
        Ended::TimedOut => {
            let limit = limit(prepared, case).as_secs();
            problems.insert(
                0,
                format!(
                    "timed out after {limit} s\nthe end of its console:\n{}{}",
                    tail(&console, 15),
                    tail(&run.dir.join("qemu.log"), 3)
                ),
            );
        }
        Ended::StoodStill => {
            problems.insert(0, format!("its kernel stood still before its init; its console:\n{}", tail(&console, 15)));
        }
        Ended::Failed(how) => {
            problems.insert(0, format!("QEMU failed ({how}):\n{}", tail(&run.dir.join("qemu.log"), 10)));
        }
        Ended::NotStarted | Ended::GivenUp => {}
        Ended::PoweredOff => match run.result("status").trim() {
            "0" => {}
            // Any program may end with this status.
            SKIPPED if skipped(run).is_some() => {}
            "" => problems.push(format!("the guest brought back no result; its console:\n{}", tail(&console, 15))),
            status => {
                let log = run.dir.join("out/log");
                let last = tail(&log, 1);
                problems.push(format!("the script ended with {status}: {}\n{}", last.trim(), tail(&log, 15)));
            }
        },
    }
}

/// The reason why the script skipped itself.
fn skipped(run: &CaseRun) -> Option<String> {
    let reason = run.result("skip");
    (run.result("status").trim() == SKIPPED && !reason.trim().is_empty()).then(|| reason.trim().to_owned())
}

/// What the device counted and what is on the image.
fn judge_image(run: &mut CaseRun, case: &Case, prepared: &Prepared, image: &Path, problems: &mut Vec<String>) {
    match &run.stats {
        Some(stats) => {
            problems.extend(case.stats.iter().filter_map(|s| s.check(stats).err()).map(|e| format!("{e:#}")));
        }
        None => problems.push("the device left no readable statistics".to_owned()),
    }
    if case.check_fscrypt {
        let (program, results) = (&prepared.programs.verifier, run.dir.join("out"));
        match &case.wrong {
            None => match verify_all(case, program, image, &results, &run.dir) {
                Ok(verified) => run.verified = Some(verified),
                Err(e) => problems.push(format!("{e:#}")),
            },
            Some(wrong) => {
                let found = verify::run_on_broken(program, image, &results, &run.dir, wrong);
                problems.extend(found.err().map(|e| format!("{e:#}")));
            }
        }
    }
}

/// The verifier over the image, and over those of further logical units: a directory `lun-N` has the results of each.
fn verify_all(case: &Case, program: &Path, image: &Path, results: &Path, dir: &Path) -> Result<Verified> {
    let mut verified = verify::run(program, image, results, dir)?;
    for lun in 1..case.luns {
        let name = format!("lun-{lun}");
        fs::create_dir(dir.join(&name)).context("cannot make a directory for the verifier")?;
        let more = verify::run(program, &lun_image(dir, lun), &results.join(&name), &dir.join(&name)).context(name)?;
        verified.files += more.files;
        verified.blocks += more.blocks;
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_late_without_the_words_of_its_init() {
        assert!(include_str!("../../guest-tests/init").contains(INIT));
        let dir = tempfile::TempDir::new().unwrap();
        let console = dir.path().join("console.log");
        let init = |due| Init { console: console.clone(), due: Some(due), late: false };
        let now = Instant::now();
        assert!(init(now).is_late(), "no console");
        fs::write(&console, format!("[ 1.0] booting\r\n{INIT}\r\n")).unwrap();
        assert!(!init(now).is_late());
        fs::write(&console, "[ 1.0] booting\r\n").unwrap();
        assert!(!init(now + Duration::from_secs(1000)).is_late(), "not yet");
        let mut late = init(now);
        assert!(late.is_late() && late.is_late());
    }
}
