// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The table of built-in personalities.

use std::time::Duration;

use anyhow::Result;

use super::{KeyType, KeysOnReset, Personality, format_data_unit_sizes};

const HEADER: [&str; 9] =
    ["NAME", "KEYSLOTS", "KEYS", "DATA UNITS", "DUN BITS", "QUEUES", "DEPTH", "ON RESET", "SLOWED DOWN"];

const NOTES: &str = "\
?  no public source tells it: the value is that of ideal
*  the hardware differs in a way that cannot be emulated
All have AES-256-XTS. Sources are in the files, src/personality/NAME.toml.
";

/// All built-in personalities, one a line, and what they are.
///
/// # Errors
/// None, as the tests show.
pub fn table() -> Result<String> {
    let personalities = Personality::built_in()?;
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(personalities.iter().map(row));
    let mut text = lines(&rows);
    text.push('\n');
    text.push_str(&lines(&personalities.iter().map(|p| [p.name.clone(), p.summary.clone()]).collect::<Vec<_>>()));
    text.push('\n');
    text.push_str(NOTES);
    Ok(text)
}

fn row(p: &Personality) -> [String; 9] {
    let mark = |field: &str, value: String| match (p.unknown.contains(field), p.differs.contains(field)) {
        (true, _) => value + "?",
        (_, true) => value + "*",
        _ => value,
    };
    let keys = p.key_types.iter().map(|key_type| match key_type {
        KeyType::Raw => "raw",
        KeyType::Wrapped => "wrapped",
    });
    let reset = match p.keys_on_reset {
        KeysOnReset::Lost => "lost",
        KeysOnReset::Kept => "kept",
    };
    [
        p.name.clone(),
        mark("keyslots", p.keyslots.to_string()),
        mark("key_types", keys.collect::<Vec<_>>().join(",")),
        mark("data_unit_sizes", format_data_unit_sizes(p.data_unit_mask)),
        mark("max_dun_bytes", (u16::from(p.max_dun_bytes) * 8).to_string()),
        mark("queues", p.queues.to_string()),
        mark("queue_depth", p.queue_depth.to_string()),
        mark("keys_on_reset", format!("keys {reset}")),
        timing(p),
    ]
}

fn timing(p: &Personality) -> String {
    let us = |name: &str, time: Duration| (!time.is_zero()).then(|| format!("{name} {} us", time.as_micros()));
    let rate = p.timing.crypto_mb_per_s;
    let words: Vec<_> = [
        us("program", p.timing.program),
        us("evict", p.timing.evict),
        (rate != 0).then(|| format!("{rate} MB/s")),
        us("request", p.timing.crypto_latency),
    ]
    .into_iter()
    .flatten()
    .collect();
    let fields = ["program_latency_us", "evict_latency_us", "crypto_throughput_mb_per_s", "crypto_latency_us"];
    let unknown = if fields.iter().any(|field| p.unknown.contains(*field)) { "?" } else { "" };
    if words.is_empty() { format!("no{unknown}") } else { words.join(", ") + unknown }
}

/// Columns as wide as their widest cell.
fn lines<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
