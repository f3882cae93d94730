// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest of `cargo xtask fstests`: two devices, and the output of fstests' `check` as it comes.

use crate::case::UFS_DRIVER;
use crate::device::{self, Device};
use crate::driver::{MODULE, Module};
use crate::job::{Job, Scratch};
use crate::paths::Paths;
use crate::process::tail;
use crate::setup::Machine;
use crate::stats::Stats;
use crate::vm::{Attach, Ended, QUEUES, Vm};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What fstests wants at least.
const IMAGE_BYTES: u64 = 2 << 30;
/// The guest itself ends a test that takes too long; this much later it is killed.
const GRACE: Duration = Duration::from_secs(60);
/// From QEMU's start to the first test, and from the last test's end to QEMU's, each at most.
const AROUND: Duration = Duration::from_secs(300);

/// A device: one disk, or the logical units of a UFS host controller.
pub struct Disk {
    /// Its serial number, by which the guest finds it. The second logical unit has `-1` behind it.
    pub serial: &'static str,
    /// Its image, or those of the logical units.
    pub images: Vec<PathBuf>,
    stats: PathBuf,
    log: PathBuf,
    options: Vec<String>,
}

impl Disk {
    /// The disks for the tests, whose files are in `dir`. With UFS they are logical units of one controller.
    pub fn for_tests(attach: Attach, dir: &Path, more: &[String]) -> Vec<Self> {
        let name = |serial: &str, end: &str| dir.join(format!("{}{end}", serial.to_lowercase()));
        let disk = |serial, images: &[&str]| {
            let images = images.iter().map(|image| name(image, ".img")).collect();
            let mut disk = Self::new(serial, images, attach, dir);
            // Standard UFS has no wrapped keys.
            if attach != Attach::Ufs && !more.iter().any(|o| o.starts_with("--key-types")) {
                let key = name(serial, ".wrapping-key").display().to_string();
                disk.options.extend(["--key-types".into(), "raw,wrapped".into(), "--wrapping-key-file".into(), key]);
            }
            disk.options.extend_from_slice(more);
            disk
        };
        match attach {
            Attach::Ufs => vec![disk("TEST", &["TEST", "SCRATCH"])],
            _ => ["TEST", "SCRATCH"].map(|serial| disk(serial, &[serial])).into(),
        }
    }

    /// A disk of the built checkouts: they have a device, too, as that needs nothing else of the guest's kernel.
    fn files(image: &Path, attach: Attach, dir: &Path) -> Self {
        let mut disk = Self::new("FSTESTS", vec![image.to_path_buf()], attach, dir);
        disk.options.push("--read-only".to_owned());
        disk
    }

    fn new(serial: &'static str, images: Vec<PathBuf>, attach: Attach, dir: &Path) -> Self {
        let mut options = vec!["--serial".to_owned(), serial.to_owned()];
        if attach == Attach::Ufs {
            options.push("--ufs".to_owned());
        }
        for more in images.iter().skip(1) {
            options.extend(["--blk-file".to_owned(), more.display().to_string()]);
        }
        let file = |end: &str| dir.join(format!("{}{end}", serial.to_lowercase()));
        Self { serial, images, stats: file(".stats.json"), log: file(".device.log"), options }
    }

    fn start(&self, run: &Run, scratch: &Path) -> Result<Device> {
        let socket_dir = scratch.join(self.serial);
        fs::create_dir(&socket_dir)?;
        Device::start(&device::Options {
            program: run.program,
            image: self.images.first().context("a disk without an image")?,
            queues: (run.attach != Attach::Ufs).then_some(QUEUES),
            extra: &self.options,
            stats: &self.stats,
            log: &self.log,
            socket_dir: &socket_dir,
        })
    }

    /// What its device did, in words.
    pub fn counted(&self) -> String {
        let Ok(stats) = Stats::read(&self.stats) else { return "left no statistics".to_owned() };
        let number = |path: &str| stats.get(path).map_or_else(|| "?".to_owned(), |n| n.to_string());
        let mebibytes =
            |path: &str| stats.get(path).map_or_else(|| "?".to_owned(), |n| format!("{} MiB", n.div_ceil(1 << 20)));
        format!(
            "{} keys programmed, {} evicted; {} written encrypted, {} read",
            number("keyslots.program"),
            number("keyslots.evict"),
            mebibytes("bytes.crypto_out"),
            mebibytes("bytes.crypto_in")
        )
    }
}

/// What to run.
pub struct Run<'a> {
    /// Where things lie.
    pub paths: &'a Paths,
    /// The machine.
    pub machine: &'a Machine,
    /// The device program.
    pub program: &'a Path,
    /// The guest's driver, unless built into the kernel.
    pub module: Option<&'a Module>,
    /// Modules that the kernel lacks.
    pub kernel_modules: Vec<PathBuf>,
    /// The image with the built checkouts.
    pub files: &'a Path,
    /// How the disks are attached.
    pub attach: Attach,
    /// The disks of the tests.
    pub disks: &'a [Disk],
    /// For the guest's script.
    pub variables: Vec<(String, String)>,
    /// Where logs and results go.
    pub dir: &'a Path,
    /// How long a test may run.
    pub limit: Duration,
}

/// Runs it to its end. `progress` gets what `check` has printed since its last call, some ten times a second, and names
/// the test that is running. Returns what was wrong with the guest or the devices.
pub fn run(run: &Run, mut progress: impl FnMut(&str) -> Option<String>) -> Result<Vec<String>> {
    let scratch = Scratch::new()?;
    let job = Job {
        script: Some(run.paths.guest_tests("fstests/run.sh")),
        others: vec![
            run.paths.guest_tests("fstests/encrypt-btrfs.sh"),
            run.paths.guest_tests("fstests/btrfs-check.sh"),
            run.paths.root.join("contrib/xfstests/local.config"),
        ],
        variables: run.variables.clone(),
        kernel_modules: run.kernel_modules.clone(),
        driver: if run.attach == Attach::Ufs { UFS_DRIVER } else { MODULE },
        ..Job::with_module(run.module)
    };
    job.write(run.paths, &scratch)?;
    for image in run.disks.iter().flat_map(|disk| &disk.images) {
        device::make_image(image, IMAGE_BYTES)?;
    }
    let files = Disk::files(run.files, run.attach, run.dir);
    let disks = || run.disks.iter().chain([&files]);
    let devices = disks().map(|d| d.start(run, scratch.path())).collect::<Result<Vec<_>>>()?;
    let sockets: Vec<&Path> = devices.iter().map(|d| d.socket.as_path()).collect();
    let output = run.dir.join("check.out");
    let vm = Vm { attach: run.attach, progress: Some(&output), ..Vm::new(run.machine, &sockets, &scratch) };
    let (ended, during) = watch(run, &vm, &output, &mut progress)?;
    let mut problems = vec![];
    scratch.unpack_results(&run.dir.join("out"))?;
    judge(run, &ended, during, &mut problems);
    for (device, disk) in devices.into_iter().zip(disks()) {
        problems.extend(device.finish().err().map(|e| format!("{}: {e:#}", disk.serial)));
    }
    Ok(problems)
}

/// Boots the guest and follows its output; also returns which test was running at the end.
fn watch(
    run: &Run,
    vm: &Vm,
    output: &Path,
    progress: &mut impl FnMut(&str) -> Option<String>,
) -> Result<(Ended, Option<String>)> {
    File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    let mut file = File::open(output)?;
    let qemu = vm.start(&run.dir.join("console.log"), &run.dir.join("qemu.log"))?;
    let (mut since, mut bytes) = (Instant::now(), vec![]);
    loop {
        let status = qemu.try_wait()?;
        bytes.clear();
        file.read_to_end(&mut bytes)?;
        let running = progress(&String::from_utf8_lossy(&bytes));
        if !bytes.is_empty() {
            since = Instant::now();
        }
        if let Some(status) = status {
            return Ok((Ended::with(status), running));
        }
        if since.elapsed() > if running.is_some() { run.limit + GRACE } else { AROUND } {
            return Ok((Ended::TimedOut, running));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn judge(run: &Run, ended: &Ended, during: Option<String>, problems: &mut Vec<String>) {
    let console = tail(&run.dir.join("console.log"), 15);
    let result = |name: &str| fs::read_to_string(run.dir.join("out").join(name)).unwrap_or_default();
    let late = during.map_or_else(
        || format!("the guest said nothing for {} s", AROUND.as_secs()),
        |test| format!("{test} ran for more than {} s (--test-timeout)", run.limit.as_secs()),
    );
    let dmesg = run.dir.join("out/dmesg").display().to_string();
    match ended {
        Ended::TimedOut => problems.push(format!("{late}; the end of the console:\n{console}")),
        Ended::Failed(how) => {
            problems.push(format!("QEMU failed ({how}):\n{}", tail(&run.dir.join("qemu.log"), 10)));
        }
        Ended::NotStarted | Ended::GivenUp | Ended::StoodStill => {}
        Ended::PoweredOff => match result("status").trim() {
            "0" => {}
            _ if run.dir.join("out/timeout").exists() => problems.push(format!("{late}; see {dmesg}")),
            "" => problems.push(format!("the guest brought back no result; the end of its console:\n{console}")),
            status => {
                let log = tail(&run.dir.join("out/log"), 15);
                problems.push(format!("the guest's script ended with {status}:\n{log}"));
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_disk() {
        let disks = |attach, more: &[&str]| {
            let more: Vec<String> = more.iter().map(|&o| o.to_owned()).collect();
            Disk::for_tests(attach, Path::new("/r"), &more)
        };
        let options = |more: &[&str]| disks(Attach::Generic, more)[0].options.join(" ");
        let wrapped = "--serial TEST --key-types raw,wrapped --wrapping-key-file /r/test.wrapping-key";
        assert_eq!(options(&["--keyslots", "2"]), format!("{wrapped} --keyslots 2"));
        assert_eq!(options(&[]), wrapped);
        assert_eq!(options(&["--key-types=raw"]), "--serial TEST --key-types=raw");
        assert_eq!(disks(Attach::Generic, &[])[1].images, [Path::new("/r/scratch.img")]);

        let ufs = disks(Attach::Ufs, &["--keyslots", "2"]);
        assert_eq!(ufs.len(), 1);
        assert_eq!(ufs[0].images, [Path::new("/r/test.img"), Path::new("/r/scratch.img")]);
        assert_eq!(ufs[0].options.join(" "), "--serial TEST --ufs --blk-file /r/scratch.img --keyslots 2");
    }
}
