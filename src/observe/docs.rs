// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `docs/statistics.md`, made from the documentation of the counters. A test compares the two.

use std::fmt::Write;

use super::prometheus::{self, KEYSLOTS_BY_QUEUE};
use super::stats::{
    Bytes, DataUnits, Events, Field, Keyslots, Latency, QUANTILES, QueueTotals, QueueType, RequestKeys, Requests,
    WrappedKeys,
};

/// In front of the tables.
const INTRODUCTION: &str = "\
# Statistics

Made from the source by `UPDATE_DOCS=1 cargo test --test statistics`; edit the comments there.

The device counts from its start until it ends; counters only rise. `--stats FILE` writes them as JSON when a frontend
disconnects and at exit; `ctl stats` asks a running device. `ctl stats --format prometheus` prints Prometheus' text format,
0.0.4. The device continues while its counters are read, so two of them may be a few requests apart.

In JSON a counter has the name of its group and its own, as in `requests.crypto_in`. In Prometheus' format it has the name in
the tables. That format has no sums over queues and types; make them in the query.

`engine` is the name of the crypto engine in use, as in `--crypto-engine`.
";

/// The whole file.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    section(&mut out, "requests", Requests::ABOUT, Requests::FIELDS, |_| None);
    section(&mut out, "bytes", Bytes::ABOUT, Bytes::FIELDS, |_| None);
    section(&mut out, "data_units", DataUnits::ABOUT, DataUnits::FIELDS, |_| None);
    let keyslots =
        |field: &Field| (!KEYSLOTS_BY_QUEUE.contains(&field.name)).then(|| prometheus::name("keyslots", field));
    section(&mut out, "keyslots", Keyslots::ABOUT, Keyslots::FIELDS, keyslots);
    section(&mut out, "request_keys", RequestKeys::ABOUT, RequestKeys::FIELDS, |field| {
        Some(prometheus::name("request_keys", field))
    });
    section(&mut out, "wrapped_keys", WrappedKeys::ABOUT, WrappedKeys::FIELDS, |_| None);
    section(&mut out, "events", Events::ABOUT, Events::FIELDS, |field| Some(prometheus::name("events", field)));
    section(&mut out, "queues[]", QueueTotals::ABOUT, QueueTotals::FIELDS, |field| {
        Some(format!("{}{{queue}}", prometheus::name("queue", field)))
    });
    let _ = writeln!(
        out,
        "\n`queue` is the queue's number. `running` says whether it is started and enabled (gauge `{}{{queue}}`).",
        prometheus::QUEUE_RUNNING
    );
    section(&mut out, "queues[].types.TYPE", QueueType::ABOUT, QueueType::FIELDS, |field| {
        Some(format!("{}{{queue,type}}", prometheus::name("queue", field)))
    });
    out += "\nTYPE is ";
    let names: Vec<_> = super::Kind::ALL.iter().map(|kind| format!("`{}`", kind.name())).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}; `other` is for requests without a header or of an unknown type.", names.join(", "));
    latency(&mut out);
    out
}

fn section(
    out: &mut String,
    group: &str,
    about: &str,
    fields: &[Field],
    prometheus: impl Fn(&Field) -> Option<String>,
) {
    let _ = write!(out, "\n## `{group}`\n\n{}\n\n| counter | Prometheus | what |\n|---|---|---|\n", about.trim());
    for field in fields {
        let name = prometheus(field).map_or_else(|| "sum of `queue` metrics".to_owned(), |name| format!("`{name}`"));
        let _ = writeln!(out, "| `{}` | {name} | {} |", field.name, field.doc.trim());
    }
}

fn latency(out: &mut String) {
    *out += "\n## `latency`\n\nTimes of requests, in nanoseconds. The device records them while `on` is true: with `--latency` or after `ctl latency on`.\nIt reads no clock while neither latencies nor a trace are wanted. Values are accurate to 3 %, `max_ns` is exact.\n\n| stage | what |\n|---|---|\n";
    for (field, _) in Latency::default().stages() {
        let _ = writeln!(out, "| `{}` | {} |", field.name, field.doc);
    }
    let names: Vec<_> = QUANTILES.iter().map(|(name, _)| format!("`{name}`")).collect();
    let _ = writeln!(
        out,
        "\nEach has `count`, `mean_ns`, {} and `max_ns`. In Prometheus' format they are the histogram\n`{}{{stage}}`, with buckets at powers of two of a nanosecond, 1 us to 17 s.",
        names.join(", "),
        prometheus::LATENCY,
    );
}
