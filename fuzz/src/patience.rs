// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Waiting for something that must come, and not for ever.

use std::time::{Duration, Instant};

/// Longer than this nothing takes but what never ends, even on a machine that has other things to do.
const LONGEST: Duration = Duration::from_secs(120);

/// Counts the time that passes while this process runs. A process that was stopped (SIGSTOP) is not to blame for it.
pub struct Patience {
    last: Instant,
    left: Duration,
}

impl Patience {
    pub fn new() -> Self {
        Self { last: Instant::now(), left: LONGEST }
    }

    /// To be asked again and again. Panics, with the reason, when it has taken too long.
    pub fn wait(&mut self, why: &str) {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.last).min(Duration::from_secs(1)));
        self.last = now;
        assert!(!self.left.is_zero(), "{why}");
    }
}
