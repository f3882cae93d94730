// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `ctl top`: the difference between two samples, as a screen or as JSON.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};

use super::devices::{Change, Devices, Look, sum};
use super::text::{list, number, table};

/// Switches to the alternate screen and hides the cursor (ECMA-48, xterm's private modes).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Moves the cursor to the upper left corner; new text overwrites the old.
const HOME: &str = "\x1b[H";
/// Clears the rest of the line; of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

pub fn run(paths: &[PathBuf], once: bool, interval: f64, json: bool) -> Result<()> {
    let interval = Duration::from_secs_f64(interval);
    let mut out = std::io::stdout();
    let mut devices = Devices::new(paths);
    devices.look()?;
    if once || json || !out.is_terminal() {
        std::thread::sleep(interval);
        let looks = devices.look()?;
        out.write_all(if json { in_json(&looks) } else { screen(&devices, &looks) }.as_bytes())?;
        return Ok(());
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let _screen = Screen::enter()?;
    while !ended.load(Ordering::Relaxed) {
        let wake = Instant::now() + interval;
        while Instant::now() < wake && !ended.load(Ordering::Relaxed) {
            // The sleep resumes after a signal, so it must be short.
            std::thread::sleep(Duration::from_millis(50).min(interval));
        }
        let looks = devices.look()?;
        let size = tcgetwinsize(&out)?;
        let (rows, columns) = (usize::from(size.ws_row.max(2)), usize::from(size.ws_col.max(10)));
        let mut frame = HOME.to_owned();
        for line in screen(&devices, &looks).lines().take(rows - 1) {
            let line: String = line.chars().take(columns).collect();
            let _ = write!(frame, "{line}{CLEAR_LINE}\r\n"); // to a string
        }
        frame += CLEAR_REST;
        out.write_all(frame.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// The alternate screen, until dropped.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        std::io::stdout().write_all(ENTER.as_bytes())?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = std::io::stdout().write_all(LEAVE.as_bytes()).and_then(|()| std::io::stdout().flush());
    }
}

/// One device in detail, or a line for each of several.
fn screen(devices: &Devices, looks: &[Change]) -> String {
    match looks {
        [one] if devices.is_one() => detail(one),
        [] => "no device answers\n".into(),
        _ => overview(looks),
    }
}

fn in_json(looks: &[Change]) -> String {
    let devices: Vec<_> = looks
        .iter()
        .map(|change| {
            json!({
                "control": change.control.to_string_lossy(),
                "seconds": change.seconds,
                "rates": change.rates(),
                "stats": change.now.stats,
                "keyslots": change.now.keyslots["keyslots"],
            })
        })
        .collect();
    format!("{:#}\n", json!({ "devices": devices }))
}

fn overview(looks: &[Change]) -> String {
    let header = [
        "device",
        "requests/s",
        "read MiB/s",
        "write",
        "decrypted",
        "encrypted",
        "errors/s",
        "programs/s",
        "hits/s",
        "NOKEY/s",
        "keys",
    ];
    let rows: Vec<_> = looks
        .iter()
        .map(|change| {
            let rates = change.rates();
            let rate = |path: &str| rates.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
            let mebi = |path: &str| format!("{:.1}", rate(path) / f64::from(1 << 20));
            vec![
                change.control.display().to_string(),
                format!("{:.0}", change.queue_rate("requests")),
                mebi("/bytes/in"),
                mebi("/bytes/out"),
                mebi("/bytes/crypto_in"),
                mebi("/bytes/crypto_out"),
                format!("{:.0}", change.queue_rate("errors")),
                format!("{:.1}", rate("/keyslots/program")),
                format!("{:.0}", rate("/keyslots/hits")),
                format!("{:.0}", rate("/keyslots/nokey")),
                list(&change.now.keyslots["keyslots"]).count().to_string(),
            ]
        })
        .collect();
    table(&header, &rows)
}

/// The screen of one device.
fn detail(change: &Change) -> String {
    let Change { before, now, seconds, .. } = change;
    let rates = change.rates();
    let rate = |path: &str| rates.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let mebi = |bytes: f64| format!("{:.1} MiB/s", bytes / f64::from(1 << 20));
    let mut out = String::new();
    let _ = writeln!(
        out,
        "keys       programmed {:.1}/s (replacing {:.1}/s), evicted {:.1}/s, lost {:.1}/s, hits {:.0}/s, NOKEY {:.0}/s",
        rate("/keyslots/program"),
        rate("/keyslots/replace"),
        rate("/keyslots/evict"),
        rate("/keyslots/lost"),
        rate("/keyslots/hits"),
        rate("/keyslots/nokey"),
    );
    let _ = writeln!(
        out,
        "throughput read {}, write {}, decrypted {}, encrypted {}",
        mebi(rate("/bytes/in")),
        mebi(rate("/bytes/out")),
        mebi(rate("/bytes/crypto_in")),
        mebi(rate("/bytes/crypto_out")),
    );
    if now.stats["latency"]["on"] == true {
        let micros = |path: &str| now.stats.pointer(path).map_or(0, number) as f64 / 1000.0;
        let _ = writeln!(
            out,
            "latency    request {:.0} us (99 %: {:.0}), disk {:.0}, crypto {:.0}, program {:.0}; medians since the start",
            micros("/latency/request/p50_ns"),
            micros("/latency/request/p99_ns"),
            micros("/latency/disk/p50_ns"),
            micros("/latency/crypto/p50_ns"),
            micros("/latency/program/p50_ns"),
        );
    }
    let _ = write!(out, "\n{}", queues(before, now, *seconds));
    let _ = write!(out, "\n{}", slots(before, now, *seconds));
    out
}

fn queues(before: &Look, now: &Look, seconds: f64) -> String {
    let rows: Vec<_> = list(&now.stats["queues"])
        .map(|queue| {
            let then = list(&before.stats["queues"]).find(|then| then["queue"] == queue["queue"]);
            let rate = |name: &str| {
                let then = then.map_or(0, |then| sum(then, name));
                sum(queue, name).saturating_sub(then) as f64 / seconds
            };
            vec![
                format!("{}{}", queue["queue"], if queue["running"] == true { "" } else { " (stopped)" }),
                format!("{:.0}", rate("requests")),
                format!("{:.1}", rate("bytes") / f64::from(1 << 20)),
                format!("{:.0}", rate("errors")),
                sum(queue, "requests").to_string(),
                sum(queue, "errors").to_string(),
            ]
        })
        .collect();
    table(&["queue", "requests/s", "MiB/s", "errors/s", "requests", "errors"], &rows)
}

/// Keyslots, the busiest first.
fn slots(before: &Look, now: &Look, seconds: f64) -> String {
    let mut rows: Vec<(u64, Vec<String>)> = list(&now.keyslots["keyslots"])
        .map(|slot| {
            let then = list(&before.keyslots["keyslots"]).find(|then| then["slot"] == slot["slot"]);
            let hits = number(&slot["hits"]).saturating_sub(then.map_or(0, |then| number(&then["hits"])));
            let cells = vec![
                slot["slot"].to_string(),
                format!("{:.0}", hits as f64 / seconds),
                slot["hits"].to_string(),
                slot["programs"].to_string(),
                slot["generation"].to_string(),
                slot["data_unit_size"].to_string(),
                slot["dun_bytes"].to_string(),
            ];
            (hits, cells)
        })
        .collect();
    rows.sort_by_key(|(hits, _)| std::cmp::Reverse(*hits));
    let rows: Vec<_> = rows.into_iter().map(|(_, cells)| cells).collect();
    table(&["keyslot", "hits/s", "hits", "programs", "generation", "data unit", "DUN bytes"], &rows)
}
