// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options of the device, and what they mean.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use super::ctl::Switch;
use scattered_xts::Implementation;
use vhost_user_blk_crypto::device::{DeviceConfig, seg_max};
use vhost_user_blk_crypto::engine::EngineConfig;
use vhost_user_blk_crypto::personality::{KeyType, KeysOnReset, Personality, limits};
use vhost_user_blk_crypto::ufs::{DUN_BYTES, MOST_LUNS, MOST_SLOTS, PATIENCE};
use vhost_user_blk_crypto::vhost::WorkerConfig;

use super::access::{parse_group, parse_mode};
use super::faults::FaultArgs;
use super::number;
use super::personality::PersonalityArgs;
use super::values::{AioMode, CacheMode, Cpus, DiscardMode, SandboxMode, parse_cpus, parse_crypto_engine};

/// A vhost-user-blk device with inline encryption, like that of a UFS or eMMC host controller.
///
/// The guest programs AES-256-XTS keys into keyslots and names a keyslot and a data unit number with each request; the
/// device encrypts and decrypts on the way to and from the image. See README.md for how to attach it to QEMU.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Args {
    /// Listen for frontends at this Unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Permissions of that socket, in octal [default: 600; 660 with --socket-group]
    #[arg(long, value_name = "MODE", value_parser = parse_mode, requires = "socket_path")]
    pub socket_mode: Option<u32>,

    /// Group of that socket, a name or a number: for a QEMU that another user runs
    #[arg(long, value_name = "GROUP", value_parser = parse_group, requires = "socket_path")]
    pub socket_group: Option<u32>,

    /// Use this inherited socket, listening or connected (systemd socket activation needs no option)
    #[arg(long, value_name = "N")]
    pub fd: Option<RawFd>,

    /// Raw image or block device to serve; with --ufs may be repeated, for one logical unit (LUN) each, 8 at most
    #[arg(long, value_name = "PATH", required_unless_present = "blk_ram", conflicts_with = "blk_ram")]
    pub blk_file: Vec<PathBuf>,

    /// Serve a memory disk of this size, lost at exit; for measurements without storage. K, M, G: powers of 1024
    #[arg(long, value_name = "SIZE", value_parser = number::nonzero_size)]
    pub blk_ram: Option<u64>,

    /// Refuse writes; the image may be in use by another device
    #[arg(long)]
    pub read_only: bool,

    /// Print the capabilities of this program as JSON and exit (QEMU's backend program conventions)
    #[arg(long)]
    pub print_capabilities: bool,

    /// AES-XTS implementation: auto (the fastest on this CPU), vaes-512, vaes-256, aes-ni, armv8 or portable
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = parse_crypto_engine)]
    pub crypto_engine: Implementation,

    /// File of the long-term wrapping key, created if missing [default: a fresh key, lost at exit]
    #[arg(long, value_name = "FILE")]
    pub wrapping_key_file: Option<PathBuf>,

    /// Without keyslots: cache unwrapped hardware-wrapped keys for one second, for further requests that carry them
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    pub cache_unwrapped: Switch,

    /// Be a UFS host controller (UFSHCI 3.1) behind vfio-user, in place of a vhost-user-blk device: for the kernel's own
    /// driver, ufshcd. QEMU attaches it with vfio-user-pci
    #[arg(long, conflicts_with_all = ["in_band", "access_platform", "workers", "queues", "wrapping_key_file"])]
    pub ufs: bool,

    /// Let the driver use keyslots by commands on its request queues, for frontends that do not pass inline encryption
    /// through (QEMU's vhost-user-blk-pci)
    #[arg(long)]
    pub in_band: bool,

    /// Have the driver use its DMA API (VIRTIO_F_ACCESS_PLATFORM), for guests that need bounce buffers, and to test drivers. There must be
    /// no IOMMU in the guest
    #[arg(long)]
    pub access_platform: bool,

    /// Threads that serve the request queues [default: one per CPU, at most one per queue]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=255))]
    pub workers: Option<u16>,

    /// Logical block size in bytes, a power of two from 512 to 65536 [default: 512; 4096 with --ufs]
    #[arg(long, value_name = "BYTES")]
    pub logical_block_size: Option<u32>,

    /// Physical block size in bytes, a power of two, at least the logical one [default: the logical one]
    #[arg(long, value_name = "BYTES")]
    pub physical_block_size: Option<u32>,

    /// CPUs for the worker threads, one each: a list such as 0,2-3 [default: any]. With --ufs there is one worker
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    pub cpus: Option<Cpus>,

    /// Longest time in microseconds that a worker polls for work before it sleeps; it polls less while
    /// work comes later than that. 0: no polling
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub poll_us: u32,

    /// writeback: writes are durable after a flush; writethrough: when they complete; none: writeback that bypasses
    /// the host's page cache (O_DIRECT)
    #[arg(long, value_enum, value_name = "MODE", default_value_t = CacheMode::Writeback)]
    pub cache: CacheMode,

    /// How the device accesses the image: auto (io_uring for block devices and --cache none, otherwise sync), sync
    /// (system calls in the worker), io_uring, threads
    #[arg(long, value_enum, value_name = "HOW", default_value_t = AioMode::Auto)]
    pub aio: AioMode,

    /// Offer discard to the guest; auto: if the image can free space
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = DiscardMode::Auto)]
    pub discard: DiscardMode,

    /// Exit when the first frontend disconnects, instead of waiting for the next
    #[arg(long)]
    pub exit_on_disconnect: bool,

    /// Write the device's counters to this file as JSON when a frontend disconnects and at exit
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,

    /// Serve queries and commands at this Unix socket; see the subcommand ctl
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Write a record of each request to this file; see the subcommand ctl trace dump
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Record latency histograms; this reads the clock a few times per request
    #[arg(long)]
    pub latency: bool,

    /// Once everything is open, drop what serving does not need (capabilities, files, system calls); on: as far as the
    /// system supports it; require: exit if it lacks a part
    #[arg(long, value_enum, value_name = "MODE", default_value_t = SandboxMode::On)]
    pub sandbox: SandboxMode,

    /// What to log on standard error: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value_t = log::LevelFilter::Info)]
    pub log_level: log::LevelFilter,

    #[command(flatten)]
    pub engine: PersonalityArgs,

    #[command(flatten)]
    pub faults: FaultArgs,
}

impl Args {
    /// The device that the options ask for, with this engine.
    pub fn device_config(&self, engine: &Personality) -> Result<DeviceConfig> {
        let args = self;
        let logical = args.logical_block_size.unwrap_or(if args.ufs { 4096 } else { 512 });
        let physical = args.physical_block_size.unwrap_or(logical);
        let block_size = 512..=65536;
        ensure!(
            logical.is_power_of_two() && block_size.contains(&logical),
            "--logical-block-size {logical} is not a power of two from 512 to 65536"
        );
        ensure!(
            physical.is_power_of_two() && block_size.contains(&physical),
            "--physical-block-size {physical} is not a power of two from 512 to 65536"
        );
        ensure!(
            physical >= logical,
            "--physical-block-size {physical} is less than --logical-block-size {logical}; make it at least as large"
        );
        let largest_unit = 1 << engine.data_unit_sizes.ilog2();
        ensure!(
            largest_unit >= logical,
            "no data unit of the engine holds a logical block of {logical} bytes; add a size from {logical} on to --data-unit-sizes"
        );
        ensure!(
            args.wrapping_key_file.is_none() || engine.takes(KeyType::Wrapped),
            "--wrapping-key-file is for hardware-wrapped keys; add --key-types raw,wrapped"
        );
        if args.ufs {
            check_ufs(engine)?;
        }
        let files = args.blk_file.len();
        ensure!(
            args.ufs || files <= 1,
            "--blk-file is given {files} times, and a virtio block device has one disk; start a device for each, or use --ufs"
        );
        ensure!(
            files <= MOST_LUNS,
            "--blk-file is given {files} times, and a UFS host controller has {MOST_LUNS} logical units at most"
        );
        Ok(DeviceConfig {
            engine: EngineConfig {
                keyslots: engine.keyslots,
                cache_unwrapped: args.cache_unwrapped == Switch::On,
                crypto_engine: args.crypto_engine,
                raw_keys: engine.takes(KeyType::Raw),
                data_unit_mask: engine.data_unit_sizes,
                max_dun_bytes: engine.max_dun_bytes,
                digests: engine.digests.clone(),
                logical_block_size: logical,
                serial: engine.serial.clone(),
                timing: engine.timing(),
            },
            // A doorbell register is one queue.
            num_queues: if args.ufs { 1 } else { engine.queues },
            queue_size: largest_queue(engine, args.engine.options.queue_depth.is_some()),
            seg_max: seg_max(engine.queue_depth, args.engine.options.queue_depth.is_some()),
            physical_block_size: physical,
            writeback: args.cache != CacheMode::Writethrough,
            keep_keys_on_reset: engine.keys_on_reset == KeysOnReset::Kept,
            in_band: args.in_band,
            access_platform: args.access_platform,
            ufs: args.ufs,
        })
    }
}

/// Whether the standard's crypto registers can tell of this engine.
fn check_ufs(engine: &Personality) -> Result<()> {
    ensure!(
        (1..=MOST_SLOTS).contains(&engine.keyslots),
        "--ufs has keyslots, from 1 to {MOST_SLOTS}; this engine has {}: choose another --personality or --keyslots",
        engine.keyslots
    );
    ensure!(
        engine.max_dun_bytes >= DUN_BYTES,
        "--ufs has data unit numbers of {DUN_BYTES} bytes, this engine of {}; use --max-dun-bytes {DUN_BYTES} or another --personality",
        engine.max_dun_bytes
    );
    ensure!(
        engine.takes(KeyType::Raw) && !engine.takes(KeyType::Wrapped),
        "--ufs takes raw keys alone: the standard has no hardware-wrapped keys; use --key-types raw"
    );
    ensure!(
        engine.keys_on_reset != KeysOnReset::Kept,
        "--ufs loses its keys in a reset, as the standard says; use --keys-on-reset lost"
    );
    let timing = engine.timing();
    ensure!(
        timing.program.max(timing.evict) < PATIENCE,
        "--ufs holds up accesses to registers while a keyslot changes, for {PATIENCE:?} at most: use a shorter --program-latency-us \
         and --evict-latency-us"
    );
    Ok(())
}

/// The maximum size of a queue. The queues of QEMU 10.0's vhost-user-blk-pci have 1024 entries, whatever its
/// `queue-size` says. So the device accepts 1024, unless the user or the personality asks for fewer.
fn largest_queue(engine: &Personality, asked: bool) -> u16 {
    let fewer = engine.queue_depth != Personality::default().queue_depth;
    if asked || fewer { engine.queue_depth } else { limits::LARGEST_QUEUE }
}

impl Args {
    /// How the device's threads behave. There are at most as many as queues: a thread without a queue would be idle.
    pub fn worker_config(&self, config: &DeviceConfig) -> WorkerConfig {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        let workers = self.workers.map_or(cpus, usize::from).min(config.num_queues.into());
        let poll = Duration::from_micros(self.poll_us.into());
        WorkerConfig { workers, poll, cpus: self.cpus.as_ref().map(|cpus| cpus.0.clone()).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    fn config(options: &[&str]) -> Result<DeviceConfig> {
        let args = ["device", "--socket-path", "s", "--blk-file", "b"].iter().chain(options);
        let args = Args::try_parse_from(args)?;
        args.device_config(&args.engine.resolve()?)
    }

    #[test]
    fn bad_combinations_say_what_to_change() {
        let error = |options: &[&str]| config(options).expect_err("must be refused").to_string();
        assert!(error(&["--logical-block-size", "1000"]).contains("power of two"));
        assert!(error(&["--logical-block-size", "4096", "--physical-block-size", "512"]).contains("at least as large"));
        assert!(error(&["--logical-block-size", "4096", "--data-unit-sizes", "512"]).contains("4096"));
        assert!(error(&["--wrapping-key-file", "f"]).contains("--key-types raw,wrapped"));
        assert!(error(&["--fd", "3"]).contains("cannot be used with"));
        assert!(error(&["--ufs", "--keyslots", "0"]).contains("from 1 to 256"));
        assert!(error(&["--ufs", "--personality", "emmc-cqhci"]).contains("--max-dun-bytes 8"));
        assert!(error(&["--ufs", "--key-types", "raw,wrapped"]).contains("--key-types raw"));
        assert!(error(&["--ufs", "--program-latency-us", "1000000"]).contains("1s at most"));
        assert!(error(&["--ufs", "--num-queues", "2"]).contains("cannot be used with"));
        assert!(error(&["--blk-file", "c"]).contains("use --ufs"));
        assert!(config(&["--ufs", "--blk-file", "c"]).is_ok());
        assert!(error(&[["--ufs"].as_slice(), &["--blk-file", "c"].repeat(8)].concat()).contains("8 logical units"));
    }

    #[test]
    fn engines_have_names_and_must_be_there() {
        let engine = |name: &str| config(&["--crypto-engine", name]).map(|config| config.engine.crypto_engine);
        assert_eq!(engine("auto").expect("auto"), Implementation::detect());
        assert!(engine("aes").expect_err("unknown").to_string().contains("portable; auto takes the first"));
        for one in Implementation::ALL {
            if one.is_available() {
                assert_eq!(engine(one.name()).expect("available"), one);
            } else {
                let error = engine(one.name()).expect_err("not available").to_string();
                assert!(error.contains(&format!("cannot run {one}: this CPU can run ")), "{error}");
            }
        }
    }

    /// By default, requests fit in QEMU's queues and the personality's; otherwise in the queues that the user asked
    /// for.
    #[test]
    fn segments_fit_in_the_queues() {
        let seg_max = |options: &[&str]| config(options).expect("valid").seg_max;
        assert_eq!((seg_max(&[]), seg_max(&["--personality", "ufs-3.1"])), (126, 29));
        for (size, segments) in [("4", 1), ("32", 29), ("128", 125), ("256", 253), ("1024", 1021)] {
            assert_eq!(seg_max(&["--queue-size", size]), segments, "{size}");
        }
    }

    /// QEMU 10.0 sets up rings of 1024 entries, whatever its options say.
    #[test]
    fn larger_queues_than_usual_are_served_unless_somebody_says_otherwise() {
        let largest = |options: &[&str]| config(options).expect("valid").queue_size;
        assert_eq!(largest(&[]), 1024);
        assert_eq!((largest(&["--queue-size", "256"]), largest(&["--personality", "ufs-3.1"])), (256, 32));
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = config(&[]).expect("defaults");
        let engine = &config.engine;
        assert_eq!((engine.keyslots, engine.data_unit_mask, engine.max_dun_bytes), (32, 0x1fe00, 16));
        assert_eq!((config.num_queues, config.queue_size, engine.logical_block_size), (64, 1024, 512));
        assert_eq!(config.seg_max, 126);
        let ufs = self::config(&["--ufs"]).expect("defaults");
        assert_eq!((ufs.num_queues, ufs.engine.logical_block_size, ufs.engine.keyslots), (1, 4096, 32));
        assert_eq!(engine.crypto_engine, Implementation::detect());
        assert!(engine.raw_keys);
        assert!(config.writeback);
    }
}
