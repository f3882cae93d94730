// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's tables.

use super::load::{Latency, Load};
use super::results::{Results, Sample, Series};
use super::target::{Disk, Kind, Target};
use super::verdict::Way;
use crate::measure::statistics;
use crate::measure::table::{Table, number};

/// Who encrypted each target, and how that is known.
pub fn verdicts(results: &Results) -> Table {
    let rows = results.verdicts.iter().map(|(target, verdict)| {
        let how = match target.keyslots() {
            Some(1) => format!("{}, 1 keyslot", target.how.title()),
            Some(n) => format!("{}, {n} keyslots", target.how.title()),
            None if target.disk == Disk::KeysInRequests => "fscrypt, -o inlinecrypt, keys in requests".to_owned(),
            None => target.how.title().to_owned(),
        };
        let way = match &verdict.problem {
            None => verdict.way.title().to_owned(),
            Some(problem) => format!("{}: WRONG, {problem}", verdict.way.title()),
        };
        vec![target.name.clone(), way, how, verdict.kernel.clone(), verdict.device.clone()]
    });
    Table {
        title: "Who encrypted".to_owned(),
        head: ["target", "ran as", "what", "the kernel said", "the device counted"].map(str::to_owned).to_vec(),
        rows: rows.collect(),
        numbers: 5,
    }
}

/// One table for each load.
pub fn measurements(results: &Results) -> Vec<Table> {
    results
        .groups()
        .into_iter()
        .map(|(load, group)| Table {
            title: format!("{} ({})", load.title(), load.name()),
            head: head(load),
            rows: group.iter().map(|series| row(results, series)).collect(),
            numbers: 2,
        })
        .collect()
}

fn head(load: &Load) -> Vec<String> {
    let base = match load.kind() {
        Kind::Ordinary => "x plain",
        Kind::Churn => "x fallback",
        Kind::Front => "x virtio",
    };
    let mut head = vec!["target", "ran as", load.unit(), "min..max", base];
    if *load != Load::Untar {
        head.extend(["p50 us", "p95 us", "p99 us"]);
    }
    head.extend(["guest CPU s/GB", "device CPU s/GB"]);
    if load.is_churn() {
        head.extend(["programs/s", "hit rate"]);
    }
    head.into_iter().map(str::to_owned).collect()
}

fn row(results: &Results, series: &Series) -> Vec<String> {
    let way = results.verdicts.iter().find(|(t, _)| *t == series.target).map(|(_, v)| v.way);
    let summary = statistics::summary(&series.speeds());
    let latency = |which: fn(&Latency) -> f64| series.latency(which).map_or("-".to_owned(), |us| format!("{us:.0}"));
    let mut row = vec![
        series.target.name.clone(),
        way.map_or("?", Way::title).to_owned(),
        summary.map(|s| number(s.median)).unwrap_or_default(),
        summary.map(|s| format!("{}..{}", number(s.min), number(s.max))).unwrap_or_default(),
        results.ratio(series).map_or("-".to_owned(), |r| format!("{r:.2}")),
    ];
    if *series.load != Load::Untar {
        row.extend([latency(|l| l.p50), latency(|l| l.p95), latency(|l| l.p99)]);
    }
    row.push(format!("{:.2}", series.median(Sample::guest_cpu_per_gb)));
    row.push(format!("{:.2}", series.median(Sample::device_cpu_per_gb)));
    if series.load.is_churn() {
        row.push(number(series.median(Sample::programs)));
        let hit_rate = series.target.keyslots().and_then(|_| series.hit_rate());
        row.push(hit_rate.map_or("-".to_owned(), |r| format!("{:.1} %", 100.0 * r)));
    }
    row
}

/// The cost of a key, in two sentences: programmed into a slot, and carried by the request.
pub fn costs(results: &Results) -> Vec<String> {
    let mut lines = vec![];
    for (writing, what) in [(false, "reads"), (true, "writes")] {
        let slots = results.cost_of_a_program(writing);
        lines.extend(slots.map(|cost| {
            format!(
                "Random {what} of 4 KiB, one after the other: {:.0} us when the key is in a slot, and {:.0} us more for each \
                 key that is programmed (straight line through {} measurements).",
                cost.request, cost.program, cost.points
            )
        }));
        lines.extend(results.time_with_key_in_request(writing).map(|(us, samples)| {
            let than = slots.map(|cost| format!(", where a key that is programmed makes it {:.0} us", cost.request + cost.program));
            format!(
                "The same {what} with keys in requests: {us:.0} us whatever the keys (median of {samples} measurements){}.",
                than.unwrap_or_default()
            )
        }));
    }
    lines
}

/// How much of virtio's speed the UFS host controller reaches, in a sentence for each load.
pub fn fronts(results: &Results) -> Vec<String> {
    let best = |group: &[&Series], ufs: bool| {
        let front = |t: &Target| t.kind == Kind::Front && t.is_ufs() == ufs;
        let speeds = group.iter().filter(|s| front(&s.target));
        speeds.filter_map(|s| statistics::median(&s.speeds())).max_by(f64::total_cmp)
    };
    let groups = results.groups().into_iter();
    let lines = groups.filter_map(|(load, group)| {
        let (ufs, virtio, aim) = (best(&group, true)?, best(&group, false)?, load.aim_of_ufs()?);
        let (ratio, unit) = (ufs / virtio, load.unit());
        let reached = if ratio < aim { "not reached" } else { "reached" };
        let (ufs, virtio) = (number(ufs), number(virtio));
        Some(format!("{}: {ratio:.2} ({ufs} and {virtio} {unit}); the aim is {aim}, {reached}.", load.title()))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn tables_have_a_cell_for_each_column() {
        let results = results();
        let tables = measurements(&results);
        assert_eq!(tables.len(), results.groups().len());
        for table in tables.iter().chain([&verdicts(&results)]) {
            assert!(
                !table.rows.is_empty() && table.rows.iter().all(|r| r.len() == table.head.len()),
                "{}",
                table.title
            );
            assert_eq!(table.markdown().lines().count(), table.rows.len() + 4);
            assert_eq!(table.text().lines().count(), table.rows.len() + 2);
        }
    }

    #[test]
    fn keys_in_requests_have_a_line_of_their_own() {
        let mut results = results();
        let lines = costs(&results);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].starts_with("The same reads with keys in requests: 83 us"), "{}", lines[1]);
        results.series.retain(|s| s.target.keyslots().is_some());
        assert_eq!(costs(&results).len(), 1);
    }
}
