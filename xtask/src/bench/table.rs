// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report on the terminal.

use super::client::Measured;
use super::results::{Results, Series};
use crate::measure::statistics;
use crate::measure::table::Table;

/// One table for each load and client.
pub fn text(results: &Results, baseline: &str) -> String {
    let mut text = String::new();
    for group in grouped(results) {
        let Some(first) = group.first() else { continue };
        let unit = if first.workload.is_throughput() { "GB/s" } else { "kIOPS" };
        let base = match first.workload.reference() {
            Some(_) => "one key",
            None => baseline,
        };
        let ratio = format!("x {base}");
        let head = ["contender", unit, "min..max", &ratio, "CPU s/M req", "CPU s/GB", "keys/s"];
        let columns = if first.workload.reference().is_some() { 7 } else { 6 };
        let cut = |cells: [String; 7]| cells.into_iter().take(columns).collect();
        let table = Table {
            title: first.title(),
            head: cut(head.map(str::to_owned)),
            rows: group.iter().map(|series| cut(cells(results, series, baseline))).collect(),
            numbers: 1,
        };
        text += &(table.text() + "\n");
    }
    text
}

/// Series with the same load and client, in the order of the plan.
pub fn grouped(results: &Results) -> Vec<Vec<&Series>> {
    let mut groups: Vec<Vec<&Series>> = vec![];
    for series in &results.series {
        let same = |group: &&mut Vec<&Series>| {
            group.first().is_some_and(|f| {
                (f.place, f.workload.name, f.client) == (series.place, series.workload.name, series.client)
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(series),
            None => groups.push(vec![series]),
        }
    }
    groups
}

fn cells(results: &Results, series: &Series, baseline: &str) -> [String; 7] {
    let throughput = series.workload.is_throughput();
    let values = series.values(|m| if throughput { m.throughput() / 1e9 } else { m.iops() / 1e3 });
    let digits = if throughput { 2 } else { 1 };
    let median = |number: fn(&Measured) -> f64| statistics::median(&series.values(number)).unwrap_or(0.0);
    let no_server = series.samples.iter().all(|m| m.server_cpu == 0.0);
    let cpu = |text: String| if no_server { "-".to_owned() } else { text };
    let summary = statistics::summary(&values);
    [
        series.contender.name.to_owned(),
        summary.map(|s| format!("{:.digits$}", s.median)).unwrap_or_default(),
        summary.map(|s| format!("{:.digits$}..{:.digits$}", s.min, s.max)).unwrap_or_default(),
        results.ratio(series, baseline).map_or("-".to_owned(), |r| format!("{r:.2}")),
        cpu(format!("{:.2}", median(Measured::cpu_per_million))),
        cpu(format!("{:.3}", median(Measured::cpu_per_gigabyte))),
        format!("{:.0}", median(|m| m.programs / m.seconds)),
    ]
}

/// Contenders that did not run.
pub fn not_run(results: &Results) -> String {
    let mut text = String::new();
    for (place, name, reason) in &results.not_run {
        text += &format!("not run: {name} on {}: {reason}\n", place.name());
    }
    for what in &results.failed {
        text += &format!("FAILED: {what}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn a_table_has_medians_and_ratios() {
        let results = results(&[
            ("randread-qd32", "qsd-uring", 100_000.0),
            ("randread-qd32", "ours+4096", 250_000.0),
            ("seqread-qd32", "qsd-uring", 10_000.0),
        ]);
        let text = text(&results, "qsd-uring");
        let ours: Vec<&str> = text.lines().find(|l| l.contains("ours")).unwrap().split_whitespace().collect();
        assert_eq!(ours, ["ours+4096", "250.0", "250.0..250.0", "2.50", "2.00", "0.488"]);
        assert!(text.contains("1.31") && text.contains("GB/s"), "{text}");
        assert_eq!(grouped(&results).len(), 2);
    }
}
