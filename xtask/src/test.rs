// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test`: everything, with one summary.

use crate::case::{self, Case};
use crate::cli::TestArgs;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::progress::timed;
use crate::report::{Report, TAKES_MINUTES};
use crate::run_case::{self, Outcome};
use crate::setup::{self, Prepared};
use crate::{compare, driver, driver_builds, guest_root, packages};
use anyhow::{Result, anyhow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Runs the checks and prints the summary; true when nothing failed.
pub fn run(paths: &Paths, args: &TestArgs) -> Result<bool> {
    let plan = Plan::new(paths, args)?;
    if args.changed.is_some() {
        println!("what the changes can break: {}", plan.describe());
        plan.notes.iter().for_each(|note| println!("not tested here: {note}"));
        if !plan.has_rust() && !plan.has_guest() {
            return Ok(true);
        }
    }
    let mut report = Report::default();
    if plan.has_rust() {
        if let Err(e) = packages::ensure_rust_side(paths) {
            eprintln!("{e:#}");
        }
        crate::rust_checks::run(paths, &mut report, &plan, args.long);
    }
    if plan.has_guest() {
        guest(paths, args, &plan, &mut report)?;
    }
    Ok(report.finish())
}

fn guest(paths: &Paths, args: &TestArgs, plan: &Plan, report: &mut Report) -> Result<()> {
    let (scripts, compare) = (&plan.cases, plan.compare);
    match prepare(paths, args, report) {
        Ok(prepared) => {
            eprintln!(
                "guest: kernel {}, QEMU {}, {}",
                prepared.machine.kernel.name,
                prepared.machine.qemu.version,
                prepared.machine.accel.name()
            );
            if plan.builds && args.long {
                driver_builds::run(paths, prepared.machine.mirror.as_ref(), report);
            } else if plan.builds {
                report.skip(driver_builds::NAME, Duration::ZERO, TAKES_MINUTES);
            }
            cases(paths, &prepared, scripts, args, report);
            if compare {
                smoke_test(paths, &prepared, report);
            }
        }
        Err(e) => {
            report.fail("guest setup", Duration::ZERO, &format!("{e:#}"));
            for script in scripts {
                report.skip(&guest_name(script), Duration::ZERO, "not run: the guest could not be set up");
            }
            if compare {
                report.skip(compare::SMOKE_TEST, Duration::ZERO, "not run: the guest could not be set up");
            }
        }
    }
    Ok(())
}

/// As `setup::prepare`, with the module's build counted as a check of its own.
fn prepare(paths: &Paths, args: &TestArgs, report: &mut Report) -> Result<Prepared> {
    let machine = setup::machine(paths, &args.guest, &guest_root::ORDINARY)?;
    let programs = setup::programs(paths, &machine)?;
    let (module, took) = timed("module build", || driver::build(paths, &machine.root, &machine.kernel));
    let module = module?;
    match &module {
        None => report.skip("module build", took, "not run: the driver is built into the kernel"),
        Some(module) => module.judge(report, "module build", took),
    }
    Ok(Prepared { machine, programs, module })
}

fn guest_name(script: &Path) -> String {
    format!("guest: {}", case::name(script))
}

/// A quick `cargo xtask compare`, whose report must be complete.
fn smoke_test(paths: &Paths, prepared: &Prepared, report: &mut Report) {
    let start = Instant::now();
    let run = compare::smoke_test(paths, prepared);
    let took = start.elapsed();
    match run {
        Ok((problems, _)) if problems.is_empty() => report.pass(compare::SMOKE_TEST, took),
        Ok((problems, out)) => {
            let text = format!("{}\nlogs and report: {}", problems.join("\n"), out.display());
            report.fail(compare::SMOKE_TEST, took, &text);
        }
        Err(e) => report.fail(compare::SMOKE_TEST, took, &format!("{e:#}")),
    }
}

/// Most of a case's time is a guest's boot, which keeps one CPU busy, and waiting.
const AT_ONCE: usize = 2;

fn cases(paths: &Paths, prepared: &Prepared, scripts: &[PathBuf], args: &TestArgs, report: &mut Report) {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let at_once = args.jobs.map_or(AT_ONCE.min(cpus), usize::from);
    let (waiting, report) = (Mutex::new(scripts.iter()), Mutex::new(report));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(script) = next() {
            one(paths, prepared, script, args, &report);
        }
    };
    thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
}

fn one(paths: &Paths, prepared: &Prepared, script: &Path, args: &TestArgs, report: &Mutex<&mut Report>) {
    let name = guest_name(script);
    let report = || report.lock().unwrap_or_else(PoisonError::into_inner);
    let case = match Case::read(script) {
        Ok(case) if case.long && !args.long => {
            return report().skip(&name, Duration::ZERO, TAKES_MINUTES);
        }
        case => case,
    };
    // A panic must not end the other cases, or the summary would be missing.
    let run = || catch_unwind(AssertUnwindSafe(|| run_case::run(paths, prepared, &case?, args.keep)));
    let (run, took) = timed(&name, run);
    let run = run.unwrap_or_else(|_| Err(anyhow!("xtask panicked; its message is above")));
    let mut report = report();
    match run {
        Err(e) => report.fail(&name, took, &format!("{e:#}")),
        Ok(run) => match run.outcome {
            Outcome::Passed => report.pass(&name, took),
            Outcome::Skipped(reason) => report.skip(&name, took, &reason),
            Outcome::Failed(reasons) => {
                let text = format!("{}\nlogs, results and image: {}", reasons.join("\n").trim_end(), run.dir.display());
                report.fail(&name, took, &text);
            }
        },
    }
}
