// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report for people.

use super::client::Measured;
use super::results::{Results, Series};
use super::statistics;

/// One table for each load and client.
pub fn tables(results: &Results, baseline: &str) -> String {
    let mut text = String::new();
    for group in grouped(results) {
        let Some(first) = group.first() else { continue };
        let unit = if first.workload.is_throughput() { "GB/s" } else { "kIOPS" };
        let base = match first.workload.reference() {
            Some(_) => "one key",
            None => baseline,
        };
        text += &format!("{} · {} · {}\n", first.workload.title, first.place.name(), first.client.name());
        let ratio = format!("x {base}");
        let head = ["", unit, "min..max", &ratio, "CPU s/M req", "CPU s/GB", "keys/s"];
        text += &row(head.map(str::to_owned), first.workload.reference().is_some());
        for series in group {
            text += &row(columns(results, series, baseline), series.workload.reference().is_some());
        }
        text.push('\n');
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

fn columns(results: &Results, series: &Series, baseline: &str) -> [String; 7] {
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

fn row([name, median, spread, ratio, million, gigabyte, keys]: [String; 7], with_keys: bool) -> String {
    let mut text = format!("  {name:<20} {median:>8} {spread:>16} {ratio:>16} {million:>12} {gigabyte:>9}");
    if with_keys {
        text += &format!(" {keys:>8}");
    }
    text.trim_end().to_owned() + "\n"
}

/// Who did not take part.
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
        let text = tables(&results, "qsd-uring");
        let ours: Vec<&str> = text.lines().find(|l| l.contains("ours")).unwrap().split_whitespace().collect();
        assert_eq!(ours, ["ours+4096", "250.0", "250.0..250.0", "2.50", "2.00", "0.488"]);
        assert!(text.contains("1.31") && text.contains("GB/s"), "{text}");
        assert_eq!(grouped(&results).len(), 2);
    }
}
