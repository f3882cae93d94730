// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report as JSON and CSV, for programs.

use super::answer::answer;
use super::plan::Plan;
use super::results::{Results, Sample, Series};
use crate::measure::header::Header;
use crate::measure::statistics;
use serde_json::{Value, json};

/// Everything.
pub fn json(plan: &Plan, header: &Header, results: &Results) -> Value {
    let planned = plan
        .groups
        .iter()
        .flat_map(|g| g.targets.iter().map(|at| json!({ "load": g.load.name(), "target": plan.targets[*at].name })));
    let targets = results.verdicts.iter().map(|(target, verdict)| {
        json!({
            "target": target.name, "file_system": target.fs.name(), "how": target.how.title(), "base": target.base(),
            "keyslots": target.keyslots(), "ran_as": verdict.way.title(), "kernel_said": verdict.kernel,
            "device_counted": verdict.device, "problem": verdict.problem,
        })
    });
    let cost = |writing| {
        results
            .cost_of_a_program(writing)
            .map(|c| json!({ "request_us": c.request, "program_us": c.program, "points": c.points }))
    };
    let key_in_request = |writing| results.time_with_key_in_request(writing).map(|(us, _)| us);
    let not_run = results.not_run.iter().map(|(target, reason)| json!({ "target": target, "reason": reason }));
    json!({
        "header": header.json(),
        "warning": header.warning,
        "keyslots_for_per_extent_keys": answer(results),
        "rounds": plan.rounds,
        "planned": planned.collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
        "results": results.series.iter().map(|s| series(results, s)).collect::<Vec<_>>(),
        "cost_of_a_program": { "read": cost(false), "write": cost(true) },
        "request_with_its_key_us": { "read": key_in_request(false), "write": key_in_request(true) },
        "not_run": not_run.collect::<Vec<_>>(),
        "failed": results.failed,
    })
}

fn series(results: &Results, series: &Series) -> Value {
    let summary = statistics::summary(&series.speeds());
    json!({
        "load": series.load.name(), "title": series.load.title(), "target": series.target.name, "unit": series.load.unit(),
        "median": summary.map(|s| s.median), "min": summary.map(|s| s.min), "max": summary.map(|s| s.max),
        "base": series.target.base(), "ratio": results.ratio(series),
        "p50_us": series.latency(|l| l.p50), "p95_us": series.latency(|l| l.p95), "p99_us": series.latency(|l| l.p99),
        "guest_cpu_s_per_gb": series.median(Sample::guest_cpu_per_gb),
        "device_cpu_s_per_gb": series.median(Sample::device_cpu_per_gb),
        "programs_per_s": series.median(Sample::programs), "programs_per_request": series.counters().programs_per_request(),
        "hit_rate": series.hit_rate(),
        "samples": series.samples,
    })
}

const COLUMNS: &str = "load,target,ran_as,round,requests,bytes,seconds,speed,unit,mean_us,p50_us,p95_us,p99_us,guest_cpu_s,\
    device_cpu_s,crypto_bytes,plain_bytes,encrypted_units,decrypted_units,programs,evicts,hit_rate";

/// A line for each measurement. No field has a comma.
pub fn csv(results: &Results) -> String {
    let mut text = format!("{COLUMNS}\n");
    for series in &results.series {
        let way = results.verdicts.iter().find(|(t, _)| *t == series.target).map_or("?", |(_, v)| v.way.title());
        for (round, s) in series.samples.iter().enumerate() {
            let (counted, counters) = (s.counted, s.counters);
            let latency = counted.latency.map(|l| [l.mean, l.p50, l.p95, l.p99].map(|us| format!("{us:.1}")));
            let hit_rate = counters.hit_rate().map(|r| format!("{r:.4}")).unwrap_or_default();
            let fields = [
                series.load.name(),
                series.target.name.clone(),
                way.to_owned(),
                (round + 1).to_string(),
                counted.requests.to_string(),
                counted.bytes.to_string(),
                format!("{:.4}", counted.seconds),
                format!("{:.2}", Series::speed(s, series.load)),
                series.load.unit().to_owned(),
                latency.unwrap_or_default().join(","),
                format!("{:.2}", s.guest_cpu),
                format!("{:.2}", s.device_cpu),
                counters.crypto_bytes.to_string(),
                counters.plain_bytes.to_string(),
                counters.encrypted.to_string(),
                counters.decrypted.to_string(),
                counters.programs.to_string(),
                counters.evicts.to_string(),
                hit_rate,
            ];
            text += &(fields.join(",") + "\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn a_line_for_each_measurement() {
        let results = results();
        let text = csv(&results);
        let columns = COLUMNS.split(',').count();
        assert!(text.lines().all(|l| l.split(',').count() == columns), "{text}");
        assert_eq!(text.lines().count(), 1 + results.series.iter().map(|s| s.samples.len()).sum::<usize>());
        assert!(text.contains("\nchurn-read-256,churn/1,NATIVE,1,7000,"), "{text}");
    }

    #[test]
    fn json_has_all_that_was_planned() {
        let plan = Plan::new(true, &[], None, None);
        let json = json(&plan, &Header::default(), &results());
        assert_eq!(json["planned"].as_array().unwrap().len(), json["results"].as_array().unwrap().len());
        assert_eq!(json["results"][0]["samples"][1]["seconds"], 1.0);
        assert_eq!(json["not_run"][0]["target"], "f2fs/plain");
    }
}
