// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Builds and runs the project: device, QEMU, guest, driver, tests.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Boot a guest with the device, encrypt files natively, verify them on the image, print a short report
    Demo(DemoArgs),
    /// Run all checks: formatting, lints, Rust tests, module build, guest cases
    Test(TestArgs),
    /// The same guest with a root prompt on the serial console
    Shell(ShellArgs),
    /// Run tests of an xfstests checkout of your own on two disks of the device
    Fstests(FstestsArgs),
    /// Run the fuzz targets, two at a time
    Fuzz(FuzzArgs),
    /// Run what has `unsafe` under the address sanitizer and Miri, and keyslots under a scheduler that chooses the order of
    /// threads; takes minutes
    Miri,
    /// Measure the device beside qemu-storage-daemon, in one interleaved run
    Bench(BenchArgs),
    /// Measure encryption by the device beside encryption by the guest's CPU, in one guest, and write a report
    Compare(CompareArgs),
    /// Install and build everything that the other commands need, run nothing
    Setup(GuestArgs),
    /// Make the manual pages in `man/` anew
    Man,
    /// Delete what was downloaded and built outside `target/`
    CleanCache,
}

/// How the guest is made and run; common to all commands that boot one.
#[derive(Args, Clone, Default)]
pub struct GuestArgs {
    /// How the guest's CPU is run: KVM where it works, else QEMU's emulation (TCG)
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub accel: Accel,
    /// A QEMU of your own (10.1 or newer with vhost-user-test-device-pci) in place of a found or fetched one
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<PathBuf>,
    /// A kernel of your own (bzImage) in place of Debian's
    #[arg(long, value_name = "BZIMAGE", requires = "kdir")]
    pub kernel: Option<PathBuf>,
    /// The build tree of that kernel: its .config is read and the module is built against it
    #[arg(long, value_name = "BUILD_TREE", requires = "kernel")]
    pub kdir: Option<PathBuf>,
    /// Build no module: the driver is in the kernel already (found out from the build tree's .config, too)
    #[arg(long, requires = "kernel")]
    pub no_module: bool,
    /// The Debian mirror to take packages from (default: apt's own on Debian, else DEBIAN_MIRROR)
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// The choice of accelerator.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if a test boot works, else TCG
    #[default]
    Auto,
    /// KVM, without trying it first
    Kvm,
    /// Emulation
    Tcg,
}

/// `demo`
#[derive(Args)]
pub struct DemoArgs {
    /// How the guest is made and run.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Keep the disk image
    #[arg(long)]
    pub keep: bool,
}

/// `test`
#[derive(Args)]
pub struct TestArgs {
    /// How the guest is made and run.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Only Rust tests and guest cases whose name contains this (may be repeated; other checks are left out)
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Vec<String>,
    /// Only one half
    #[arg(long, value_enum)]
    pub only: Option<Half>,
    /// Run the guest cases that take minutes, too
    #[arg(long)]
    pub long: bool,
    /// Keep the disk images of cases that passed, too
    #[arg(long)]
    pub keep: bool,
}

/// `fuzz`
#[derive(Args)]
pub struct FuzzArgs {
    /// Only this target (may be repeated) [default: all]
    #[arg(long, value_name = "NAME")]
    pub target: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Afterwards add to the corpus in the repository what reaches code that it does not reach yet
    #[arg(long)]
    pub merge: bool,
}

/// The halves of `test`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Half {
    /// Formatting, lints, dependency checks, Rust tests
    Rust,
    /// Module build and guest cases
    Guest,
}

/// `shell`
#[derive(Args)]
pub struct ShellArgs {
    /// How the guest is made and run.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The disk image (made if missing; default target/shell.img)
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// Size of a new disk image
    #[arg(long, default_value = "1G")]
    pub size: String,
    /// Options for the device program, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// `fstests`
#[derive(Args)]
pub struct FstestsArgs {
    /// How the guest is made and run.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Your checkout of xfstests; it is copied, never changed
    #[arg(long, value_name = "DIR")]
    pub fstests: PathBuf,
    /// Your checkout of fscryptctl (1.3.0 or newer), which the tests of hardware-wrapped keys need
    #[arg(long, value_name = "DIR")]
    pub fscryptctl: Option<PathBuf>,
    /// Run this group of tests (may be repeated; default encrypt, unless tests are named)
    #[arg(long, short, value_name = "GROUP")]
    pub group: Vec<String>,
    /// The file system under test
    #[arg(long, value_enum, default_value_t)]
    pub fs: FileSystem,
    /// Give up when a test runs for longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    pub test_timeout: u64,
    /// Keep the disk images of a run without failures, too
    #[arg(long)]
    pub keep: bool,
    /// Single tests, such as generic/368
    #[arg(value_name = "TEST", conflicts_with = "group")]
    pub tests: Vec<String>,
    /// Options for both device programs, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// The file systems that can encrypt inline.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// ext4
    #[default]
    Ext4,
    /// f2fs; Debian's cloud kernel has none
    F2fs,
}

/// `bench`
#[derive(Args)]
pub struct BenchArgs {
    /// One or two minutes: the most important workloads and settings, two rounds
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Every workload, setting and client, five rounds
    #[arg(long)]
    pub full: bool,
    /// Only what matches: WORKLOAD/CONTENDER, each a part of a name, or one word for either (may be repeated)
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Vec<String>,
    /// How often everything is measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of one measurement
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Where the disk image lies [default: tmpfs; both with --full]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub image: Option<BenchImage>,
    /// Size of the disk image
    #[arg(long, default_value = "1G")]
    pub size: String,
    /// The contender that the others are compared with
    #[arg(long, value_name = "NAME", default_value = "qsd-uring")]
    pub baseline: String,
    /// List what would be measured and stop
    #[arg(long)]
    pub list: bool,
    /// The Debian mirror to take packages from (default: apt's own on Debian, else DEBIAN_MIRROR)
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// `compare`
#[derive(Args, Clone, Default)]
pub struct CompareArgs {
    /// How the guest is made and run.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Three minutes under emulation: the most important targets and loads, two rounds
    #[arg(long)]
    pub quick: bool,
    /// Only what matches: LOAD/TARGET, each a part of a name, or one word for either (may be repeated)
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Vec<String>,
    /// How often everything is measured [default: 3, 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of one measurement [default: 1.5, 0.8 with --quick]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// List what would be measured and stop
    #[arg(long)]
    pub list: bool,
    /// Where the report goes [default: target/compare]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Options for the device program, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// Where the benchmark's image lies.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchImage {
    /// In memory, in /dev/shm
    Tmpfs,
    /// In target/bench
    Disk,
    /// One after the other
    Both,
}
