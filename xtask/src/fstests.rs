// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask fstests`: tests of a checkout of xfstests that the user has, on two disks of our device.

use crate::cli::{FileSystem, FstestsArgs};
use crate::fstests_build::{self, Checkouts, RECIPE};
use crate::fstests_guest::{self, Disk, Run};
use crate::fstests_output::{Output, Test, Verdict};
use crate::kernel::Kernel;
use crate::kernel_modules;
use crate::paths::Paths;
use crate::report::Report;
use crate::vm::Attach;
use crate::{cache, process, progress, setup};
use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs it; true when tests passed and none failed.
pub fn run(paths: &Paths, args: &FstestsArgs) -> Result<bool> {
    let check_arguments = check_arguments(args)?;
    let checkouts = Checkouts::read(&args.fstests, args.fscryptctl.as_deref())?;
    let guest = if args.ufs { args.guest.without_our_driver() } else { args.guest.clone() };
    let machine = setup::machine(paths, &guest, &RECIPE)?;
    let (fs, symbol) = match args.fs {
        FileSystem::Ext4 => ("ext4", "CONFIG_EXT4_FS"),
        FileSystem::F2fs => ("f2fs", "CONFIG_F2FS_FS"),
        FileSystem::Btrfs => ("btrfs", "CONFIG_BTRFS_FS"),
    };
    check_kernel(&machine.kernel, symbol)?;
    // generic/693 tests HCTR2, where there is any.
    let mut kernel_modules = kernel_modules::files(paths, &machine, [symbol, "CONFIG_CRYPTO_HCTR2"])?;
    if args.ufs {
        kernel_modules.extend(kernel_modules::ufs(paths, &machine)?);
    }
    let files = fstests_build::build(paths, &machine.root, &checkouts)?;
    let module = setup::module(paths, &machine)?;
    let program = setup::device_program(paths)?;

    let (attach, name) = if args.ufs { (Attach::Ufs, format!("{fs}-ufs")) } else { (Attach::default(), fs.to_owned()) };
    let dir = paths.target.join("fstests").join(name);
    cache::remove_tree(&dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let disks = Disk::for_tests(attach, &dir, &args.device);
    let run = Run {
        paths,
        machine: &machine,
        program: &program,
        module: module.as_ref(),
        kernel_modules,
        files: &files,
        attach,
        disks: &disks,
        variables: vec![
            ("FSTYP".into(), fs.into()),
            ("CHECK_ARGUMENTS".into(), check_arguments.clone()),
            ("TEST_TIMEOUT".into(), args.test_timeout.to_string()),
        ],
        dir: &dir,
        limit: Duration::from_secs(args.test_timeout),
    };
    eprintln!("check {check_arguments} on {fs}, guest kernel {}, {}", machine.kernel.name, machine.accel.name());
    let mut progress = Progress {
        report: Report::default(),
        output: Output::default(),
        dir: &dir,
        last: Instant::now(),
        bar: progress::spinner("fstests"),
    };
    let ended = fstests_guest::run(&run, |text| progress.feed(text));
    progress.finish(ended?);
    println!("\n{}", encrypted(&disks, &result(&dir, "dmesg")));
    let lacking = result(&dir, "lacking");
    if !lacking.trim().is_empty() {
        println!("lacking  {}: {}", crate::btrfs::LACKING, lacking.trim());
    }
    let good = progress.report.finish();
    println!("logs and results: {}", dir.display());
    if good && !args.keep {
        for image in disks.iter().flat_map(|disk| &disk.images) {
            fs::remove_file(image)?;
        }
    }
    Ok(good)
}

/// The arguments of fstests' `check`.
fn check_arguments(args: &FstestsArgs) -> Result<String> {
    let plain =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-?*".contains(&b));
    if let Some(odd) = args.tests.iter().chain(&args.group).find(|w| !plain(w) || w.starts_with('-')) {
        bail!("{odd:?} is neither a test such as generic/368 nor a group such as encrypt");
    }
    if !args.tests.is_empty() {
        return Ok(args.tests.join(" "));
    }
    let groups = if args.group.is_empty() { "encrypt".to_owned() } else { args.group.join(",") };
    Ok(format!("-g {groups}"))
}

fn check_kernel(kernel: &Kernel, symbol: &str) -> Result<()> {
    ensure!(
        kernel_modules::usable(kernel, symbol),
        "the guest's kernel, {}, has no {symbol}: give one of your own that has, with --kernel and --kdir",
        kernel.name
    );
    Ok(())
}

fn result(dir: &Path, name: &str) -> String {
    process::text(&dir.join("out").join(name))
}

/// What the devices did, in a line each.
fn encrypted(disks: &[Disk], dmesg: &str) -> String {
    let mut text = String::new();
    for disk in disks {
        text += &format!("{:<8} {}\n", disk.serial, disk.counted());
    }
    text + &format!(
        "native   {}\nfallback {}",
        modes(dmesg, "blk-crypto (native)"),
        modes(dmesg, "blk-crypto-fallback")
    )
}

/// The encryption modes of which fscrypt said that they went this way (it does so once each).
fn modes(dmesg: &str, way: &str) -> String {
    let mode = |line: &str| {
        let (_, said) = line.split_once("fscrypt: ")?;
        said.trim().strip_suffix(way)?.strip_suffix(" using ").map(str::to_owned)
    };
    let modes: Vec<String> = dmesg.lines().filter_map(mode).collect();
    if modes.is_empty() { "none".to_owned() } else { modes.join(", ") }
}

/// Reports tests as they end.
struct Progress<'a> {
    report: Report,
    output: Output,
    dir: &'a Path,
    last: Instant,
    bar: ProgressBar,
}

impl Progress<'_> {
    fn feed(&mut self, text: &str) -> Option<String> {
        let idle = self.output.running().is_none();
        for test in self.output.feed(text) {
            let now = Instant::now();
            self.report(&test, now - self.last);
            self.last = now;
            self.bar.reset_elapsed();
        }
        // The time before the first test belongs to none.
        if idle && self.report.is_empty() && self.output.running().is_some() {
            self.last = Instant::now();
            self.bar.reset_elapsed();
        }
        let running = self.output.running().map(str::to_owned);
        self.bar.set_message(running.clone().unwrap_or_default());
        running
    }

    fn report(&mut self, test: &Test, took: Duration) {
        match &test.verdict {
            Verdict::Passed => self.report.pass(&test.name, took),
            // The guest's paths as the host has them.
            Verdict::Failed(why) => {
                let here = format!("{}/", self.dir.join("out").display());
                self.report.fail(&test.name, took, &why.replace("/tmp/out/", &here));
            }
            Verdict::NotRun(why) => {
                self.report.skip(&test.name, took, why);
                progress::print(&format!("    {why}"));
            }
        }
    }

    /// The guest is gone; `problems` say what was wrong with it or the devices.
    fn finish(&mut self, problems: Vec<String>) {
        self.bar.finish_and_clear();
        let took = self.last.elapsed();
        let during = self.output.running().is_some();
        let why = if problems.is_empty() { "the guest ended during this test".to_owned() } else { problems.join("\n") };
        for test in self.output.finish(&why) {
            self.report(&test, took);
        }
        for problem in problems.iter().filter(|_| !during) {
            self.report.fail("run", took, problem);
        }
        if problems.is_empty() && !during && !self.output.complete {
            let log = process::tail(&self.dir.join("out/log"), 15);
            self.report.fail(
                "run",
                took,
                &format!("fstests' check did not come to its end; the end of its log:\n{log}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn arguments(words: &[&str]) -> Result<String> {
        let words = ["x", "fstests", "--fstests", "d"].iter().chain(words);
        let Command::Fstests(args) = Cli::try_parse_from(words)?.command else { panic!() };
        check_arguments(&args)
    }

    #[test]
    fn modes_by_their_way() {
        let dmesg = "[ 1.0] fscrypt: AES-256-XTS using blk-crypto (native)\n[ 2.0] x\n\
            [ 3.0] fscrypt: Adiantum using blk-crypto-fallback\n[ 4.0] fscrypt: AES-128-CBC-ESSIV using blk-crypto-fallback";
        assert_eq!(modes(dmesg, "blk-crypto (native)"), "AES-256-XTS");
        assert_eq!(modes(dmesg, "blk-crypto-fallback"), "Adiantum, AES-128-CBC-ESSIV");
        assert_eq!(modes("", "blk-crypto (native)"), "none");
    }

    #[test]
    fn tests_are_reported_while_the_line_of_the_run_is_there() {
        let mut progress = Progress {
            report: Report::default(),
            output: Output::default(),
            dir: Path::new("/"),
            last: Instant::now(),
            bar: progress::spinner("fstests"),
        };
        assert_eq!(progress.feed("generic/395  9s\ngeneric/396 "), Some("generic/396".to_owned()));
        assert_eq!(progress.feed(" [not run] no key\nRan: generic/395\n"), None);
        progress.finish(vec![]);
        assert!(progress.report.finish());
    }

    #[test]
    fn arguments_of_check() {
        assert_eq!(arguments(&[]).unwrap(), "-g encrypt");
        assert_eq!(arguments(&["-g", "quick", "-g", "verity"]).unwrap(), "-g quick,verity");
        assert_eq!(arguments(&["generic/368", "ext4/024", "--", "--keyslots", "2"]).unwrap(), "generic/368 ext4/024");
        for bad in [&["a;b"] as &[&str], &["-g", "-x"], &["generic/368", "-g", "quick"], &[""]] {
            assert!(arguments(bad).is_err(), "{bad:?}");
        }
    }
}
