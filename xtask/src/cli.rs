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
    /// Boot a guest with the device, encrypt files natively, verify the image, and print a short report
    Demo(DemoArgs),
    /// Run all checks: formatting, lints, Rust tests, the build of the module, guest cases
    Test(TestArgs),
    /// Boot the same guest with a root shell on the serial console
    Shell(ShellArgs),
    /// Run tests from your checkout of xfstests on two disks of the device
    Fstests(FstestsArgs),
    /// Run the fuzz targets, two at a time
    Fuzz(FuzzArgs),
    /// Run the code with `unsafe` under the address sanitizer and Miri, and the keyslots under a scheduler that controls the
    /// order of threads; takes minutes
    Miri,
    /// Change the device's core in many small ways with cargo-mutants, and list the changes that no test notices
    Mutants(MutantsArgs),
    /// Compare the device's speed with qemu-storage-daemon's, in one interleaved run
    Bench(BenchArgs),
    /// Compare encryption by the device with encryption by the guest's CPU, in one guest, and write a report
    Compare(CompareArgs),
    /// Try btrfs on the device: what the kernel says, what the device counts, checksums and ciphertext on the image, key pressure
    Btrfs(BtrfsArgs),
    /// Install and build everything that the other commands need, without running anything
    Setup(GuestArgs),
    /// Build a kernel with lockdep, KASAN or KCSAN, UBSAN, DMA and fault injection checks, which --debug-kernel then boots
    DebugKernel(DebugKernelArgs),
    /// Make what others install, in target/dist: static programs for x86-64 and Arm, Debian packages, SHA-256 sums
    Dist(DistArgs),
    /// Start the device and print QEMU's options for it: vng --qemu-opts="$(cargo xtask vng-args)"
    VngArgs(VngArgs),
    /// Make the documents a book in target/book, and look for dead links; needs mdbook
    Book,
    /// Regenerate the manual pages in `man/`
    Man,
    /// Delete the cache: everything downloaded and built outside `target/`
    CleanCache,
}

/// How to make and run the guest; all commands that boot one have these options.
#[derive(Args, Clone, Default)]
pub struct GuestArgs {
    /// How to run the guest's CPU
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub accel: Accel,
    /// Use this QEMU (10.1 or newer, with vhost-user-test-device-pci) [default: the installed one if it fits, else Debian's]
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<PathBuf>,
    /// Boot this kernel (a bzImage) instead of Debian's
    #[arg(long, value_name = "BZIMAGE", requires = "kdir")]
    pub kernel: Option<PathBuf>,
    /// The build tree of that kernel: xtask reads its .config and builds the module against it
    #[arg(long, value_name = "BUILD_TREE", requires = "kernel")]
    pub kdir: Option<PathBuf>,
    /// Do not build the module: the kernel has the driver built in (also detected from the build tree's .config)
    #[arg(long, requires = "kernel")]
    pub no_module: bool,
    /// Boot a debug kernel (see `cargo xtask debug-kernel`) instead of Debian's; guests are several times slower
    #[arg(long, value_enum, value_name = "WHICH", num_args = 0..=1, require_equals = true,
        default_missing_value = "kasan", conflicts_with = "kernel")]
    pub debug_kernel: Option<DebugKernel>,
    /// The Debian mirror for packages [default: $DEBIAN_MIRROR, else on Debian the mirror that apt uses]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

impl GuestArgs {
    /// The same guest, but a user's own kernel need not know our driver.
    pub fn without_our_driver(&self) -> Self {
        Self { no_module: self.kernel.is_some(), ..self.clone() }
    }
}

/// The debug kernels.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DebugKernel {
    /// KASAN finds wrong accesses to memory
    Kasan,
    /// KCSAN finds data races
    Kcsan,
}

/// The choice of accelerator.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if a test boot succeeds, otherwise TCG
    #[default]
    Auto,
    /// KVM, without a test boot
    Kvm,
    /// QEMU's emulation
    Tcg,
}

/// `demo`
#[derive(Args)]
pub struct DemoArgs {
    /// How to make and run the guest.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The file system: ext4, or btrfs, whose encryption needs a kernel of your own
    #[arg(long, value_enum, default_value_t)]
    pub fs: DemoFs,
    /// Attach the disk as a UFS host controller: the kernel's own driver, ufshcd, encrypts with it
    #[arg(long)]
    pub ufs: bool,
    /// Keep the disk image
    #[arg(long)]
    pub keep: bool,
}

/// The file systems of the demo.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DemoFs {
    /// ext4
    #[default]
    Ext4,
    /// btrfs, as `cargo xtask btrfs` without the loads
    Btrfs,
}

/// `test`
#[derive(Args)]
pub struct TestArgs {
    /// How to make and run the guest.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Run only Rust tests and guest cases whose name contains this, and no other checks (may be repeated)
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Vec<String>,
    /// Run only one half
    #[arg(long, value_enum)]
    pub only: Option<Half>,
    /// Run only what can break by the changes since this branch has left REVISION, committed or not
    #[arg(long, value_name = "REVISION", num_args = 0..=1, require_equals = true, default_missing_value = "main",
        conflicts_with_all = ["filter", "only"])]
    pub changed: Option<String>,
    /// Guest cases that run at a time [default: 2, or 1 on a machine with one CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub jobs: Option<u8>,
    /// Also run what takes minutes: some guest cases, the fuzz targets, builds of the driver for other kernels
    #[arg(long)]
    pub long: bool,
    /// Also keep the disk images of cases that passed
    #[arg(long)]
    pub keep: bool,
}

/// `fuzz`
#[derive(Args)]
pub struct FuzzArgs {
    /// Run only this target (may be repeated) [default: all]
    #[arg(long, value_name = "NAME")]
    pub target: Vec<String>,
    /// Seconds for which each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Afterwards, add inputs to the corpus in the repository that reach code it does not reach yet
    #[arg(long)]
    pub merge: bool,
}

/// `dist`
#[derive(Args)]
pub struct DistArgs {
    /// Install all of it in clean Debian trees, and boot a guest with it
    #[arg(long)]
    pub check: bool,
    /// The Debian mirror for packages [default: $DEBIAN_MIRROR, else on Debian the mirror that apt uses]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// `mutants`
#[derive(Args)]
pub struct MutantsArgs {
    /// Change only this part (may be repeated) [default: all]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(crate::mutants::PARTS))]
    pub part: Vec<String>,
    /// Stop after this time; the changes come in random order
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub minutes: u64,
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
    /// How to make and run the guest.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Attach the disk as a UFS host controller: the kernel's own driver, ufshcd, encrypts with it
    #[arg(long)]
    pub ufs: bool,
    /// Also load this, which Debian's kernel lacks; built the first time (may be repeated)
    #[arg(long, value_name = "PART")]
    pub with: Vec<KernelPart>,
    /// The disk image, created if missing [default: target/shell.img]
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// Size of a new disk image
    #[arg(long, default_value = "1G")]
    pub size: String,
    /// Options for the device, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// What else a shell's kernel can have.
#[derive(Clone, Copy, ValueEnum)]
pub enum KernelPart {
    /// The file system
    F2fs,
    /// The device-mapper target that encrypts with the device's keyslots
    DmInlinecrypt,
    /// The cipher for file names
    Hctr2,
}

impl KernelPart {
    /// Its name in the kernel's configuration.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::F2fs => "CONFIG_F2FS_FS",
            Self::DmInlinecrypt => "CONFIG_DM_INLINECRYPT",
            Self::Hctr2 => "CONFIG_CRYPTO_HCTR2",
        }
    }
}

/// `vng-args`
#[derive(Args)]
pub struct VngArgs {
    /// Your kernel's build tree: also build the guest's driver against it, unless the kernel has it built in
    #[arg(long, value_name = "BUILD_TREE")]
    pub kdir: Option<PathBuf>,
    /// The QEMU that vng runs
    #[arg(long, value_name = "PROGRAM", default_value = crate::qemu::PROGRAM)]
    pub qemu: PathBuf,
    /// Attach the disk by vhost-user-blk-pci, with in-band access [default: if QEMU is older than 10.1]
    #[arg(long)]
    pub in_band: bool,
    /// Print options for shared memory of this size, too: vng has its own only when it uses virtiofsd
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// The disk image, created if missing [default: target/vng/disk.img]
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// Size of a new disk image
    #[arg(long, default_value = "1G")]
    pub size: String,
    /// End the device of an earlier call
    #[arg(long, exclusive = true)]
    pub stop: bool,
    /// Options for the device, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// `fstests`
#[derive(Args)]
pub struct FstestsArgs {
    /// How to make and run the guest.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Your checkout of xfstests; xtask builds a copy and never changes it
    #[arg(long, value_name = "DIR")]
    pub fstests: PathBuf,
    /// Your checkout of fscryptctl (1.3.0 or newer); tests of hardware-wrapped keys need it
    #[arg(long, value_name = "DIR")]
    pub fscryptctl: Option<PathBuf>,
    /// Run this group of tests (may be repeated) [default: encrypt, unless you name tests]
    #[arg(long, short, value_name = "GROUP")]
    pub group: Vec<String>,
    /// The file system under test
    #[arg(long, value_enum, default_value_t)]
    pub fs: FileSystem,
    /// Both disks are logical units of a UFS host controller: the kernel's own driver, ufshcd, encrypts with it
    #[arg(long)]
    pub ufs: bool,
    /// Stop when a test runs for longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    pub test_timeout: u64,
    /// Also keep the disk images of a run without failures
    #[arg(long)]
    pub keep: bool,
    /// Single tests, such as generic/368
    #[arg(value_name = "TEST", conflicts_with = "group")]
    pub tests: Vec<String>,
    /// Options for both devices, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// The file systems that can encrypt inline.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// ext4
    #[default]
    Ext4,
    /// f2fs
    F2fs,
    /// btrfs, whose encryption no kernel of kernel.org has yet
    Btrfs,
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
    /// Measure only what matches WORKLOAD/CONTENDER, where each is a part of a name, or one word for either (may be
    /// repeated)
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Vec<String>,
    /// Number of rounds: everything is measured once in each [default: 3, 2 with --quick, 5 with --full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of one measurement [default: 0.5, 0.3 with --quick]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Where to put the disk image [default: tmpfs; both with --full]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub image: Option<BenchImage>,
    /// Size of the disk image
    #[arg(long, default_value = "1G")]
    pub size: String,
    /// The contender to compare the others with
    #[arg(long, value_name = "NAME", default_value = "qsd-uring")]
    pub baseline: String,
    /// List what would be measured, and exit
    #[arg(long)]
    pub list: bool,
    /// The Debian mirror for packages [default: $DEBIAN_MIRROR, else on Debian the mirror that apt uses]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// `compare`
#[derive(Args, Clone, Default)]
pub struct CompareArgs {
    /// How to make and run the guest.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Three minutes under emulation: the most important targets and loads, two rounds
    #[arg(long)]
    pub quick: bool,
    /// Measure only what matches LOAD/TARGET, where each is a part of a name, or one word for either (may be repeated)
    #[arg(long, value_name = "SUBSTRING")]
    pub filter: Vec<String>,
    /// Number of rounds: everything is measured once in each [default: 3, 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of one measurement [default: 1.5, 0.8 with --quick]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// List what would be measured, and exit
    #[arg(long)]
    pub list: bool,
    /// Directory for the report [default: target/compare]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Options for the device, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// `btrfs`
#[derive(Args)]
pub struct BtrfsArgs {
    /// How to make and run the guest.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Options for the devices, after `--`
    #[arg(last = true)]
    pub device: Vec<String>,
}

/// `debug-kernel`
#[derive(Args)]
pub struct DebugKernelArgs {
    /// KCSAN in place of KASAN
    #[arg(long)]
    pub kcsan: bool,
    /// The Debian mirror for packages [default: $DEBIAN_MIRROR, else on Debian the mirror that apt uses]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// Where the benchmark's image is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchImage {
    /// In memory, in /dev/shm
    Tmpfs,
    /// In target/bench
    Disk,
    /// One after the other
    Both,
}
