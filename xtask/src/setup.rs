// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Brings everything together that a guest with our device needs.

use crate::accel::{self, Accelerator};
use crate::cli::GuestArgs;
use crate::driver::{self, Module};
use crate::guest_root::{self, GuestRoot, ORDINARY, Recipe};
use crate::kernel::{self, Kernel};
use crate::mirror::{self, Mirror};
use crate::paths::Paths;
use crate::process::command;
use crate::qemu::{self, Qemu};
use crate::{debug_kernel, device, packages, progress, tools, verify};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// What does not depend on the project's own code.
pub struct Machine {
    /// QEMU.
    pub qemu: Qemu,
    /// The guest's file systems.
    pub root: GuestRoot,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// KVM or TCG.
    pub accel: Accelerator,
    /// Where packages come from.
    pub mirror: Option<Mirror>,
}

/// What is built from this work tree.
pub struct Programs {
    /// The device.
    pub device: PathBuf,
    /// The verifier.
    pub verifier: PathBuf,
    /// The directory of programs for the guest.
    pub tools: PathBuf,
}

/// All of it.
pub struct Prepared {
    /// The machine.
    pub machine: Machine,
    /// The programs.
    pub programs: Programs,
    /// The guest's driver, unless built into the kernel.
    pub module: Option<Module>,
}

/// Installs packages, fetches QEMU and the guest.
pub fn machine(paths: &Paths, args: &GuestArgs, recipe: &Recipe) -> Result<Machine> {
    ensure!(cfg!(target_arch = "x86_64"), "guests run on x86_64 hosts only for now");
    packages::ensure_all(paths)?;
    let mirror = mirror::find(args.mirror.as_deref())?;
    let qemu = qemu::prepare(paths, args.qemu.as_deref(), mirror.as_ref())?;
    let root = guest_root::prepare(paths, mirror.as_ref(), recipe)?;
    let kernel = match args.debug_kernel {
        Some(which) => {
            let built = debug_kernel::prepare(paths, mirror.as_ref(), &root, which)?;
            kernel::users_own(&built.image, &built.tree, false)?
        }
        None => kernel::choose(args, &root)?,
    };
    let accel = accel::choose(paths, args.accel, &qemu, &kernel)?;
    Ok(Machine { qemu, root, kernel, accel, mirror })
}

/// Builds the device.
pub fn device_program(paths: &Paths) -> Result<PathBuf> {
    progress::step("device (cargo build --release)", || device::build_program(paths, device::PROGRAM))
}

/// Builds the guest's driver, unless the kernel has it.
pub fn module(paths: &Paths, machine: &Machine) -> Result<Option<Module>> {
    let module = progress::step("guest module", || driver::build(paths, &machine.root, &machine.kernel))?;
    for warning in module.iter().flat_map(|m| &m.warnings) {
        eprintln!("    {warning}");
    }
    Ok(module)
}

/// Builds the programs.
pub fn programs(paths: &Paths, machine: &Machine) -> Result<Programs> {
    programs_beside(paths, machine, device_program(paths)?)
}

/// Builds the programs that a device needs beside it.
pub fn programs_beside(paths: &Paths, machine: &Machine, device: PathBuf) -> Result<Programs> {
    Ok(Programs {
        device,
        verifier: progress::step("verifier (cargo build --release)", || device::build_program(paths, verify::PROGRAM))?,
        tools: progress::step("guest programs", || tools::build(paths, &machine.root))?,
    })
}

/// What the device's `selftest` says this machine lacks. xtask has seen to KVM and QEMU itself.
pub fn lacking(programs: &Programs) -> Result<Vec<String>> {
    let output = command(&programs.device).arg("selftest").output().context("the device does not run here")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let of_xtask = |line: &str| line.contains(" KVM: ") || line.contains(" qemu-system-");
    let lacks = |line: &&str| (line.starts_with("missing") || line.starts_with("FAILED")) && !of_xtask(line);
    Ok(text.lines().filter(lacks).map(str::to_owned).collect())
}

/// Does everything.
pub fn prepare(paths: &Paths, args: &GuestArgs) -> Result<Prepared> {
    let machine = machine(paths, args, &ORDINARY)?;
    let programs = programs(paths, &machine)?;
    let module = module(paths, &machine)?;
    Ok(Prepared { machine, programs, module })
}
