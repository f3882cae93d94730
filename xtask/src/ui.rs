// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress on the terminal: one line per step, with seconds, and a sign of life on long ones.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Runs `work` while showing `name` and the seconds gone by; returns its value and its duration.
pub fn timed<T>(name: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    let value = std::thread::scope(|scope| {
        scope.spawn(move || {
            let tick = Duration::from_secs(if terminal { 1 } else { 30 });
            while let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(tick) {
                let seconds = start.elapsed().as_secs();
                let mut err = std::io::stderr();
                let _ = if terminal {
                    write!(err, "\r\x1b[K{name} ... {seconds} s").and_then(|()| err.flush())
                } else {
                    writeln!(err, "{name} ... {seconds} s")
                };
            }
        });
        let value = work();
        drop(done);
        value
    });
    if terminal {
        eprint!("\r\x1b[K");
    }
    (value, start.elapsed())
}

/// A preparing step: announced, timed, and its line printed when it took noticeable time.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (value, took) = timed(name, work);
    let verdict = if value.is_ok() { "done" } else { "FAILED" };
    line(name, verdict, took);
    value
}

/// Prints `name`, a verdict and seconds in columns.
pub fn line(name: &str, verdict: &str, took: Duration) {
    eprintln!("{name:<44} {verdict:<8} {:>6.1} s", took.as_secs_f64());
}
