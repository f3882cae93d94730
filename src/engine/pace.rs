// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The speed of the emulated engine.
//!
//! A controller has one crypto engine, which all queues share. It is a pipeline: data enters it at the engine's
//! throughput, one request after the other, and leaves it a fixed latency later, while the next request already enters.
//! So the throughput bounds the sum over all queues, and the latency adds to each request without lowering that sum.
//!
//! [`Pace`] computes when a request is done. The caller waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// The times of an engine. [`Timing::default`] is all 0 and costs nothing, not even a read of the clock.
///
/// In JSON, times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Timing {
    /// Duration of a KEYSLOT_PROGRAM command.
    #[serde(rename = "program_us", serialize_with = "microseconds")]
    pub program: Duration,
    /// Duration of a KEYSLOT_EVICT command.
    #[serde(rename = "evict_us", serialize_with = "microseconds")]
    pub evict: Duration,
    /// Throughput of the engine in MB/s (10^6 bytes per second), all queues together; 0: unlimited.
    pub crypto_mb_per_s: u32,
    /// Time from a request's last byte into the engine to its last byte out.
    #[serde(rename = "crypto_latency_us", serialize_with = "microseconds")]
    pub crypto_latency: Duration,
}

fn microseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The emulated engine's clock.
#[derive(Debug)]
pub struct Pace {
    epoch: Instant,
    /// When the engine's input is free again, in nanoseconds since `epoch`.
    free: AtomicU64,
    mb_per_s: u64,
    latency: Duration,
}

impl Pace {
    /// An idle engine, or `None` if it adds no time to requests.
    pub fn new(timing: &Timing) -> Option<Self> {
        let limited = timing.crypto_mb_per_s != 0 || !timing.crypto_latency.is_zero();
        limited.then(|| Self {
            epoch: Instant::now(),
            free: AtomicU64::new(0),
            mb_per_s: timing.crypto_mb_per_s.into(),
            latency: timing.crypto_latency,
        })
    }

    /// Queues a request of `bytes` bytes at the time `now`, behind earlier ones, and returns when it is done. Does not
    /// wait.
    pub fn reserve(&self, now: Instant, bytes: u64) -> Instant {
        // 10^6 bytes per second are 10^-3 bytes per nanosecond.
        let busy = bytes.saturating_mul(1000).checked_div(self.mb_per_s).unwrap_or(0);
        if busy == 0 {
            return now + self.latency;
        }
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        let end = |free: u64| free.max(now).saturating_add(busy);
        // This orders no other memory, so Relaxed is enough.
        let (Ok(before) | Err(before)) =
            self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(end(free)));
        self.epoch + Duration::from_nanos(end(before)) + self.latency
    }

    /// The engine is idle: what it had to do has ended early.
    pub fn clear(&self) {
        self.free.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn pace(mb_per_s: u32, latency: Duration) -> Pace {
        Pace::new(&Timing { crypto_mb_per_s: mb_per_s, crypto_latency: latency, ..Timing::default() }).expect("limited")
    }

    #[test]
    fn an_engine_without_limits_has_no_pace() {
        assert!(Pace::new(&Timing::default()).is_none());
        let commands = Timing { program: US, evict: US, ..Timing::default() };
        assert!(Pace::new(&commands).is_none());
    }

    #[test]
    fn a_backlog_can_be_forgotten() {
        let pace = pace(1, Duration::ZERO);
        pace.reserve(pace.epoch, 3_600_000_000);
        pace.clear();
        assert_eq!(pace.reserve(pace.epoch + US, 1000), pace.epoch + 1001 * US);
    }

    #[test]
    fn throughput_is_shared_and_latency_is_not() {
        // 4096 bytes at 512 MB/s: 8 us.
        let pace = pace(512, 100 * US);
        let t = pace.epoch + 1000 * US;
        assert_eq!(pace.reserve(t, 4096), t + 108 * US);
        // At the same time, from another queue: waits for the first one's data, not for its latency.
        assert_eq!(pace.reserve(t, 4096), t + 116 * US);
        // While the engine is busy.
        assert_eq!(pace.reserve(t + 10 * US, 8192), t + 132 * US);
        // The input is free at 32 us. At 50 us there is nothing to wait for, and idle time is not saved up.
        assert_eq!(pace.reserve(t + 50 * US, 4096), t + 158 * US);
        // A clock that was read earlier, but is used later.
        assert_eq!(pace.reserve(t + 49 * US, 4096), t + 166 * US);
    }

    #[test]
    fn latency_alone_and_throughput_alone() {
        let latency = pace(0, 30 * US);
        let t = latency.epoch + US;
        assert_eq!(latency.reserve(t, 1 << 20), t + 30 * US);
        assert_eq!(latency.reserve(t, 1 << 20), t + 30 * US);
        let throughput = pace(1, Duration::ZERO);
        let t = throughput.epoch + US;
        assert_eq!(throughput.reserve(t, 512), t + 512 * US);
        assert_eq!(throughput.reserve(t, 1), t + 513 * US);
    }

    #[test]
    fn nothing_overflows() {
        let pace = pace(1, Duration::from_secs(10));
        let first = pace.reserve(pace.epoch, u64::MAX);
        assert_eq!(pace.reserve(pace.epoch, u64::MAX), first.max(pace.reserve(pace.epoch, 1)));
    }

    /// Whatever the order of the threads, the engine serves one request at a time.
    #[test]
    fn no_time_is_given_away_twice() {
        let pace = pace(1000, Duration::ZERO);
        let now = pace.epoch;
        let mut ends: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).map(|_| pace.reserve(now, 1)).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        ends.sort();
        let expected: Vec<_> = (1..=4000).map(|ns| now + Duration::from_nanos(ns)).collect();
        assert_eq!(ends, expected);
    }
}
