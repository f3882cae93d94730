// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's counters, and the formats in which it reports them.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::*;
use vhost_user_blk_crypto::observe::{docs, prometheus};

fn some_requests(guest: &mut Guest) {
    let control = guest.control();
    guest.request(control, &Program::new(1, &key(1), 12).bytes(), 1).assert_only_status(OK);
    guest.request(control, &Program::new(1, &key(2), 9).bytes(), 1).assert_only_status(OK);
    guest.request(0, &write_request(8, &pattern(1, 4096)), 1).assert_only_status(OK);
    assert_eq!(guest.request(1, &header(IN, 8), 1024 + 1).status, OK);
    guest.request(0, &crypto_write(16, 1, [5, 0, 0, 0], &pattern(2, 2048)), 1).assert_only_status(OK);
    assert_eq!(guest.request(0, &crypto_header(CRYPTO_IN, 16, 1, [5, 0, 0, 0]), 512 + 1).status, OK);
    guest.request(0, &crypto_header(CRYPTO_IN, 16, 2, [5, 0, 0, 0]), 512 + 1).assert_only_status(NOKEY);
    // A DUN that does not fit in 8 bytes.
    guest.request(1, &crypto_header(CRYPTO_IN, 16, 1, [5, 1, 0, 0]), 512 + 1).assert_only_status(IOERR);
    guest.request(1, &header(IN, u64::MAX), 512 + 1).assert_only_status(IOERR);
    guest.request(1, &header(999, 0), 1).assert_only_status(UNSUPP);
    guest.request(0, &[1, 2, 3], 1);
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    guest.request(0, &[header(DISCARD, 0), range(0, 8, 0), range(16, 8, 0)].concat(), 1).assert_only_status(OK);
    guest.request(control, &evict(1), 1).assert_only_status(OK);
    guest.request(control, &evict(1), 1).assert_only_status(OK);
    guest.request(control, &evict(99), 1).assert_only_status(IOERR);
    guest.request(control, &Program::new(0, &key(1), 31).bytes(), 1).assert_only_status(UNSUPP);
}

#[test]
fn every_counter_counts() {
    let mut guest = Guest::new();
    some_requests(&mut guest);
    let stats = serde_json::to_value(guest.device.stats()).expect("JSON");
    let sets = serde_json::json!({
        "requests": {"in": 1, "out": 1, "flush": 1, "get_id": 0, "discard": 1, "write_zeroes": 0, "secure_erase": 0,
            "crypto_in": 3, "crypto_out": 1, "control": 6, "refused": 2, "unsupported": 1, "failed": 3},
        "bytes": {"in": 1024, "out": 4096, "crypto_in": 512, "crypto_out": 2048},
        "data_units": {"encrypted": 4, "decrypted": 1},
        "keyslots": {"program": 2, "replace": 1, "program_failed": 1, "evict": 1, "evict_empty": 1, "lost": 0,
            "hits": 3, "nokey": 1, "equal_halves": 0},
        "wrapped_keys": {"generate": 0, "import": 0, "prepare": 0, "derive_sw_secret": 0},
    });
    for (set, counters) in sets.as_object().expect("object") {
        assert_eq!(&stats[set], counters, "{set}");
    }
    let kind = |requests, refused, errors, bytes| serde_json::json!({"requests": requests, "refused": refused, "errors": errors, "bytes": bytes});
    assert_eq!(
        stats["queues"],
        serde_json::json!([
            {"queue": 0, "running": true, "unsupported": 0, "nokey": 1, "encrypted": 4, "decrypted": 1, "types": {
                "out": kind(1, 0, 0, 4096), "crypto_out": kind(1, 0, 0, 2048), "crypto_in": kind(2, 0, 1, 512),
                "flush": kind(1, 0, 0, 0), "discard": kind(1, 0, 0, 8192), "other": kind(1, 1, 1, 0)}},
            {"queue": 1, "running": true, "unsupported": 1, "nokey": 0, "encrypted": 0, "decrypted": 0, "types": {
                "in": kind(2, 1, 1, 1024), "crypto_in": kind(1, 0, 1, 0), "other": kind(1, 1, 1, 0)}},
            {"queue": 2, "running": true, "unsupported": 0, "nokey": 0, "encrypted": 0, "decrypted": 0, "types": {
                "keyslot_program": kind(3, 0, 1, 0), "keyslot_evict": kind(3, 0, 1, 0)}},
        ])
    );
    assert_eq!(stats["latency"]["on"], false);
    assert_eq!(stats["latency"]["request"]["count"], 0, "no clock was read");
    let slots = guest.device.observer().slots();
    assert_eq!((slots[1].programs, slots[1].evictions, slots[1].hits), (2, 1, 3));
    assert!(guest.device.observer().connected());
    guest.disconnect();
    assert!(!guest.device.observer().connected());
    let stats = guest.device.stats();
    assert!(stats.queues.iter().all(|queue| !queue.running));
    // The counters continue in the next session.
    guest.connect();
    guest.start();
    assert_eq!(guest.request(1, &header(IN, 8), 512 + 1).status, OK);
    assert_eq!(guest.stat("requests.in"), 2);
}

#[test]
fn latencies_are_recorded_while_they_are_wanted() {
    let mut guest = Guest::new();
    some_requests(&mut guest);
    guest.device.observer().set_latency(true);
    some_requests(&mut guest);
    guest.device.observer().set_latency(false);
    some_requests(&mut guest);
    let latency = guest.device.stats().latency;
    assert!(!latency.on);
    let count = |name: &str| {
        let stages = latency.stages();
        let (_, distribution) = stages.iter().find(|(field, _)| field.name == name).expect("stage");
        assert!(distribution.quantile(500) <= distribution.max() && distribution.sum() > 0);
        distribution.count()
    };
    assert_eq!(count("request"), 17);
    assert_eq!(count("program"), 3);
    assert_eq!(count("crypto"), 2);
    // Two writes, two reads, a flush, a discard.
    assert_eq!(count("disk"), 6);
}

/// A sample: name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// Reads Prometheus' text format strictly: every sample has a HELP and a TYPE before it, names and labels are well formed,
/// no sample comes twice, the samples of a metric are together.
fn parse_prometheus(text: &str) -> BTreeMap<String, (String, Vec<Sample>)> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(text.ends_with('\n'), "the last line must end");
    let mut metrics = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut current = String::new();
    let mut help = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("help text");
            assert!(is_name(name) && words.len() > 5, "{line}");
            help = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("type");
            assert_eq!(name, help, "HELP comes first");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            current = name.to_owned();
            assert!(metrics.insert(current.clone(), (kind.to_owned(), Vec::new())).is_none(), "{name} comes twice");
        } else {
            assert!(seen.insert(line.rsplit_once(' ').expect("value").0.to_owned()), "{line} comes twice");
            let (metric, value) = line.rsplit_once(' ').expect("value");
            let (name, labels) = match metric.split_once('{') {
                None => (metric, Vec::new()),
                Some((name, labels)) => {
                    let labels = labels.strip_suffix('}').expect("}");
                    let label = |label: &str| {
                        let (name, value) = label.split_once("=\"").expect("=");
                        assert!(is_name(name), "{line}");
                        (name.to_owned(), value.strip_suffix('"').expect("quote").to_owned())
                    };
                    (name, labels.split(',').map(label).collect())
                }
            };
            let (kind, samples) = metrics.get_mut(&current).expect("TYPE comes first");
            let base = if kind == "histogram" {
                let suffixes = ["_bucket", "_sum", "_count"];
                suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).expect("a histogram's sample")
            } else {
                name
            };
            assert_eq!(base, current, "samples of a metric are together");
            samples.push((name.to_owned(), labels, value.parse().expect("number")));
        }
    }
    metrics
}

#[test]
fn prometheus_text_is_well_formed_and_says_the_same() {
    let mut guest = Guest::new();
    guest.device.observer().set_latency(true);
    some_requests(&mut guest);
    let stats = guest.device.stats();
    let text = prometheus::text(&stats);
    let metrics = parse_prometheus(&text);
    let sum = |name: &str, wanted: &[(&str, &str)]| {
        let (_, samples) = metrics.get(&format!("vhost_user_blk_crypto_{name}")).expect(name);
        let has = |labels: &[(String, String)], (name, value): &(&str, &str)| {
            labels.iter().any(|(a, b)| a == name && b == value)
        };
        let matching = samples.iter().filter(|(_, labels, _)| wanted.iter().all(|label| has(labels, label)));
        matching.map(|(_, _, value)| value).sum::<f64>()
    };
    assert_eq!(sum("queue_requests_total", &[("type", "crypto_in")]), 3.0);
    assert_eq!(sum("queue_requests_total", &[("type", "in"), ("queue", "1")]), 2.0);
    assert_eq!(sum("queue_bytes_total", &[("type", "crypto_out")]), 2048.0);
    assert_eq!(sum("queue_encrypted_total", &[]), 4.0);
    assert_eq!(sum("keyslots_program_total", &[]), 2.0);
    assert_eq!(sum("events_flush_total", &[]), 1.0);
    assert_eq!(sum("queue_running", &[]), 3.0);
    let (kind, samples) = &metrics["vhost_user_blk_crypto_latency_seconds"];
    assert_eq!(kind, "histogram");
    for stage in ["program", "crypto", "disk", "request"] {
        let of = |suffix: &str| {
            let matching = samples.iter().filter(|(name, labels, _)| name.ends_with(suffix) && labels[0].1 == stage);
            matching.map(|(_, labels, value)| (labels.get(1).map(|label| label.1.clone()), *value)).collect::<Vec<_>>()
        };
        let buckets = of("_bucket");
        let bounds: Vec<f64> = buckets.iter().map(|(le, _)| le.as_ref().expect("le").parse().expect("le")).collect();
        assert!(bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY), "{bounds:?}");
        assert!(buckets.iter().map(|(_, count)| *count).is_sorted(), "cumulative");
        assert_eq!(buckets.last().expect("+Inf").1, of("_count")[0].1);
        assert!(of("_sum")[0].1 > 0.0);
    }
}

/// Grafana shows no error for a metric that does not exist.
#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../contrib/grafana/dashboard.json")).expect("JSON");
    let mut guest = Guest::new();
    guest.device.observer().set_latency(true);
    some_requests(&mut guest);
    let metrics = parse_prometheus(&prometheus::text(&guest.device.stats()));
    let mut names = HashSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("a query");
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let asked: Vec<_> = words.filter(|word| word.starts_with("vhost_user_blk_crypto")).collect();
            assert!(!asked.is_empty(), "{query}");
            for name in asked {
                let (kind, _) = metrics.get(name.strip_suffix("_bucket").unwrap_or(name)).expect(name);
                assert_eq!(kind == "histogram", name.ends_with("_bucket"), "{name}");
                assert_eq!(kind != "gauge", query.contains("rate(") || query.contains("increase("), "{query}");
                names.insert(name.to_owned());
            }
        }
    }
    assert!(names.len() >= 25, "{names:?}");
}

#[test]
fn the_documentation_is_made_from_the_source() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/statistics.md");
    let text = docs::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).expect("docs");
    }
    let written = std::fs::read_to_string(path).expect("docs/statistics.md");
    assert!(written == text, "docs/statistics.md is out of date: UPDATE_DOCS=1 cargo test --test statistics");
    // The document has every counter.
    let mut guest = Guest::new();
    some_requests(&mut guest);
    for name in parse_prometheus(&prometheus::text(&guest.device.stats())).keys() {
        assert!(text.contains(name.as_str()) || name.ends_with("build_info"), "{name} is not documented");
    }
    let stats = serde_json::to_value(guest.device.stats()).expect("JSON");
    for (group, counters) in stats.as_object().expect("object") {
        assert!(text.contains(&format!("`{group}")), "{group} is not documented");
        for name in counters.as_object().into_iter().flat_map(|counters| counters.keys()) {
            assert!(text.contains(&format!("`{name}`")), "{group}.{name} is not documented");
        }
    }
}
