// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program under the filters that systemd makes of `SystemCallFilter=@system-service`, in the versions of Debian 12 and 13, and
//! of our own unit.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use seccompiler::{BpfProgram, TargetArch};

use super::device::{Device, exercise, obstacle};

const LIST: &str = include_str!("../data/system-service.txt");
const UNIT: &str = include_str!("../../systemd/vhost-user-blk-crypto@.service");

/// The action for a call that is not on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    /// systemd's default.
    Kill,
    /// `SystemCallErrorNumber=EPERM`.
    Refuse,
}

/// The calls of @system-service in a version of systemd.
fn system_service(version: u32) -> impl Iterator<Item = &'static str> {
    LIST.lines().filter(|line| !line.starts_with('#')).filter_map(move |line| match line.split_once(' ') {
        Some((name, since)) => (version >= since.parse().expect("a version")).then_some(name),
        None => Some(line),
    })
}

/// Calls that our unit adds.
fn of_the_unit() -> impl Iterator<Item = &'static str> {
    let lines = UNIT.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let names: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    assert!(names.contains(&"@system-service") && !names.iter().any(|name| name.starts_with('~')), "{names:?}");
    names.into_iter().filter(|name| !name.starts_with('@'))
}

fn filter(calls: impl Iterator<Item = &'static str>, otherwise: Otherwise) -> BpfProgram {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("CPU");
    let compile = |calls: &[&str]| {
        let calls: Vec<_> = calls.iter().map(|name| serde_json::json!({ "syscall": name })).collect();
        let otherwise = match otherwise {
            Otherwise::Kill => serde_json::json!("kill_process"),
            Otherwise::Refuse => serde_json::json!({ "errno": libc::EPERM }),
        };
        let json = serde_json::json!({
            "all": { "mismatch_action": otherwise, "match_action": "allow", "filter": calls }
        });
        seccompiler::compile_from_json(json.to_string().as_bytes(), arch)
    };
    // The list has the calls of all CPUs.
    let known: Vec<_> = calls.filter(|&name| compile(&[name]).is_ok()).collect();
    assert!(known.len() > 200, "{known:?}");
    compile(&known).expect("filter").remove("all").expect("filter")
}

/// The program under a filter, with its files in a directory below another one.
fn start(filter: BpfProgram, parent: &Path, options: &[&str]) -> Device {
    let directory = tempfile::TempDir::new_in(parent).expect("directory");
    Device::start_in(directory, options, |command: &mut Command| {
        // SAFETY: installing a filter that is there already is two system calls, without allocation.
        unsafe {
            command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(|_| std::io::ErrorKind::Other.into()))
        };
    })
}

const WAYS: &[&[&str]] = &[&[], &["--aio", "io_uring"], &["--cache", "none"], &["--blk-ram", "8M"]];

fn works(filter: &BpfProgram, options: &[&str]) -> Vec<String> {
    let mut logs = Vec::new();
    // On tmpfs, too, where data is moved in place.
    for (parent, way) in
        [Path::new("/tmp"), Path::new("/dev/shm")].into_iter().flat_map(|at| WAYS.iter().map(move |&way| (at, way)))
    {
        if obstacle(way).is_some() || (parent.ends_with("shm") && way.contains(&"none")) {
            continue;
        }
        let device = start(filter.clone(), parent, &[way, options].concat());
        exercise(&mut device.guest(), !way.contains(&"--blk-ram"));
        logs.push(device.log());
        device.finish();
    }
    logs
}

/// Parts of the sandbox that the filter refuses are missing, and the log says so.
fn as_systemd_has_it(version: u32, otherwise: Otherwise) {
    let list = filter(system_service(version), otherwise);
    for log in works(&list, &["--sandbox", "on"]) {
        for part in ["the sandbox lacks Landlock: a filter", "the sandbox lacks seccomp: a filter"] {
            assert_eq!(log.contains(part), version < 257, "{version}, {part}: {log}");
        }
    }
    if version < 257 {
        let mut device = start(list, Path::new("/tmp"), &["--sandbox", "require"]);
        device.wait(Device::exited);
        assert_eq!(device.child.wait().expect("wait").code(), Some(1), "{}", device.log());
        assert!(device.log().contains("--sandbox require"), "{}", device.log());
    }
    // With `~io_uring_enter` and the like, the device uses helper threads.
    if obstacle(&["--cache", "none"]).is_none() {
        for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
            let list = filter(system_service(version).filter(|name| *name != call), otherwise);
            let device = start(list, Path::new("/tmp"), &["--cache", "none"]);
            exercise(&mut device.guest(), true);
            assert!(device.log().contains("helper threads are used instead"), "{}", device.log());
            device.finish();
        }
    }
    // With `~@privileged` and the like.
    let without = ["capset", "sched_setaffinity"];
    let list = filter(system_service(version).filter(|name| !without.contains(name)), otherwise);
    for log in works(&list, &["--sandbox", "on"]) {
        let root = rustix::process::geteuid().is_root();
        assert_eq!(log.contains("the sandbox lacks the dropping of privileges"), root, "{version}: {log}");
    }
}

/// With our unit, all parts of the sandbox work.
fn as_our_unit_has_it(version: u32) {
    let list = filter(system_service(version).chain(of_the_unit()), Otherwise::Kill);
    for log in works(&list, &["--sandbox", "require"]) {
        assert!(!log.contains("lacks") && !log.contains("warn"), "{log}");
    }
}

/// systemd accepts the units, if it is installed.
fn units_are_understood() {
    let directory = tempfile::TempDir::new().expect("directory");
    let program = env!("CARGO_BIN_EXE_vhost-user-blk-crypto");
    let service = UNIT.replace("/usr/bin/vhost-user-blk-crypto", program);
    // The manual need not be installed.
    let service: Vec<_> = service.lines().filter(|line| !line.starts_with("Documentation=")).collect();
    let path = |kind: &str| directory.path().join(format!("vhost-user-blk-crypto@disk.{kind}"));
    std::fs::write(path("service"), service.join("\n")).expect("unit");
    let socket = include_str!("../../systemd/vhost-user-blk-crypto@.socket");
    std::fs::write(path("socket"), socket).expect("unit");
    let output = Command::new("systemd-analyze").arg("verify").args(["service", "socket"].map(path)).output();
    let output = output.expect("systemd-analyze");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("vhost-user-blk-crypto"), "{text}");
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in [252, 257] {
        for otherwise in [Otherwise::Kill, Otherwise::Refuse] {
            let name = format!("systemd::system_service_{version}_{otherwise:?}").to_lowercase();
            trials.push(super::trial(name, None, move || as_systemd_has_it(version, otherwise)));
        }
        trials.push(super::trial(format!("systemd::unit_{version}"), None, move || as_our_unit_has_it(version)));
    }
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success());
    let obstacle = (!there).then_some("systemd-analyze is not installed");
    trials.push(super::trial("systemd::units_are_understood", obstacle, units_are_understood));
    trials
}
