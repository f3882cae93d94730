// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask shell`: the guest with a prompt on this terminal.

use crate::case::{UFS_DRIVER, parse_size};
use crate::cli::ShellArgs;
use crate::device::{self, Device};
use crate::job::{Job, Scratch};
use crate::kernel_modules;
use crate::paths::Paths;
use crate::setup;
use crate::vm::{Attach, QUEUES, Vm};
use anyhow::{Context, Result, ensure};
use std::fs;

/// Runs it until the guest powers off.
pub fn run(paths: &Paths, args: &ShellArgs) -> Result<bool> {
    let guest = if args.ufs { args.guest.without_our_driver() } else { args.guest.clone() };
    let prepared = setup::prepare(paths, &guest)?;
    let image = args.image.clone().unwrap_or_else(|| paths.target.join("shell.img"));
    if !image.exists() {
        device::make_image(&image, parse_size(&args.size)?)?;
    }
    let scratch = Scratch::new()?;
    let terminal = std::env::var("TERM").unwrap_or_default();
    let mut variables = vec![("HOST_TERM".to_owned(), terminal)];
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin()) {
        variables.push(("ROWS".into(), size.ws_row.to_string()));
        variables.push(("COLUMNS".into(), size.ws_col.to_string()));
    }
    let parts: Vec<&str> = args.with.iter().map(|part| part.symbol()).collect();
    for part in &parts {
        let kernel = &prepared.machine.kernel;
        ensure!(kernel_modules::usable(kernel, part), "your kernel lacks {part}; set it to y and build it again");
    }
    let kernel_modules = kernel_modules::files(paths, &prepared.machine, parts)?;
    let mut job = Job { variables, kernel_modules, ..Job::new(&prepared) };
    let mut options = args.device.clone();
    if args.ufs {
        job.driver = UFS_DRIVER;
        job.kernel_modules.extend(kernel_modules::ufs(paths, &prepared.machine)?);
        options.push("--ufs".to_owned());
    }
    job.write(paths, &scratch)?;
    let logs = paths.results("shell");
    fs::create_dir_all(&logs)?;
    let device = Device::start(&device::Options {
        program: &prepared.programs.device,
        image: &std::path::absolute(&image)?,
        queues: (!args.ufs).then_some(QUEUES),
        extra: &options,
        stats: &logs.join("stats.json"),
        log: &logs.join("device.log"),
        socket_dir: scratch.path(),
    })?;
    println!("image: {}; device log: {}", image.display(), logs.join("device.log").display());
    println!("poweroff, exit or Ctrl-D ends the guest; Ctrl-A X ends QEMU\n");
    let attach = if args.ufs { Attach::Ufs } else { Attach::default() };
    let disks = [device.socket.as_path()];
    let vm = Vm { attach, ..Vm::new(&prepared.machine, &disks, &scratch) };
    let good = vm.run_on_terminal()?;
    device.finish().context("after the guest's end")?;
    println!("the device's counters: {}", logs.join("stats.json").display());
    Ok(good)
}
