// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Installs each package in a clean Debian, where the program then serves a disk to a guest that has the driver's package.

use super::{CPUS, Cpu, copy, module_package, tree, units};
use crate::cache;
use crate::case::Case;
use crate::cli::{DistArgs, GuestArgs};
use crate::debian;
use crate::device::PROGRAM;
use crate::driver::{MODULE, Module};
use crate::guest_root::Recipe;
use crate::mirror::Mirror;
use crate::paths::Paths;
use crate::process::{self, command, is_root, run_logged};
use crate::progress::timed;
use crate::report::Report;
use crate::run_case::{self, Outcome};
use crate::setup::{self, Prepared};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A guest whose build tree has dkms.
const DKMS: Recipe = Recipe { name: "dkms", run: &[], build: &["dkms"] };

/// A small Debian with systemd, and what runs programs of the other CPU.
const CLEAN: [&str; 5] = [
    "--variant=minbase",
    "--aptopt=Apt::Install-Recommends \"false\"",
    "--include=systemd,qemu-user",
    "--dpkgopt=path-exclude=/usr/bin/qemu-*",
    "--dpkgopt=path-include=/usr/bin/qemu-aarch64",
];

/// The guest case with which each program has to serve its disk.
const CASE: &str = "20-native-ext4.sh";

/// Installs the program's package and looks at what is in it. An emulator has a thread of its own, and so no sandbox.
const INSTALL: &str = r#"dpkg --add-architecture CPU
dpkg --install PACKAGE
cmp FILE /usr/bin/PROGRAM
RUN /usr/bin/PROGRAM selftest > found || test -n "RUN"
if grep '^FAILED' found | grep -v 'sandbox: 2 threads'; then exit 1; fi
RUN /usr/bin/PROGRAM completions bash | cmp - /usr/share/bash-completion/completions/PROGRAM
test -s /usr/share/zsh/vendor-completions/_PROGRAM
test -s /usr/share/fish/vendor_completions.d/PROGRAM.fish
for page in '' -ctl -inspect; do zcat /usr/share/man/man1/PROGRAM$page.1.gz | grep -q '^.TH'; done
test -x "$(sed -n 's/.*"binary": "\(.*\)".*/\1/p' /usr/share/qemu/vhost-user/50-PROGRAM.json)"
test -s /usr/share/doc/PROGRAM/docs/personalities.md*
systemd-analyze verify --man=no /usr/lib/systemd/system/PROGRAM@.socket PROGRAM@disk.service
"#;

/// Starts the installed program in its Debian. It has the host's paths of image, socket and logs.
const DEVICE: &str = r#"#!/bin/sh
exec unshare OPTIONS -- sh -euc 'mount --rbind /dev "$0/dev"; mount --rbind /proc "$0/proc"
    for dir in "RESULTS" "TEMPORARY"; do mkdir -p "$0$dir"; mount --rbind "$dir" "$0$dir"; done
    exec chroot "$0" RUN /usr/bin/PROGRAM "$@"' "ROOT" SANDBOX "$@"
"#;

/// Installs the driver's package, which builds the module for the guest's kernel.
const BUILD_MODULE: &str = r#"dpkg --install PACKAGE
dkms autoinstall -k RELEASE
dkms status | grep '^MODULE/.*RELEASE.*installed'
file=$(modinfo -k RELEASE -n MODULE)
case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac > MODULE.ko
"#;

/// Runs all checks of what is in `out`.
pub fn run(paths: &Paths, args: &DistArgs, mirror: Option<&Mirror>, out: &Path) -> Result<bool> {
    let clean = tree(paths, mirror, "clean", &CLEAN.map(str::to_owned))?;
    let guest = GuestArgs { mirror: args.mirror.clone(), ..Default::default() };
    let machine = setup::machine(paths, &guest, &DKMS)?;
    // `install` says which device.
    let programs = setup::programs_beside(paths, &machine, PathBuf::new())?;
    let mut prepared = Prepared { machine, programs, module: None };
    let mut report = Report::default();
    let work = paths.target.join("dist-check");
    cache::remove_tree(&work)?;
    let module = record(&mut report, "the driver's package builds the module", || {
        build_module(paths, &prepared, out, &work.join("dkms"))
    });
    for cpu in &CPUS {
        let name = format!("{} is installed", cpu.package());
        let device = record(&mut report, &name, || install(paths, cpu, &clean, out, &work.join(cpu.debian)));
        if let (Some(file), Some(device)) = (&module, device) {
            prepared.module = Some(Module { file: file.clone(), warnings: vec![] });
            prepared.programs.device = device;
            let name = format!("{} serves a disk to that module", cpu.package());
            record(&mut report, &name, || serve(paths, &prepared));
        }
    }
    if let Some(own) = CPUS.iter().find(|cpu| cpu.rust == std::env::consts::ARCH) {
        let name = format!("the units of {} serve a disk under systemd", own.package());
        record(&mut report, &name, || units::run(paths, &prepared.machine, mirror, own, out, &work.join("units")));
    }
    Ok(report.finish())
}

fn record<T>(report: &mut Report, name: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
    let (result, took) = timed(name, check);
    match result {
        Ok(value) => {
            report.pass(name, took);
            Some(value)
        }
        Err(e) => {
            report.fail(name, took, &format!("{e:#}"));
            None
        }
    }
}

/// Runs a script in a copy of `tree`, in a directory that has `files`. Returns that directory.
fn in_copy(paths: &Paths, tree: &Path, root: &Path, files: &[PathBuf], script: &str) -> Result<PathBuf> {
    fs::create_dir_all(root.parent().unwrap_or(root))?;
    let log = paths.fresh_log(&format!("dist-{}", root.file_name().unwrap_or_default().display()));
    run_logged(command("cp").args(["-a", "--reflink=auto"]).arg(tree).arg(root), &log)?;
    let work = debian::work_dir(root)?;
    for file in files {
        copy(file, &work.path().join(file.file_name().unwrap_or_default()))?;
    }
    run_logged(&mut debian::in_tree(root, &work, script)?, &log)?;
    Ok(work.keep())
}

fn build_module(paths: &Paths, prepared: &Prepared, out: &Path, root: &Path) -> Result<PathBuf> {
    let guest = &prepared.machine.root;
    let package = module_package();
    let script = BUILD_MODULE.replace("PACKAGE", &package).replace("RELEASE", &guest.release).replace("MODULE", MODULE);
    let work = in_copy(paths, &guest.build_tree(), root, &[out.join(package)], &script)?;
    Ok(work.join(format!("{MODULE}.ko")))
}

/// Returns a script that starts the installed program.
fn install(paths: &Paths, cpu: &Cpu, clean: &Path, out: &Path, root: &Path) -> Result<PathBuf> {
    let run = if cpu.rust == std::env::consts::ARCH { String::new() } else { format!("qemu-{}", cpu.rust) };
    let fill = |text: &str| text.replace("RUN", &run).replace("PROGRAM", PROGRAM);
    let (package, file) = (cpu.package(), cpu.program());
    let script = fill(INSTALL).replace("CPU", cpu.debian).replace("PACKAGE", &package).replace("FILE", &file);
    in_copy(paths, clean, root, &[out.join(package), out.join(file)], &script)?;
    let results = paths.results("");
    fs::create_dir_all(&results)?;
    let device = root.with_extension("device");
    let script = fill(DEVICE)
        .replace("SANDBOX", if run.is_empty() { "" } else { "--sandbox none" })
        .replace("OPTIONS", if is_root() { "-m" } else { "-rm" })
        .replace("RESULTS", &results.display().to_string())
        .replace("TEMPORARY", &std::env::temp_dir().display().to_string())
        .replace("ROOT", &root.display().to_string());
    fs::write(&device, script)?;
    fs::set_permissions(&device, fs::Permissions::from_mode(0o755))?;
    Ok(device)
}

fn serve(paths: &Paths, prepared: &Prepared) -> Result<()> {
    let case = Case::read(&paths.guest_tests("cases").join(CASE))?;
    let run = run_case::run(paths, prepared, &case, false).context("the guest")?;
    // Its sandbox knows the calls of another C library, too.
    let log = process::text(&run.dir.join("device.log"));
    if let Some(line) = log.lines().find(|line| line.contains("warn: cannot")) {
        bail!("the program says: {line}");
    }
    match run.outcome {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => bail!("the case was skipped: {reason}"),
        Outcome::Failed(reasons) => bail!("{}\nlogs: {}", reasons.join("\n").trim_end(), run.dir.display()),
    }
}
