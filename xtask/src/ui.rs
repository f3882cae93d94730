// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress on the terminal: one line per step, with seconds, and a sign of life on long ones.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Runs `work` while showing `name` and the seconds gone by; returns its value and its duration.
pub fn timed<T>(name: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    let (done, until) = mpsc::channel::<()>();
    let value = std::thread::scope(|scope| {
        scope.spawn(move || {
            let tick = Duration::from_secs(if terminal { 1 } else { 30 });
            while let Err(RecvTimeoutError::Timeout) = until.recv_timeout(tick) {
                if terminal {
                    waiting(name, start.elapsed());
                } else {
                    eprintln!("{name} ... {} s", start.elapsed().as_secs());
                }
            }
        });
        let value = work();
        drop(done);
        value
    });
    clear();
    (value, start.elapsed())
}

/// On a terminal, shows that `name` has been running for so long, until [`clear`].
pub fn waiting(name: &str, since: Duration) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K{name} ... {} s", since.as_secs()).and_then(|()| err.flush());
    }
}

/// Removes what [`waiting`] shows.
pub fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
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
