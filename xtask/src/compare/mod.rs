// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask compare`: compares file systems encrypted by the device with the same encrypted by the guest's CPU, in one
//! guest, interleaved, in one report.
//!
//! [`target`] and [`load`] are the two dimensions; [`plan`] says which of their combinations are measured, [`run`] measures
//! them in rounds in a [`guest`], [`verdict`] says who really encrypted, and the other modules make the report.

mod answer;
mod charts;
mod check;
mod dialog;
pub mod disk;
mod export;
pub mod guest;
mod header;
mod load;
mod plan;
mod report;
mod results;
mod run;
mod tables;
pub mod target;
mod verdict;

use crate::cli::CompareArgs;
use crate::kernel::Origin;
use crate::measure::header::Header;
use crate::paths::Paths;
use crate::setup::{self, Prepared};
use crate::{cache, kernel_modules, progress};
use anyhow::{Context, Result, ensure};
use guest::Guest;
use plan::Plan;
use results::Results;
use std::fs;
use std::path::{Path, PathBuf};
use target::Target;

/// Runs it. False: something failed.
pub fn run(paths: &Paths, args: &CompareArgs) -> Result<bool> {
    let plan = plan(args)?;
    if args.list {
        list(&plan);
        return Ok(true);
    }
    let prepared = setup::prepare(paths, &args.guest)?;
    let out = args.output.clone().unwrap_or_else(|| paths.target.join("compare"));
    let begin = |header: &Header| println!("\n{}", header.text());
    let (results, header, missing) = compare(paths, &prepared, &plan, &args.device, &out, begin)?;
    println!("\n{}", report::text(&results));
    // Repeated here for those who read only the end.
    if header.warning.is_some() {
        println!("The guest's CPU was emulated: these ratios are not those of real hardware.");
    }
    missing.iter().for_each(|problem| println!("FAILED: {problem}"));
    println!("written: {}", report::FILES.map(|name| out.join(name).display().to_string()).join(", "));
    Ok(results.failed.is_empty() && missing.is_empty())
}

fn plan(args: &CompareArgs) -> Result<Plan> {
    if let Some(seconds) = args.seconds {
        ensure!((0.05..=600.0).contains(&seconds), "--seconds must be from 0.05 to 600");
    }
    let plan = Plan::new(args.quick, &args.filter, args.rounds, args.seconds);
    ensure!(!plan.groups.is_empty(), "nothing matches --filter; --list lists all that can be measured");
    Ok(plan)
}

fn list(plan: &Plan) {
    for group in &plan.groups {
        let names: Vec<&str> = group.targets.iter().map(|t| plan.targets[*t].name.as_str()).collect();
        println!("{}: {}", group.load.name(), names.join(" "));
    }
}

/// A quick run for `cargo xtask test`. Returns its problems, also those of its report, and where the report is.
pub fn smoke_test(paths: &Paths, prepared: &Prepared) -> Result<(Vec<String>, PathBuf)> {
    let out = paths.results(SMOKE_TEST);
    let plan = plan(&CompareArgs { quick: true, ..CompareArgs::default() })?;
    let (results, _, mut problems) = compare(paths, prepared, &plan, &[], &out, |_| ())?;
    problems.extend(results.failed);
    Ok((problems, out))
}

/// The name of that test.
pub const SMOKE_TEST: &str = "compare-quick";

/// Measures and writes the report; also returns what is missing in it. `begin` gets the header when the guest is up.
fn compare(
    paths: &Paths,
    prepared: &Prepared,
    plan: &Plan,
    device: &[String],
    out: &Path,
    begin: impl FnOnce(&Header),
) -> Result<(Results, Header, Vec<String>)> {
    let logs = out.join("logs");
    cache::remove_tree(&logs)?;
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut not_run = vec![];
    let mut plan = plan.clone();
    if plan.targets.iter().any(Target::is_ufs)
        && let Err(error) = kernel_modules::ufs(paths, &prepared.machine)
    {
        // Debian's kernel can always have them.
        ensure!(matches!(prepared.machine.kernel.origin, Origin::User { .. }), "{error:#}");
        not_run.extend(plan.leave_out_ufs().into_iter().map(|name| (name, format!("{error:#}"))));
    }
    let plan = &plan;
    let (images, place) = images(plan, out)?;
    let mut guest =
        progress::step("guest boot", || Guest::boot(paths, prepared, plan, device, (images.path(), &logs)))?;
    let header = header::header(prepared, &guest, plan, place)?;
    begin(&header);
    let mut results = Results { not_run, ..Results::default() };
    let ran = run::run(&mut guest, plan, &prepared.machine.kernel, &mut results);
    if let Err(error) = &ran {
        results.failed.push(format!("{error:#}"));
    }
    match guest.finish() {
        Ok(problems) => results.failed.extend(problems),
        // A guest that is gone cannot be shut down.
        Err(error) if ran.is_ok() => results.failed.push(format!("{error:#}")),
        Err(_) => {}
    }
    report::write(plan, &header, &results, out)?;
    let missing = check::problems(out).iter().map(|p| format!("the report is not complete: {p}")).collect();
    Ok((results, header, missing))
}

/// A directory for the images: in memory if there is room, because the host's disk is not what is compared.
fn images(plan: &Plan, out: &Path) -> Result<(tempfile::TempDir, &'static str)> {
    let memory = PathBuf::from("/dev/shm");
    let used = (plan.targets.len() as u64 * (plan.file_mib + 160)) << 20;
    let room = rustix::fs::statvfs(&memory).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    let (parent, place) = if room > 2 * used { (memory.as_path(), "on tmpfs") } else { (out, "on a disk") };
    let dir = tempfile::Builder::new().prefix("vubc-compare-").tempdir_in(parent);
    Ok((dir.with_context(|| format!("cannot make a directory in {}", parent.display()))?, place))
}
