// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program `vhost-user-blk-crypto`: options, image, device, frontends, signals; and the subcommands.

#![deny(unsafe_code)]

mod cli;
mod command;
mod named_files;
mod notify;
mod stats_file;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use cli::{Args, CacheMode, DiscardMode, Invocation, SandboxMode, output};
use named_files::NamedFiles;
use notify::Notify;
use stats_file::StatsFile;
use vhost_user_blk_crypto::control;
use vhost_user_blk_crypto::descriptors;
use vhost_user_blk_crypto::device::{Device, DeviceConfig, Resized};
use vhost_user_blk_crypto::disk::{Aio, Disk, OpenOptions};
use vhost_user_blk_crypto::personality::{KeyType, Personality};
use vhost_user_blk_crypto::ratelimit::RateLimit;
use vhost_user_blk_crypto::sandbox::Sandbox;
use vhost_user_blk_crypto::secret::forbid_core_dumps;
use vhost_user_blk_crypto::threads;
use vhost_user_blk_crypto::ufs;
use vhost_user_blk_crypto::vhost::{Listen, Server, Stop, most_descriptors};
use vhost_user_blk_crypto::wrapped::Wrapping;

fn main() -> ExitCode {
    survive_large_files();
    // This option overrides all others (QEMU's backend program conventions).
    if std::env::args_os().skip(1).any(|arg| arg == "--print-capabilities") {
        let capabilities = serde_json::json!({ "type": "block", "features": ["read-only", "blk-file"] });
        return output::print(&format!("{capabilities}\n"), ExitCode::SUCCESS);
    }
    // This option needs no image.
    if std::env::args_os().skip(1).any(|arg| arg == "--list-personalities") {
        return match cli::personality::list() {
            Ok(table) => output::print(&table, ExitCode::SUCCESS),
            Err(error) => {
                output::complain(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    let args = match cli::parse() {
        Invocation::Device(args) => args,
        Invocation::Tool(tool) => return command::run(&tool),
    };
    // virtio-queue logs what a driver does wrong each time that it does it. We say so ourselves, with a limit.
    env_logger::Builder::new()
        .filter_level(args.log_level)
        .filter_module("virtio_queue", log::LevelFilter::Off)
        .format(log_line)
        .init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes a write past the file size limit (ulimit -f, LimitFSIZE=) fail instead of ending the program.
fn survive_large_files() {
    // Nothing reads it: catching the signal is enough.
    let seen = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // It fails for signals that do not exist.
    let _ = signal_hook::flag::register(SIGXFSZ, seen);
}

fn log_line(out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>) -> std::io::Result<()> {
    writeln!(out, "vhost-user-blk-crypto: {}: {}", record.level().as_str().to_lowercase(), record.args())
}

fn run(args: &Args) -> Result<()> {
    // First: if nobody has passed the descriptor, its number must not become one of our own.
    let inherited = inherited(args)?;
    // Before the socket exists: whoever sees the socket may send a signal and expect a clean exit.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    descriptors::raise_limit();
    // Before there are keys.
    forbid_core_dumps().context("cannot turn core dumps off")?;
    // Files that this process creates are for their owner alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));

    let engine = args.engine.resolve()?;
    let config = args.device_config(&engine)?;
    let workers = args.worker_config(&config);
    let files = NamedFiles::of(args);
    files.check("--blk-file")?;
    let (disk, more_disks) = disks(args, &config)?;
    files.check("--wrapping-key-file")?;
    let wrapping = wrapping(args, &engine)?;
    // Before the frontend's socket exists: whoever sees that may use this one.
    let control = args.control.as_deref().map(control::Listener::at_path).transpose()?;
    let listen = inherited.map_or_else(|| listen(args), Ok)?;
    let notify = Notify::from_environment();
    files.check("--stats")?;
    let stats = args.stats.as_deref().map(StatsFile::open).transpose()?;
    files.check("--trace")?;
    let bytes = more_disks.iter().fold(disk.image().len(), |bytes, disk| bytes.saturating_add(disk.image().len()));
    let banner = banner(args, &disk, bytes, &engine, &config);
    let queues = config.num_queues;
    if config.keep_keys_on_reset && config.engine.keyslots > 0 {
        log::warn!(
            "keys survive a reset of the device: after a reboot the guest finds the keys of the previous boot in their slots; \
             the keys are lost when the frontend disconnects"
        );
    }
    let mut device = Device::new(config, wrapping, disk).context(
        "cannot lock the memory of the keyslots; raise the limit (ulimit -l, LimitMEMLOCK=) or use fewer --keyslots",
    )?;
    more_disks.into_iter().for_each(|disk| device.add_disk(disk));
    let device = Arc::new(device);

    args.faults.add_to(device.faults())?;
    let about = about(args, &engine.name, &device)?;
    let trace = args.trace.as_deref().map(std::path::absolute).transpose()?;
    let stop = Arc::new(Stop::new()?);
    descriptors::warn_of_need(most_descriptors(usize::from(queues) + 1, workers.workers));
    sandbox(args, &device, workers.workers, trace.as_deref())?;
    // Without the capabilities that the sandbox has taken away. Otherwise each frontend would be refused, later.
    check_locked_memory(args, &device, workers.workers)?;

    // Only the signal thread takes signals.
    threads::take_signals(false);
    // Enough arenas that workers seldom share one.
    threads::share_arenas(workers.workers + 2);
    // From here on there are threads, inside the sandbox.
    device.observer().set_latency(args.latency);
    if let Some(path) = &trace {
        device.observer().start_trace(path).with_context(|| cannot_trace(path))?;
    }
    // Dropped last: clients may query the device until it ends.
    let _control =
        control.map(|listener| control::ControlServer::start(listener, Arc::clone(&device), about)).transpose()?;
    // Telling the frontend takes seconds if it is silent. No other signal waits for that, nor does the exit.
    let (hang_up, hang_ups) = mpsc::sync_channel(1);
    threads::named("resize").spawn({
        let device = Arc::clone(&device);
        move || hang_ups.iter().for_each(|()| look_at_the_size(&device))
    })?;
    // It lives as long as the process: whatever hangs at the end, a signal ends it.
    threads::named("signals").spawn({
        let stop = Arc::clone(&stop);
        move || {
            threads::take_signals(true);
            let mut signals = signals.forever().filter(|&signal| {
                if signal == SIGHUP {
                    // If one is waiting already, that one will find the same size.
                    let _ = hang_up.try_send(());
                }
                signal != SIGHUP
            });
            if let Some(signal) = signals.next() {
                log::info!("signal {signal}: finishing requests in flight, then exiting (again to exit at once)");
                stop.request();
            }
            if let Some(signal) = signals.next() {
                log::error!("signal {signal}: exiting at once, requests in flight are lost");
                std::process::exit(1);
            }
        }
    })?;

    log::info!("{banner}");
    notify.ready();
    let disconnected = || {
        if let Some(Err(error)) = stats.as_ref().map(|stats| stats.write(&device)) {
            // A frontend may come and go as often as it likes.
            static LIMIT: RateLimit = RateLimit::new();
            if let Some(suppressed) = LIMIT.allow() {
                log::warn!("{error:#}{suppressed}");
            }
        }
    };
    let served = if args.ufs {
        ufs::Server::new(Arc::clone(&device), workers, stop, args.exit_on_disconnect).run(&listen, disconnected)
    } else {
        Server::new(Arc::clone(&device), workers, stop, args.exit_on_disconnect).run(&listen, disconnected)
    };
    notify.stopping();
    // Completed writes are on the disk before the exit status reports success.
    let flushed = device.flush().context("the image could not be flushed");
    let written = stats.map_or(Ok(()), |stats| stats.write(&device));
    if let Some(error) = device.observer().stop_trace().and_then(|trace| trace.error) {
        log::warn!("the trace is not complete: {error}");
    }
    served?;
    flushed?;
    written
}

/// Whether the memory that a frontend takes can be locked.
fn check_locked_memory(args: &Args, device: &Arc<Device>, workers: usize) -> Result<()> {
    device.engine().check_locked_memory(workers).context(
        "cannot lock the memory for keys that come with requests, 256 KiB for each worker; raise the limit (ulimit -l, \
         LimitMEMLOCK=) or use fewer --workers",
    )?;
    if args.ufs {
        ufs::Controller::new(device).context(
            "cannot lock the memory of the host controller's key registers, 16 KiB; raise the limit (ulimit -l, LimitMEMLOCK=) \
             or use fewer --keyslots",
        )?;
    }
    Ok(())
}

/// The disk, and the other logical units' of a UFS host controller.
fn disks(args: &Args, config: &DeviceConfig) -> Result<(Disk, Vec<Disk>)> {
    let mut files = args.blk_file.iter();
    let first = disk(args, config, files.next())?;
    Ok((first, files.map(|file| disk(args, config, Some(file))).collect::<Result<_>>()?))
}

/// Without a file: a memory disk.
fn disk(args: &Args, config: &DeviceConfig, file: Option<&PathBuf>) -> Result<Disk> {
    let options = OpenOptions {
        read_only: args.read_only,
        discard: args.discard != DiscardMode::Off,
        direct: args.cache == CacheMode::None,
        logical_block_size: config.engine.logical_block_size,
    };
    let image = match file {
        Some(path) => options.open(path)?,
        None => options.in_memory(args.blk_ram.unwrap_or_default())?,
    };
    if args.discard == DiscardMode::On && !image.can_discard() {
        let name = file.map_or_else(|| "a memory disk".into(), |path| path.display().to_string());
        bail!("{name} cannot free space for discard; use --discard auto or off");
    }
    Disk::new(image, args.aio.choice()).context("io_uring cannot be used here; use --aio threads or sync")
}

/// Handles SIGHUP.
fn look_at_the_size(device: &Device) {
    for lun in 0..device.engine().disks().count() {
        match device.resize_lun(lun, None) {
            Ok(Resized { reason: Some(reason), .. }) => {
                log::warn!("the frontend does not know of the new size: {reason}");
            }
            Ok(_) => {}
            Err(error) => log::warn!("the disk keeps its size: {error}"),
        }
    }
}

fn image_name(args: &Args) -> String {
    let names: Vec<_> = args.blk_file.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "a memory disk".into() } else { names.join(", ") }
}

fn wrapping(args: &Args, engine: &Personality) -> Result<Option<Wrapping>> {
    if !engine.takes(KeyType::Wrapped) {
        return Ok(None);
    }
    if args.wrapping_key_file.is_none() {
        log::warn!(
            "long-term wrapped keys become useless when this process ends; to keep them usable, give --wrapping-key-file"
        );
    }
    Ok(Some(Wrapping::new(args.wrapping_key_file.as_deref())?))
}

/// What the program adds to the control socket's `status`.
fn about(args: &Args, personality: &str, device: &Device) -> Result<serde_json::Value> {
    let paths: Vec<_> = args.blk_file.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
    // JSON strings are UTF-8.
    let mut paths = paths.iter().map(|path| serde_json::json!({ "path": path.to_string_lossy() })).peekable();
    let image = paths.peek().cloned().unwrap_or_else(|| serde_json::json!({ "path": null }));
    let mut about = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "front": if args.ufs { "ufs" } else { "vhost-user" },
        "engine": { "personality": personality },
        "image": image,
        "options": device.settings(),
    });
    if args.ufs {
        about["luns"] = paths.collect();
    }
    Ok(about)
}

fn cannot_trace(path: &Path) -> String {
    format!("cannot write a trace to {}", path.display())
}

fn inherited(args: &Args) -> Result<Option<Listen>> {
    let fd = match args.fd {
        None if args.socket_path.is_none() => Listen::activation_fd()?,
        fd => fd,
    };
    fd.map(Listen::inherited).transpose()
}

fn listen(args: &Args) -> Result<Listen> {
    match &args.socket_path {
        Some(path) => Listen::at_path(path, args.socket_access()),
        None => bail!("no socket for frontends; give --socket-path PATH, or --fd N with an inherited socket"),
    }
}

fn banner(args: &Args, disk: &Disk, bytes: u64, engine: &Personality, config: &DeviceConfig) -> String {
    if args.ufs {
        let socket = args.socket_path.as_ref().map_or_else(|| "...".into(), |path| path.display().to_string());
        return format!(
            "serving {} ({} MiB) as a UFS host controller with the engine {}: {} keyslots, AES-256-XTS by {}; attach with\n    \
             -device '{{\"driver\":\"vfio-user-pci\",\"socket\":{{\"type\":\"unix\",\"path\":\"{socket}\"}}}}'",
            image_name(args),
            bytes >> 20,
            engine.name,
            config.engine.keyslots,
            config.engine.crypto_engine,
        );
    }
    format!(
        "serving {} ({} MiB, {}) with the engine {}: {}, {} request queues and a control virtqueue of {} \
         entries, AES-256-XTS by {}; attach with\n    \
         -device vhost-user-test-device-pci,chardev=...,virtio-id=2,num_vqs={},vq_size={},config_size=104",
        image_name(args),
        bytes >> 20,
        if disk.image().is_in_memory() { "in memory" } else { disk.aio().name() },
        engine.name,
        match config.engine.keyslots {
            0 => "no keyslots, keys come with the requests".into(),
            slots => format!("{slots} keyslots"),
        },
        config.num_queues,
        engine.queue_depth,
        config.engine.crypto_engine,
        config.num_queues + 1,
        engine.queue_depth,
    )
}

/// Drops what serving frontends does not need. All else must be open, and no other thread may exist.
fn sandbox(args: &Args, device: &Device, workers: usize, trace: Option<&Path>) -> Result<()> {
    if args.sandbox == SandboxMode::None {
        log::warn!("the sandbox is off: an attacker who exploits a bug in this program gets all rights of its user");
        return Ok(());
    }
    device.observer().only_trace_to(trace).with_context(|| cannot_trace(trace.unwrap_or(Path::new(""))))?;
    device.prepare(workers).context("io_uring cannot be used here; use --aio threads or sync")?;
    let mut disks = device.engine().disks();
    let mut sandbox = Sandbox::new().io_uring(disks.any(|disk| disk.aio() == Aio::IoUring));
    for path in [&args.socket_path, &args.control].into_iter().flatten() {
        sandbox = sandbox.remove_file(path);
    }
    let missing = sandbox.apply().context("cannot start the sandbox; use --sandbox none to run without it")?;
    for part in &missing {
        log::warn!("the sandbox lacks {part}");
    }
    if args.sandbox == SandboxMode::Require && !missing.is_empty() {
        bail!("the sandbox is not complete, and --sandbox require was given; use --sandbox on to accept that");
    }
    Ok(())
}
