// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Waits with a time limit.

use std::time::{Duration, Instant};

/// The limit: even on a busy machine, only something that never ends takes longer.
const LONGEST: Duration = Duration::from_secs(120);

/// Counts the time that passes while this process runs. The time while it is stopped (SIGSTOP) does not count.
pub struct Patience {
    last: Instant,
    left: Duration,
}

impl Patience {
    pub fn new() -> Self {
        Self { last: Instant::now(), left: LONGEST }
    }

    /// Call it repeatedly. Panics with the reason when the time is over.
    pub fn wait(&mut self, why: &str) {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.last).min(Duration::from_secs(1)));
        self.last = now;
        assert!(!self.left.is_zero(), "{why}");
    }
}
