// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Replies as text and tables.

use std::fmt::Write;

use serde_json::{Map, Value};

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A value for people to read: no quotes, lists with commas.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            map.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// Rows with columns as wide as needed. All columns but the first are right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let mut out = String::new();
    let header: Vec<_> = header.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&header).chain(rows) {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if column == 0 { write!(out, "{cell:<width$}") } else { write!(out, "  {cell:>width$}") };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

pub fn status(reply: &Value) -> String {
    let mut out = String::new();
    for (name, value) in object(reply) {
        let nested =
            matches!(name.as_str(), "engine" | "image" | "features" | "options" | "trace") && value.is_object();
        if nested {
            for (inner, value) in object(value) {
                let _ = writeln!(out, "{:<28}{}", format!("{name} {}", inner.replace('_', " ")), plain(value));
            }
        } else if name == "luns" {
            for (lun, value) in list(value).enumerate() {
                let _ = writeln!(out, "{:<28}{}", format!("lun {lun}"), plain(value));
            }
        } else if name == "queues" {
            let of = |role: &str| {
                let queues = list(value).filter(|queue| queue["role"] == role);
                queues.map(|queue| queue["queue"].to_string()).collect::<Vec<_>>().join(" ")
            };
            let _ = writeln!(out, "{:<28}{}", "request queues", of("request"));
            let _ = writeln!(out, "{:<28}{}", "control queue", of("control"));
        } else {
            let _ = writeln!(out, "{name:<28}{}", plain(value));
        }
    }
    out
}

pub fn stats(reply: &Value) -> String {
    let mut out = String::new();
    for (group, counters) in object(reply).filter(|(name, _)| !["queues", "latency"].contains(&name.as_str())) {
        let counted: Vec<_> = object(counters).filter(|(_, count)| number(count) > 0).collect();
        if !counted.is_empty() {
            let words: Vec<_> = counted.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let _ = writeln!(out, "{group:<13}{}", words.join(", "));
        }
    }
    let mut rows = Vec::new();
    for queue in list(&reply["queues"]) {
        for (kind, counters) in object(&queue["types"]) {
            let columns = ["requests", "errors", "bytes"].map(|name| plain(&counters[name]));
            rows.push([vec![format!("{} {kind}", queue["queue"])], columns.to_vec()].concat());
        }
    }
    if !rows.is_empty() {
        let _ = write!(out, "\n{}", table(&["queue and type", "requests", "errors", "bytes"], &rows));
    }
    let mut rows = Vec::new();
    for (stage, times) in object(&reply["latency"]).filter(|(_, times)| number(&times["count"]) > 0) {
        let names = ["mean_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"];
        let micros = names.map(|name| format!("{:.1}", number(&times[name]) as f64 / 1000.0));
        rows.push([vec![stage.clone(), plain(&times["count"])], micros.to_vec()].concat());
    }
    if !rows.is_empty() {
        let header = ["latency in us", "count", "mean", "50 %", "90 %", "99 %", "99.9 %", "max"];
        let _ = write!(out, "\n{}", table(&header, &rows));
    }
    if out.is_empty() { "nothing has been counted yet\n".into() } else { out }
}

pub fn keyslots(reply: &Value) -> String {
    let rows: Vec<_> = list(&reply["keyslots"])
        .map(|slot| {
            let mut cells = vec![plain(&slot["slot"])];
            for name in ["generation", "mode", "data_unit_size", "dun_bytes"] {
                cells.push(slot.get(name).map_or_else(|| "-".into(), plain));
            }
            cells.extend(["hits", "programs", "evictions"].map(|name| plain(&slot[name])));
            cells
        })
        .collect();
    if rows.is_empty() {
        return "no keyslot holds a key\n".into();
    }
    table(&["slot", "generation", "mode", "data unit", "DUN bytes", "hits", "programs", "evictions"], &rows)
}

pub fn faults(reply: &Value) -> String {
    let rows: Vec<_> = list(&reply["faults"])
        .map(|fault| {
            vec![
                format!("{} {}", fault["id"], plain(&fault["spec"])),
                plain(&fault["matched"]),
                plain(&fault["struck"]),
            ]
        })
        .collect();
    if rows.is_empty() { "there are no faults\n".into() } else { table(&["fault", "matched", "struck"], &rows) }
}

pub fn trace(reply: &Value) -> String {
    let error = reply["error"].as_str().map_or_else(String::new, |error| format!("; it has failed: {error}"));
    format!("{}: {} records, {} dropped{error}\n", plain(&reply["file"]), reply["records"], reply["dropped"])
}

pub fn resize(reply: &Value) -> String {
    let sizes = format!("{} bytes, before {}", reply["bytes"], reply["before"]);
    match reply["frontend"].as_str() {
        Some("told") => format!("{sizes}; the frontend was told\n"),
        Some("not-told") => format!("{sizes}; the frontend was not told: {}\n", plain(&reply["reason"])),
        Some("with-next-request") => format!("{sizes}; the guest's driver finds out with its next request\n"),
        Some("unchanged") => format!("{} bytes, as before\n", reply["bytes"]),
        _ => format!("{sizes}; no frontend is connected\n"),
    }
}
