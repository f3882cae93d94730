// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Prints traces, for people and for other programs.

use std::io::{self, Read, Write};

use clap::ValueEnum;
use serde_json::json;

use super::{Reader, TraceEntry, TraceRecord};
use crate::observe::record::{CryptoUse, Kind};

/// `trace dump --format`. Chrome's is the JSON array format. Each queue is a process, and its requests are asynchronous
/// events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TraceFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Jsonl,
    /// For Chrome's about:tracing and for Perfetto
    Chrome,
}

/// Writes a whole trace.
///
/// # Errors
/// Those of the system calls.
pub fn print(reader: &mut Reader<impl Read>, format: TraceFormat, out: &mut impl Write) -> io::Result<()> {
    let mut separator = "[\n";
    let mut queues = Vec::new();
    let mut number = 0u64;
    while let Some(entry) = reader.next_entry()? {
        number += 1;
        match (format, entry) {
            (TraceFormat::Text, TraceEntry::Request(record)) => text(&record, out)?,
            (TraceFormat::Text, TraceEntry::Lost { worker, count }) => {
                writeln!(out, "-- worker {worker}: {count} records lost --")?
            }
            (TraceFormat::Jsonl, TraceEntry::Request(record)) => writeln!(out, "{}", json_of(&record))?,
            (TraceFormat::Jsonl, TraceEntry::Lost { worker, count }) => {
                writeln!(out, "{}", json!({"lost": count, "lane": worker}))?
            }
            (TraceFormat::Chrome, TraceEntry::Lost { .. }) => {}
            (TraceFormat::Chrome, TraceEntry::Request(record)) => {
                if !queues.contains(&record.queue) {
                    queues.push(record.queue);
                    let name = format!("queue {}", record.queue);
                    let event =
                        json!({"ph": "M", "name": "process_name", "pid": record.queue + 1, "args": {"name": name}});
                    write!(out, "{separator}{event}")?;
                    separator = ",\n";
                }
                for event in chrome(&record, number) {
                    write!(out, "{separator}{event}")?;
                }
            }
        }
    }
    if format == TraceFormat::Chrome {
        writeln!(out, "{}\n]", if number == 0 { "[" } else { "" })?;
    }
    Ok(())
}

fn kind(record: &TraceRecord) -> &'static str {
    Kind::of(record.request_type).name()
}

fn status(status: u8) -> String {
    match status {
        0 => "OK".into(),
        1 => "IOERR".into(),
        2 => "UNSUPP".into(),
        0xe0 => "NOKEY".into(),
        other => format!("{other:#04x}"),
    }
}

/// 0x and up to 64 digits.
fn hex(dun: [u64; 4]) -> String {
    let text: String = dun.iter().rev().map(|word| format!("{word:016x}")).collect();
    match text.trim_start_matches('0') {
        "" => "0x0".into(),
        digits => format!("0x{digits}"),
    }
}

fn text(record: &TraceRecord, out: &mut impl Write) -> io::Result<()> {
    let TraceRecord { started, queue, head, sector, bytes, .. } = record;
    let (seconds, nanos) = (started / 1_000_000_000, started % 1_000_000_000);
    write!(out, "{seconds:>4}.{nanos:09} q{queue} #{head:<4} {:<16}", kind(record))?;
    write!(out, " sector {sector:<10} bytes {bytes:<8}")?;
    if let Some(CryptoUse { slot, generation, dun, units }) = record.key {
        match slot {
            Some(slot) => write!(out, " slot {slot} gen {generation}")?,
            None => write!(out, " key {generation:016x}")?,
        }
        write!(out, " dun {} units {units}", hex(dun))?;
    }
    write!(out, " {}{}", status(record.status), if record.refused { " refused" } else { "" })?;
    let micros = |nanos: u64| format!("{}.{} us", nanos / 1000, nanos % 1000 / 100);
    write!(out, " {}", micros(record.total))?;
    let stages = [("program", record.program.into()), ("crypto", record.crypto.into()), ("disk", record.disk)];
    for (stage, nanos) in stages.iter().filter(|(_, nanos)| *nanos > 0) {
        write!(out, ", {stage} {}", micros(*nanos))?;
    }
    writeln!(out)
}

fn json_of(record: &TraceRecord) -> serde_json::Value {
    let mut json = json!({
        "time_ns": record.started,
        "queue": record.queue,
        "head": record.head,
        "lane": record.worker,
        "type": kind(record),
        "type_number": record.request_type,
        "sector": record.sector,
        "bytes": record.bytes,
        "status": status(record.status),
        "refused": record.refused,
        "total_ns": record.total,
        "program_ns": record.program,
        "crypto_ns": record.crypto,
        "disk_ns": record.disk,
    });
    if let (Some(json), Some(CryptoUse { slot, generation, dun, units })) = (json.as_object_mut(), record.key) {
        match slot {
            Some(slot) => {
                json.insert("slot".into(), slot.into());
                json.insert("generation".into(), generation.into());
            }
            None => drop(json.insert("key".into(), format!("{generation:016x}").into())),
        }
        json.insert("dun".into(), hex(dun).into());
        json.insert("data_units".into(), units.into());
    }
    json
}

/// The begin and the end of an asynchronous event; times are microseconds.
fn chrome(record: &TraceRecord, number: u64) -> [serde_json::Value; 2] {
    let micros = |nanos: u64| nanos as f64 / 1000.0;
    let event = |phase: &str, at: u64| {
        json!({"ph": phase, "cat": "request", "name": kind(record), "id": number, "pid": record.queue + 1,
            "tid": record.worker, "ts": micros(at)})
    };
    let mut begin = event("b", record.started);
    if let Some(begin) = begin.as_object_mut() {
        begin.insert("args".into(), json_of(record));
    }
    [begin, event("e", record.started.saturating_add(record.total))]
}
