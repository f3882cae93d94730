// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the targets, and measures them in rounds.

use super::disk::Counters;
use super::guest::Guest;
use super::load::Load;
use super::plan::{self, Plan};
use super::results::{Results, Series};
use super::target::{How, Target};
use super::verdict::{self, Said};
use crate::case::UFS_NEEDS;
use crate::kernel::Kernel;
use crate::kernel_modules;
use crate::progress::Progress;
use anyhow::Result;
use std::collections::BTreeMap;

/// Length of a first, discarded measurement.
const WARM_UP: f64 = 0.3;

/// An emulator translates each path through the kernel and fio when it is first taken. `key-churn` begins with requests
/// that do not count.
fn needs_warm_up(load: &Load) -> bool {
    !load.is_churn()
}

/// Measures all of the plan. An error means that the guest is gone.
pub fn run(guest: &mut Guest, plan: &Plan, kernel: &Kernel, results: &mut Results) -> Result<()> {
    let said = make(guest, plan, kernel, results);
    for group in &plan.groups {
        let able = group.targets.iter().filter(|at| said.contains_key(at)).map(|at| &plan.targets[*at]);
        results.series.extend(able.map(|t| Series { load: group.load, target: t.clone(), samples: vec![] }));
    }
    let warm_up = results.series.iter().filter(|s| needs_warm_up(s.load)).count();
    let mut progress = Progress::new(results.series.len() * plan.rounds as usize + warm_up);
    for round in 0..=plan.rounds {
        for group in &plan.groups {
            let seconds = match round.checked_sub(1) {
                None if !needs_warm_up(group.load) => continue,
                None => WARM_UP.min(plan.seconds),
                Some(_) => plan.seconds,
            };
            for at in plan::turn(&group.targets, round) {
                if !said.contains_key(&at) {
                    continue;
                }
                let target = &plan.targets[at];
                show(&mut progress, round, plan.rounds, group.load, target);
                match guest.measure(plan, (group.load, seconds), target, round) {
                    Ok(_) if round == 0 => {}
                    Ok(sample) => {
                        let series = results.series.iter_mut().find(|s| s.load == group.load && s.target == *target);
                        series.into_iter().for_each(|s| s.samples.push(sample));
                    }
                    Err(error) => {
                        let what = format!("{}, {}: {error:#}", target.name, group.load.name());
                        progress.print(&format!("FAILED: {what}"));
                        results.failed.push(what);
                        guest.said()?;
                    }
                }
                progress.next();
            }
        }
    }
    drop(progress);
    judge(guest, plan, &said, results)
}

/// Makes the targets that can be made, and records why the others cannot. Returns fscrypt's messages about each.
fn make(guest: &mut Guest, plan: &Plan, kernel: &Kernel, results: &mut Results) -> BTreeMap<usize, Said> {
    let mut order: Vec<usize> = (0..plan.targets.len()).collect();
    order.sort_by_key(|at| plan.targets[*at].setup_order());
    let mut progress = Progress::new(order.len());
    let mut said = BTreeMap::new();
    for at in &order {
        let target = &plan.targets[*at];
        progress.begin(format!("making the file system {}", target.name));
        let missing = symbols(target).find(|symbol| !kernel_modules::usable(kernel, symbol));
        let needless = plan.quick && is_base_of_nothing(plan, &said, *at);
        let made = match missing {
            Some(symbol) => Err(format!("the guest's kernel has no {symbol}")),
            None if needless => {
                Err("a quick run needs it only as a base for others, which could not be made".to_owned())
            }
            None => guest.make(plan, target).map_err(|e| format!("{e:#}{}", lacking(target))),
        };
        match made {
            Ok(words) => drop(said.insert(*at, words)),
            Err(reason) => {
                // Every kernel here supports these, so they must work.
                if missing.is_none() && target.expected().is_some() && !needless {
                    results.failed.push(format!("{}: {reason}", target.name));
                }
                results.not_run.push((target.name.clone(), reason));
            }
        }
        progress.next();
    }
    said
}

/// Whether a target is the base of others, none of which could be made. Only btrfs/plain is made after the targets that
/// are compared with it.
fn is_base_of_nothing(plan: &Plan, said: &BTreeMap<usize, Said>, at: usize) -> bool {
    let base = &plan.targets[at];
    let mut others = (0..plan.targets.len()).filter(|n| *n != at && plan.targets[*n].base() == base.name).peekable();
    base.name == "btrfs/plain" && others.peek().is_some() && !others.any(|n| said.contains_key(&n))
}

/// What the kernel probably lacks if a file system does not encrypt whose encryption is not merged yet.
fn lacking(target: &Target) -> String {
    if target.expected().is_some() { String::new() } else { format!("; {}", crate::btrfs::LACKING) }
}

/// What a target needs of the guest's kernel.
pub fn symbols(target: &Target) -> impl Iterator<Item = &'static str> {
    let how = match target.how {
        How::Plain => None,
        How::Native | How::Fallback | How::NoInlinecrypt => Some("CONFIG_FS_ENCRYPTION_INLINE_CRYPT"),
        How::DmCrypt => Some("CONFIG_DM_CRYPT"),
        How::DmInlinecrypt => Some("CONFIG_DM_INLINECRYPT"),
    };
    let ufs = if target.is_ufs() { &UFS_NEEDS[..] } else { &[] };
    how.into_iter().chain([target.fs.symbol()]).chain(ufs.iter().copied())
}

/// Native or fallback, for each target.
fn judge(guest: &mut Guest, plan: &Plan, said: &BTreeMap<usize, Said>, results: &mut Results) -> Result<()> {
    let later = guest.said()?;
    if !later.new.is_empty() {
        results.failed.push(format!("fscrypt logged more after all files were made: {}", later.new.join("; ")));
    }
    for (at, words) in said {
        let target = &plan.targets[*at];
        let mine = || results.series.iter().filter(|s| s.target == *target);
        let counters = mine().fold(Counters::default(), |all, s| all.plus(s.counters()));
        let bytes: f64 = mine().flat_map(|s| &s.samples).map(|s| s.counted.bytes).sum();
        let verdict = verdict::judge(target, words, counters, bytes);
        if let Some(problem) = &verdict.problem {
            results.failed.push(format!("{}: {problem}", target.name));
        }
        results.verdicts.push((target.clone(), verdict));
    }
    Ok(())
}

fn show(progress: &mut Progress, round: u32, rounds: u32, load: &Load, target: &Target) {
    let round = if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
    progress.begin(format!("{round}, {}, {}", load.name(), target.name));
}
