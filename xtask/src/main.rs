// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask`: builds the device, QEMU, the guest and its driver, and runs the demo, the tests and the
//! benchmark.
//!
//! Each module has one concern; [`setup`] combines them into a guest that can boot.

mod accel;
mod bench;
mod book;
mod btrfs;
mod cache;
mod case;
mod changed;
mod cli;
mod compare;
mod console;
mod debian;
mod debug_kernel;
mod demo;
mod device;
mod dist;
mod driver;
mod driver_builds;
mod fstests;
mod fstests_build;
mod fstests_guest;
mod fstests_output;
mod fuzz;
mod guest_memory;
mod guest_root;
mod host_steps;
mod job;
mod kernel;
mod kernel_modules;
mod kernel_source;
mod kills;
mod links;
mod man;
mod measure;
mod miri;
mod mirror;
mod mutants;
mod packages;
mod paths;
mod plan;
mod process;
mod progress;
mod qemu;
mod qemu_steps;
mod qmp;
mod report;
mod run_case;
mod rust_checks;
mod setup;
mod shell;
mod stats;
mod test;
mod tools;
mod verify;
mod vm;
mod vng;
mod watch;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one command; `false` means that it ran and found failures.
fn run(cli: cli::Cli) -> anyhow::Result<bool> {
    process::extend_path();
    let paths = paths::Paths::find()?;
    match cli.command {
        cli::Command::Demo(options) => demo::run(&paths, &options),
        cli::Command::Test(options) => test::run(&paths, &options),
        cli::Command::Shell(options) => shell::run(&paths, &options),
        cli::Command::Fstests(options) => fstests::run(&paths, &options),
        cli::Command::Fuzz(options) => fuzz::run(&paths, &options),
        cli::Command::Miri => Ok(miri::run(&paths)),
        cli::Command::Mutants(options) => mutants::run(&paths, &options),
        cli::Command::Bench(options) => bench::run(&paths, &options),
        cli::Command::Compare(options) => compare::run(&paths, &options),
        cli::Command::Btrfs(options) => btrfs::run(&paths, &options),
        cli::Command::Setup(options) => {
            let prepared = setup::prepare(&paths, &options)?;
            setup::lacking(&prepared.programs)?.iter().for_each(|line| println!("{line}"));
            println!("everything is ready; try `cargo xtask demo`");
            Ok(true)
        }
        cli::Command::DebugKernel(options) => debug_kernel::run(&paths, &options),
        cli::Command::Dist(options) => dist::run(&paths, &options),
        cli::Command::VngArgs(options) => vng::run(&paths, &options),
        cli::Command::Book => book::run(&paths),
        cli::Command::Man => man::run(&paths),
        cli::Command::CleanCache => {
            cache::clean(&paths)?;
            Ok(true)
        }
    }
}
