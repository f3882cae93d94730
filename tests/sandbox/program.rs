// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program itself: what /proc says about it, and that it works with every way to the disk.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libtest_mimic::Trial;
use rustix::thread::CapabilitySet;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::common::*;
use crate::device::{DISK, Device, controlled, ctl, exercise, obstacle};

fn what_the_system_says() {
    let mut device = Device::start(&["--sandbox", "require"], |_| {});
    let guest = device.guest();
    for (name, value) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        let found = device.status(name);
        // The main thread, the one for signals, and workers.
        assert!(found.len() > 3 && found.iter().all(|line| line == value), "{name}: {found:?}");
    }
    // One thread gets signals from outside. A thread's own faults are delivered to it. While a thread is created, all
    // signals are blocked.
    let has = |mask: u64, signal: i32| mask & 1 << (signal - 1) != 0;
    device.wait(|device| {
        device.status("Name").into_iter().zip(device.status("SigBlk")).all(|(name, blocked)| {
            let blocked = u64::from_str_radix(&blocked, 16).expect("a mask");
            let outside = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGCHLD, libc::SIGALRM];
            outside.iter().all(|&signal| has(blocked, signal) == (name != "signals"))
                && ![libc::SIGBUS, libc::SIGSEGV, libc::SIGSYS].iter().any(|&signal| has(blocked, signal))
        })
    });
    if rustix::process::geteuid().is_root() {
        assert!(device.status("CapBnd").iter().all(|line| line == "0000000000000000"));
    }
    for name in ["socket", "stats", "wrapping-key"] {
        let mode = std::fs::metadata(device.path(name)).expect("made").mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}: {mode:o}");
    }
    drop(guest);
    device.finish();

    let device = Device::start(&["--sandbox", "none"], |_| {});
    assert!(device.status("Seccomp").iter().all(|line| line == "0"));
    assert!(device.log().contains("the sandbox is off"), "{}", device.log());
    device.finish();
}

/// Makes the child run as on a kernel without this system call.
fn without(command: &mut Command, call: libc::c_long) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("CPU");
    let errno = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new([(call, vec![])].into(), SeccompAction::Allow, errno, arch).expect("filter");
    let program = BpfProgram::try_from(filter).expect("filter");
    // SAFETY: installing a filter that is there already is two system calls, without allocation.
    unsafe {
        command.pre_exec(move || seccompiler::apply_filter(&program).map_err(|_| std::io::ErrorKind::Other.into()))
    };
}

fn parts_that_the_kernel_lacks() {
    for (call, name, seccomp) in
        [(libc::SYS_landlock_create_ruleset, "Landlock", "2"), (libc::SYS_seccomp, "seccomp", "2")]
    {
        let device = Device::start(&[], |command| without(command, call));
        assert!(device.log().contains(&format!("the sandbox lacks {name}")), "{}", device.log());
        assert!(device.status("Seccomp").iter().all(|line| line == seccomp));
        exercise(&mut device.guest(), true);
        device.finish();

        let mut device = Device::start(&["--sandbox", "require"], |command| without(command, call));
        device.wait(Device::exited);
        assert_eq!(device.child.wait().expect("wait").code(), Some(1));
        assert!(device.log().contains("--sandbox require"), "{}", device.log());
        assert!(!device.path("socket").exists());
    }
}

/// Helper threads replace io_uring if one of its system calls is not available, unless the user asked for io_uring.
fn io_uring_is_forbidden() {
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        let device = Device::start(&["--sandbox", "require", "--cache", "none"], |command| without(command, call));
        assert!(device.log().contains("helper threads are used instead"), "{}", device.log());
        exercise(&mut device.guest(), true);
        device.finish();
        let mut device = Device::start(&["--aio", "io_uring"], |command| without(command, call));
        device.wait(Device::exited);
        assert_eq!(device.child.wait().expect("wait").code(), Some(1));
        assert!(device.log().contains("use --aio threads or sync"), "{}", device.log());
    }
}

fn all_requests(options: &[&str]) {
    let device = Device::start(&[&["--sandbox", "require"], options].concat(), |_| {});
    for _ in 0..3 {
        // A reconnect creates new workers and rings.
        exercise(&mut device.guest(), !options.contains(&"--blk-ram"));
    }
    let counters = device.finish();
    assert_eq!(counters["wrapped_keys"]["generate"], 3);
    assert_eq!(counters["requests"]["flush"], 3);
}

fn control_socket_and_trace() {
    let device = controlled(|directory| vec!["--trace".into(), directory.join("trace").display().to_string()]);
    let [trace, other] = ["trace", "other"].map(|name| device.path(name).display().to_string());
    let mut guest = device.guest();
    exercise(&mut guest, true);
    // All threads, those of the control socket and of the trace, too.
    let names = device.status("Name");
    for name in ["control", "trace", "signals", "resize"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    assert!(device.status("Seccomp").iter().all(|line| line == "2"), "every thread is in the sandbox");
    for command in [&["status"][..], &["stats"], &["keyslots", "--all"], &["latency", "on"], &["top", "--once"]] {
        let (code, text) = ctl(&device, command);
        assert_eq!(code, Some(0), "{command:?}: {text}");
    }
    // Another file cannot be opened, and the trace goes on.
    let (code, text) = ctl(&device, &["trace", "on", &other]);
    assert!(code == Some(2) && text.contains("--sandbox none") && text.contains(&trace), "{text}");
    assert!(!device.path("other").exists());
    let (code, text) = ctl(&device, &["trace", "dump"]);
    assert!(code == Some(0) && text.lines().count() > 20, "{text}");
    // The trace file of the command line can be stopped and started again.
    assert_eq!(ctl(&device, &["trace", "off"]).0, Some(0));
    assert_eq!(ctl(&device, &["trace", "on", &trace]).0, Some(0));
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    let (_, text) = ctl(&device, &["trace", "dump", "--format", "jsonl"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    for name in ["control", "trace"] {
        let mode = std::fs::metadata(device.path(name)).expect("made").mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}: {mode:o}");
    }
    // A file that was removed.
    std::fs::remove_file(&trace).expect("trace");
    let (code, text) = ctl(&device, &["trace", "on", &trace]);
    assert!(code == Some(2) && text.contains("was removed"), "{text}");
    drop(guest);
    device.finish();
}

fn no_trace_was_named() {
    let device = controlled(|_| Vec::new());
    let path = device.path("trace").display().to_string();
    let (code, text) = ctl(&device, &["trace", "on", &path]);
    assert!(code == Some(2) && text.contains("--trace") && text.contains("--sandbox none"), "{text}");
    device.finish();
}

/// A mapped image, as on tmpfs, is truncated: the device handles SIGBUS in the sandbox, too, and the request fails.
fn truncated_image() {
    let directory = tempfile::TempDir::new_in("/dev/shm").expect("tmpfs");
    let device = Device::start_in(directory, &["--sandbox", "require", "--aio", "sync"], |_| {});
    let mut guest = device.guest();
    guest.request(0, &write_request(0, &[1; 4096]), 1).assert_only_status(OK);
    assert_eq!(guest.request(0, &header(IN, 8192), 4096 + 1).status, OK);
    File::options().write(true).open(device.path("image")).expect("image").set_len(4096).expect("truncated");
    for _ in 0..2 {
        assert_eq!(guest.request(0, &header(IN, 8192), 4096 + 1).status, IOERR);
    }
    assert_eq!(guest.request(0, &header(IN, 0), 4096 + 1).status, OK);
    drop(guest);
    device.finish();
}

/// For another user's file that we may not write, the kernel's mincore(2) claims that all pages are resident. The
/// device does not rely on that, so holes stay holes.
fn image_of_somebody_else() {
    let directory = tempfile::TempDir::new_in("/dev/shm").expect("tmpfs");
    let image = directory.path().join("image");
    File::create(&image).expect("image");
    std::fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("mode");
    std::os::unix::fs::chown(&image, Some(65534), None).expect("owner");
    let device = Device::start_in(directory, &["--sandbox", "require", "--read-only"], |_| {});
    let mut guest = device.guest();
    for sector in (0..DISK / 512).step_by(1024) {
        let answer = guest.request(0, &header(IN, sector), (512 << 10) + 1);
        assert!(answer.status == OK && answer.data.iter().all(|&byte| byte == 0));
    }
    assert_eq!(std::fs::metadata(image).expect("image").blocks(), 0);
    drop(guest);
    device.finish();
}

/// A limit of the file size causes an error, and does not kill the device.
fn file_size_limit(options: &[&str]) {
    const LIMIT: u64 = 4 << 20;
    let device = Device::start(&[&["--sandbox", "require"], options].concat(), |command| {
        let limit = rustix::process::Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
        // SAFETY: it is one system call.
        unsafe { command.pre_exec(move || Ok(rustix::process::setrlimit(rustix::process::Resource::Fsize, limit)?)) };
    });
    let mut guest = device.guest();
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
    let data = pattern(1, 16 << 10);
    let beyond = LIMIT / 512;
    for _ in 0..3 {
        // Encrypted and plain.
        guest.request(0, &crypto_write(beyond, 0, [0; 4], &data), 1).assert_only_status(IOERR);
        guest.request(1, &write_request(beyond + 8, &data), 1).assert_only_status(IOERR);
        // A write across the limit.
        guest.request(1, &write_request(beyond - 16, &data), 1).assert_only_status(IOERR);
        guest.request(0, &write_request(beyond - 32, &data), 1).assert_only_status(OK);
        assert!(guest.request(1, &header(IN, beyond - 32), data.len() + 1).data == data);
    }
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    drop(guest);
    device.finish();
}

/// A device with this limit of locked memory, and without a capability that would lift it.
fn start_with_limit(kib: u64, without: CapabilitySet, options: &[&str]) -> Device {
    let directory = tempfile::TempDir::new().expect("directory");
    let control = directory.path().join("control").display().to_string();
    let options = [&["--sandbox", "require", "--control", &control], options].concat();
    Device::start_in(directory, &options, |command| {
        let limit = rustix::process::Rlimit { current: Some(kib << 10), maximum: Some(kib << 10) };
        // SAFETY: these are two system calls.
        unsafe {
            command.pre_exec(move || {
                if rustix::process::geteuid().is_root() {
                    rustix::thread::remove_capability_from_bounding_set(without)?;
                }
                Ok(rustix::process::setrlimit(rustix::process::Resource::Memlock, limit)?)
            })
        };
    })
}

/// What a frontend will need is locked at the start, as the sandbox allows it, or the device does not start.
fn memory_for_frontends() {
    // The device can lock what it likes until the sandbox takes this capability, and cannot raise the limit.
    let mut device = start_with_limit(128, CapabilitySet::SYS_RESOURCE, &["--keyslots", "0", "--workers", "1"]);
    device.wait(Device::exited);
    assert_eq!(device.child.wait().expect("wait").code(), Some(1), "{}", device.log());
    assert!(device.log().contains("256 KiB for each worker; raise the limit (ulimit -l"), "{}", device.log());

    let mut device = start_with_limit(40, CapabilitySet::SYS_RESOURCE, &["--ufs", "--keyslots", "4"]);
    device.wait(Device::exited);
    assert_eq!(device.child.wait().expect("wait").code(), Some(1), "{}", device.log());
    assert!(device.log().contains("key registers, 16 KiB; raise the limit (ulimit -l"), "{}", device.log());
}

/// A fault that needs other keys gets its memory at once or is refused. Program commands then work.
fn memory_for_other_keys() {
    // A privileged process has no limit.
    let start = |kib, fault: &[&str]| start_with_limit(kib, CapabilitySet::IPC_LOCK, fault);
    let program_all = |device: &Device| {
        let mut guest = device.guest();
        let control = guest.control();
        for (slot, seed) in (0..4).flat_map(|slot| [(slot, 1), (slot, 2), (slot, 3)]) {
            guest.request(control, &Program::new(slot, &key(seed), 12).bytes(), 1).assert_only_status(OK);
        }
        guest.request(0, &crypto_write(0, 3, [7, 0, 0, 0], &[5; 4096]), 1).assert_only_status(OK);
        guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
        guest.image_bytes(0, 4096)
    };
    let expected = |seed| openssl_xts(&key(seed), 7, 4096, &[5; 4096]);
    // 4 keyslots and 2 wrapping keys are 40 KiB, the keys of 4 keyslots as much again.
    let mut device = start(72, &["--fault", "previous-key"]);
    device.wait(Device::exited);
    assert_eq!(device.child.wait().expect("wait").code(), Some(1));
    assert!(device.log().contains("the keys of 4 keyslots") && device.log().contains("ulimit -l"), "{}", device.log());

    let device = start(72, &[]);
    let (code, text) = ctl(&device, &["fault", "add", "previous-key"]);
    assert!(code == Some(2) && text.contains("the keys of 4 keyslots"), "{text}");
    assert!(program_all(&device) == expected(3));
    device.finish();

    for at_the_start in [true, false] {
        let device = start(84, if at_the_start { &["--fault", "previous-key"] } else { &[] });
        if !at_the_start {
            let (code, text) = ctl(&device, &["fault", "add", "previous-key"]);
            assert_eq!(code, Some(0), "{text}");
        }
        assert!(program_all(&device) == expected(2));
        for command in ["clear", "add"] {
            let words = if command == "add" { vec!["fault", command, "previous-key"] } else { vec!["fault", command] };
            let (code, text) = ctl(&device, &words);
            assert_eq!(code, Some(0), "{text}");
        }
        assert!(program_all(&device) == expected(2));
        device.finish();
    }
}

/// The image grows: by the device, or by its owner with a signal or a command. The frontend has a backend channel. On
/// tmpfs, the device maps the new part.
fn another_size(options: &[&str], in_memory: bool) {
    let directory = tempfile::TempDir::new_in(if in_memory { "/dev/shm" } else { "/tmp" }).expect("directory");
    let control = directory.path().join("control").display().to_string();
    let all = [&["--sandbox", "require", "--control", &control][..], options].concat();
    let device = Device::start_in(directory, &all, |_| {});
    let mut guest = Guest::with(Options {
        socket: Some(device.path("socket")),
        disk: DiskKind::Memory,
        protocol: VhostUserProtocolFeatures::BACKEND_REQ,
        ..Options::default()
    });
    let (mut ours, theirs) = UnixStream::pair().expect("channel");
    guest.frontend().set_backend_request_fd(&theirs).expect("SET_BACKEND_REQ_FD");
    guest.frontend().get_features().expect("GET_FEATURES");
    let sizes = if options.contains(&"--blk-ram") { 1 } else { 3 };
    for size in (1..=sizes).map(|number| DISK + number * (5 << 20)) {
        let words = match size - DISK {
            0x50_0000 => Some(vec!["resize".to_owned(), size.to_string()]),
            0xa0_0000 => Some(vec!["resize".to_owned()]),
            _ => None,
        };
        if size > DISK + 0x50_0000 {
            File::options().write(true).open(device.path("image")).expect("image").set_len(size).expect("size");
        }
        match words {
            Some(words) => {
                let (code, text) = ctl(&device, &words.iter().map(String::as_str).collect::<Vec<_>>());
                assert!(code == Some(0) && text.contains("the frontend was told"), "{text}");
            }
            None => {
                let pid = rustix::process::Pid::from_child(&device.child);
                rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("kill");
            }
        }
        let mut message = [0; 12];
        ours.read_exact(&mut message).expect("message");
        assert_eq!(message, [2u32, 1, 0].map(u32::to_ne_bytes).concat()[..]);
        assert_eq!(guest.capacity(), size);
        let (last, data) = (size / 512 - 16, pattern(size, 8192));
        guest.request(0, &write_request(last, &data), 1).assert_only_status(OK);
        assert!(guest.request(1, &header(IN, last), 8193).data == data);
        exercise(&mut guest, false);
    }
    drop(guest);
    device.finish();
}

pub fn trials() -> Vec<Trial> {
    let ways: &[(&str, &[&str])] = &[
        ("sync", &["--aio", "sync"]),
        ("io_uring", &["--aio", "io_uring"]),
        ("threads", &["--aio", "threads"]),
        ("direct", &["--cache", "none"]),
        ("direct_threads", &["--cache", "none", "--aio", "threads"]),
        ("memory", &["--blk-ram", "8M"]),
        ("slow_engine", &["--program-latency-us", "2000", "--evict-latency-us", "100", "--crypto-latency-us", "500"]),
        (
            "write_through_on_a_cpu",
            &["--cache", "writethrough", "--workers", "2", "--cpus", "0,0", "--log-level", "trace"],
        ),
    ];
    let mut trials = vec![
        super::trial("program::what_the_system_says", None, what_the_system_says),
        super::trial("program::parts_that_the_kernel_lacks", None, parts_that_the_kernel_lacks),
        super::trial("program::io_uring_is_forbidden", obstacle(&["--cache", "none"]), io_uring_is_forbidden),
        super::trial("program::control_socket_and_trace", None, control_socket_and_trace),
        super::trial("program::no_trace_was_named", None, no_trace_was_named),
        super::trial("program::truncated_image", None, truncated_image),
        super::trial(
            "program::image_of_somebody_else",
            (!rustix::process::geteuid().is_root()).then_some("only root can give a file away"),
            image_of_somebody_else,
        ),
    ];
    for (name, options) in &ways[..5] {
        let name = format!("program::file_size_limit_{name}");
        trials.push(super::trial(name, obstacle(options), || file_size_limit(options)));
    }
    trials.push(super::trial("program::memory_for_other_keys", None, memory_for_other_keys));
    trials.push(super::trial("program::memory_for_frontends", None, memory_for_frontends));
    for (name, options) in &ways[..6] {
        let name = format!("program::another_size_{name}");
        trials.push(super::trial(name, obstacle(options), || another_size(options, false)));
    }
    trials.push(super::trial("program::another_size_mapped", None, || another_size(&["--aio", "sync"], true)));
    for (name, options) in ways {
        trials.push(super::trial(format!("program::{name}"), obstacle(options), || all_requests(options)));
    }
    trials
}
