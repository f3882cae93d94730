// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is going on and how long it will take: one line that changes on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Steps of a long run.
pub struct Progress {
    total: usize,
    done: usize,
    start: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        Self { total, done: 0, start: Instant::now(), shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// The steps that count begin only now, and there are so many.
    pub fn restart(&mut self, total: usize) {
        (self.total, self.start) = (total, Instant::now());
    }

    /// The number of the step that comes, from 1, of how many.
    pub fn step(&self) -> String {
        format!("{} of {}", self.done + 1, self.total)
    }

    /// The time left, once there is something to go by.
    pub fn left(&self) -> String {
        left(self.start.elapsed(), self.done, self.total)
    }

    /// A step is done.
    pub fn next(&mut self) {
        self.done += 1;
    }

    pub fn note(&mut self, text: &str) {
        let pause = if self.terminal { Duration::ZERO } else { Duration::from_secs(15) };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{text}");
        }
    }

    pub fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn left(elapsed: Duration, done: usize, total: usize) -> String {
    if done < 3 {
        return String::new();
    }
    let seconds = elapsed.as_secs_f64() / done as f64 * (total - done.min(total)) as f64;
    match seconds as u64 {
        0..100 => format!("; {seconds:.0} s left"),
        whole => format!("; {} min left", whole.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left() {
        assert_eq!(left(Duration::from_secs(1), 1, 100), "");
        assert_eq!(left(Duration::from_secs(10), 10, 50), "; 40 s left");
        assert_eq!(left(Duration::from_secs(10), 10, 200), "; 4 min left");
        assert_eq!(left(Duration::from_secs(10), 10, 10), "; 0 s left");
    }
}
