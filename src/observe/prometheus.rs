// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The statistics in Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;

use super::stats::{Field, QueueTotals, QueueType, Stats};

/// Before every name.
const PREFIX: &str = "vhost_user_blk_crypto";
/// Name of the gauge of a queue's state.
pub const QUEUE_RUNNING: &str = "vhost_user_blk_crypto_queue_running";
/// Name of the histogram of latencies.
pub const LATENCY: &str = "vhost_user_blk_crypto_latency_seconds";
/// Latency buckets end at powers of two, from 2^10 ns (1 us) to 2^34 ns (17 s).
const BUCKETS: std::ops::RangeInclusive<u32> = 10..=34;

/// The name of a counter.
pub fn name(group: &str, field: &Field) -> String {
    format!("{PREFIX}_{group}_{}_total", field.name)
}

/// All statistics, each counter with its help text.
pub fn text(stats: &Stats) -> String {
    let mut out = Text(String::new());
    out.header(&format!("{PREFIX}_build_info"), "gauge", "The version of the device and its crypto engine; always 1.");
    out.sample(&format!("{PREFIX}_build_info"), &[("version", env!("CARGO_PKG_VERSION")), ("engine", stats.engine)], 1);
    out.header(QUEUE_RUNNING, "gauge", "Whether the queue is started and enabled.");
    for queue in &stats.queues {
        let number = queue.queue.to_string();
        out.sample(QUEUE_RUNNING, &[("queue", &number)], queue.running.into());
    }
    for (index, field) in QueueType::FIELDS.iter().enumerate() {
        let name = name("queue", field);
        out.header(&name, "counter", field.doc);
        for queue in &stats.queues {
            let number = queue.queue.to_string();
            for (kind, counters) in &queue.types {
                let value = counters.values().nth(index).map_or(0, |(_, value)| value);
                out.sample(&name, &[("queue", &number), ("type", kind)], value);
            }
        }
    }
    for (index, field) in QueueTotals::FIELDS.iter().enumerate() {
        let name = name("queue", field);
        out.header(&name, "counter", field.doc);
        for queue in &stats.queues {
            let value = queue.totals.values().nth(index).map_or(0, |(_, value)| value);
            out.sample(&name, &[("queue", &queue.queue.to_string())], value);
        }
    }
    out.group("request_keys", stats.request_keys.values());
    out.group("keyslots", stats.keyslots.values().filter(|(field, _)| !KEYSLOTS_BY_QUEUE.contains(&field.name)));
    out.group("events", stats.events.values());
    out.latency(stats);
    out.0
}

/// Fields of [`Keyslots`](super::stats::Keyslots) that the queues' counters already have.
pub const KEYSLOTS_BY_QUEUE: &[&str] = &["nokey"];

struct Text(String);

impl Text {
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        // Help texts need no other escapes.
        let help = help.trim().replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values are numbers and names, which need no escapes.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.sample_text(name, labels, &value.to_string());
    }

    fn sample_text(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn group(&mut self, group: &str, values: impl Iterator<Item = (&'static Field, u64)>) {
        for (field, value) in values {
            let name = name(group, field);
            self.header(&name, "counter", field.doc);
            self.sample(&name, &[], value);
        }
    }

    fn latency(&mut self, stats: &Stats) {
        let name = LATENCY;
        self.header(name, "histogram", "Times of the stages of requests, while they were recorded.");
        for (stage, distribution) in stats.latency.stages() {
            let label = ("stage", stage.name);
            let bucket = format!("{name}_bucket");
            for (bound, count) in distribution.cumulative(BUCKETS) {
                self.sample(&bucket, &[label, ("le", &seconds(bound))], count);
            }
            self.sample(&bucket, &[label, ("le", "+Inf")], distribution.count());
            self.sample_text(&format!("{name}_sum"), &[label], &seconds(distribution.sum()));
            self.sample(&format!("{name}_count"), &[label], distribution.count());
        }
    }
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
