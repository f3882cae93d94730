// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's first paragraph, if key changes were measured: how many keyslots do per-extent keys need?

use super::load::Load;
use super::results::{Results, Series};
use super::target::Disk;

/// What it answers.
pub const QUESTION: &str = "How many keyslots do per-extent keys need?";

/// Fewer program commands per request count as none: each key is in a slot.
const NONE: f64 = 0.02;

/// Program commands per request, for one number of keyslots.
type Point = (u32, f64);

/// The loads with the most keys, which are the nearest to a key for each extent.
struct Most<'a> {
    files: u32,
    /// What the load does, and its series.
    loads: Vec<(&'static str, Vec<&'a Series>)>,
}

/// The answer, from the run's own numbers. `None`: no disk with keyslots, or no key change, was measured.
pub fn answer(results: &Results) -> Option<String> {
    let most = most(results)?;
    let points: Vec<(&str, Vec<Point>)> =
        most.loads.iter().map(|(what, group)| (*what, points(group))).filter(|(_, p)| !p.is_empty()).collect();
    let files = most.files;
    let verdict = match enough(&points)? {
        (true, slots) => format!("As many as there are keys in use: here {slots} for {files} keys."),
        (false, slots) => format!("More than {slots}: as many as there are keys in use."),
    };
    let numbers = points.iter().map(|(what, points)| format!("random {what} need {}", words(points)));
    let numbers = numbers.collect::<Vec<_>>().join("; ");
    let without = without_keyslots(&most).unwrap_or_default();
    Some(format!(
        "{verdict} Program commands per request to {files} files with a key each: {numbers}. A key of one extent serves few \
         requests, so the next one seldom finds its own in a slot.{without}"
    ))
}

fn most(results: &Results) -> Option<Most<'_>> {
    let mut loads: Vec<(u32, &'static str, Vec<&Series>)> = vec![];
    for (load, group) in results.groups() {
        if let Load::Churn { files, writing } = load {
            loads.push((*files, if *writing { "writes" } else { "reads" }, group));
        }
    }
    let files = loads.iter().map(|(files, ..)| *files).max()?;
    let loads = loads.into_iter().filter(|(n, ..)| *n == files).map(|(_, what, group)| (what, group)).collect();
    Some(Most { files, loads })
}

fn points(group: &[&Series]) -> Vec<Point> {
    group.iter().filter_map(|s| Some((s.target.keyslots()?, s.counters().programs_per_request()?))).collect()
}

/// True and the fewest keyslots that were enough for all loads, or false and the most that were measured.
fn enough(points: &[(&str, Vec<Point>)]) -> Option<(bool, u32)> {
    let all = || points.iter().flat_map(|(_, points)| points);
    let mut slots: Vec<u32> = all().map(|(slots, _)| *slots).collect();
    slots.sort_unstable();
    let found = slots.iter().find(|n| all().filter(|(slots, _)| slots == *n).all(|(_, programs)| *programs < NONE));
    found.map(|n| (true, *n)).or_else(|| Some((false, *slots.last()?)))
}

fn words(points: &[Point]) -> String {
    let with = points.iter().map(|(slots, programs)| match slots {
        1 => format!("{programs:.2} with 1 keyslot"),
        _ => format!("{programs:.2} with {slots}"),
    });
    with.collect::<Vec<_>>().join(", ")
}

/// The sentence about requests that carry their keys.
fn without_keyslots(most: &Most) -> Option<String> {
    let series = most.loads.iter().flat_map(|(_, group)| group).filter(|s| s.target.disk == Disk::KeysInRequests);
    let counters = series.map(|s| s.counters()).reduce(|all, c| all.plus(c))?;
    Some(format!(
        " Without keyslots, each request carries its key: {:.2} program commands per request, however many keys there are.",
        counters.programs_per_request()?
    ))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn the_answer_is_from_the_run() {
        let answer = answer(&results()).unwrap();
        assert!(answer.starts_with("More than 32: "), "{answer}");
        assert!(
            answer.contains("256 files with a key each: random reads need 1.00 with 1 keyslot, 0.88 with 32."),
            "{answer}"
        );
        assert!(answer.contains("carries its key: 0.00 program commands per request"), "{answer}");
    }

    #[test]
    fn keyslots_for_all_keys_are_enough() {
        let points =
            |programs: f64| vec![("reads", vec![(1, 1.0), (256, 0.0), (1024, 0.0)]), ("writes", vec![(256, programs)])];
        assert_eq!(enough(&points(0.0)), Some((true, 256)));
        assert_eq!(enough(&points(0.5)), Some((true, 1024)));
        assert_eq!(enough(&[("reads", vec![(1, 1.0), (4, 0.9)])]), Some((false, 4)));
        assert_eq!(enough(&[]), None);
    }

    #[test]
    fn no_change_of_keys_no_answer() {
        let mut results = results();
        results.series.retain(|s| s.target.keyslots().is_none());
        assert_eq!(answer(&results), None);
        results.series.clear();
        assert_eq!(answer(&results), None);
    }
}
