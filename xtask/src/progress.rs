// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress on standard error: a line that changes on a terminal, a line now and then elsewhere.

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The time between lines if there is no terminal.
const PAUSE: Duration = Duration::from_secs(30);

/// The lines of concurrent steps.
static LINES: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line with a name and the elapsed seconds, which updates by itself. It is hidden if there is no terminal.
pub fn spinner(name: &str) -> ProgressBar {
    let bar =
        ProgressBar::new_spinner().with_style(style("{spinner} {msg} ... {elapsed}")).with_message(name.to_owned());
    let bar = LINES.add(bar);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Runs `work` while showing `name` and the elapsed seconds; returns its value and its duration.
pub fn timed<T>(name: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let (bar, start) = (spinner(name), Instant::now());
    let (done, until) = mpsc::channel::<()>();
    let value = thread::scope(|scope| {
        if bar.is_hidden() {
            scope.spawn(move || {
                while until.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("{name} ... {} s", start.elapsed().as_secs());
                }
            });
        }
        let value = work();
        drop(done);
        value
    });
    bar.finish_and_clear();
    (value, start.elapsed())
}

/// A preparing step: shown while it runs, and its line printed at its end.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (value, took) = timed(name, work);
    line(name, if value.is_ok() { "done" } else { "FAILED" }, took);
    value
}

/// Prints `name`, a verdict and seconds in columns.
pub fn line(name: &str, verdict: &str, took: Duration) {
    print(&format!("{name:<44} {verdict:<8} {:>6.1} s", took.as_secs_f64()));
}

/// Prints a line that stays above those that change.
pub fn print(text: &str) {
    LINES.suspend(|| eprintln!("{text}"));
}

/// The steps of a long run, and the time that is left.
pub struct Progress {
    bar: ProgressBar,
    shown: Option<Instant>,
}

impl Progress {
    /// Begins a run of this many steps.
    pub fn new(total: usize) -> Self {
        let left = |state: &ProgressState, out: &mut dyn Write| {
            let _ = out.write_str(&left(state.pos(), state.eta()));
        };
        let style = style("{bar:20} {pos} of {len}{left}: {wide_msg}").with_key("left", left);
        Self { bar: LINES.add(ProgressBar::new(total as u64).with_style(style)), shown: None }
    }

    /// Shows the step that begins.
    pub fn begin(&mut self, text: String) {
        if self.bar.is_hidden() && self.shown.is_none_or(|shown| shown.elapsed() >= PAUSE / 2) {
            self.shown = Some(Instant::now());
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
            eprintln!("{} of {total}{}: {text}", done + 1, left(done, self.bar.eta()));
        }
        self.bar.set_message(text);
    }

    /// The step has ended.
    pub fn next(&self) {
        self.bar.inc(1);
    }

    /// Prints a line that stays.
    pub fn print(&self, text: &str) {
        print(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The estimated time left, once a few steps are done.
fn left(done: u64, eta: Duration) -> String {
    if done < 3 { String::new() } else { format!(", {} left", HumanDuration(eta)) }
}
