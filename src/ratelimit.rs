// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bound on log lines that a guest or a frontend can cause.

#![forbid(unsafe_code)]

use crate::lock::lock;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lines in a row before the limit applies.
const BURST: u32 = 10;
/// After a burst, one line in this time.
const INTERVAL: Duration = Duration::from_secs(5);

/// Logs a line that a guest or a frontend can cause as often as it likes: `log_limited!(warn, "{what}")`. Each place that logs has a
/// limit of its own.
macro_rules! log_limited {
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::ratelimit::RateLimit = $crate::ratelimit::RateLimit::new();
        if let Some(suppressed) = LIMIT.allow() {
            log::$level!("{}{suppressed}", format_args!($($line)+));
        }
    }};
}
pub(crate) use log_limited;

/// Lets a burst through, then a line every few seconds.
#[derive(Debug, Default)]
pub struct RateLimit(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    suppressed: u64,
}

/// How many lines the limit has kept back since the last one; prints nothing when there are none.
#[derive(Debug)]
pub struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} such lines suppressed)", self.0) }
    }
}

impl RateLimit {
    /// No line so far.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether a line may be logged now. If so, returns how many were suppressed since the last one.
    pub fn allow(&self) -> Option<Suppressed> {
        let mut window = lock(&self.0);
        let now = Instant::now();
        let window = window.get_or_insert(Window { start: now, lines: 0, suppressed: 0 });
        if window.lines >= BURST {
            if now.duration_since(window.start) < INTERVAL {
                window.suppressed = window.suppressed.saturating_add(1);
                return None;
            }
            // The limit persists while the guest continues, and ends after a quiet period.
            let quiet = now.duration_since(window.start) > INTERVAL * BURST;
            window.lines = if quiet { 0 } else { BURST - 1 };
        }
        window.start = now;
        window.lines += 1;
        Some(Suppressed(std::mem::take(&mut window.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_suppressed_is_said_afterwards() {
        assert_eq!(
            (Suppressed(0).to_string(), Suppressed(3).to_string().as_str()),
            (String::new(), " (3 such lines suppressed)")
        );
        let limit = RateLimit::new();
        while limit.allow().is_some() {}
        if let Some(window) = &mut *lock(&limit.0) {
            window.start -= INTERVAL;
        }
        assert!(limit.allow().is_some_and(|Suppressed(lines)| lines == 1));
    }

    #[test]
    fn a_flood_becomes_a_burst() {
        let limit = RateLimit::new();
        let lines = (0..100_000).filter(|_| limit.allow().is_some()).count();
        assert_eq!(lines, BURST as usize);
    }
}
