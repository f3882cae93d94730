// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Code that benches share.

use std::time::{Duration, Instant};

const ROUNDS: usize = 15;
/// Time of one measurement.
const SLICE: Duration = Duration::from_millis(40);

/// Nanoseconds of a call: the minimum of many short rounds, which other load on the machine disturbs least.
#[allow(dead_code)] // not every bench
pub fn fewest_nanoseconds(mut action: impl FnMut()) -> f64 {
    const CALLS: u32 = 256;
    let round = |_| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| action());
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..5000).map(round).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds of a call: the median of the rounds.
pub fn nanoseconds(mut action: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (start, mut calls) = (Instant::now(), 0u32);
            while start.elapsed() < SLICE {
                for _ in 0..64 {
                    action();
                }
                calls += 64;
            }
            start.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
