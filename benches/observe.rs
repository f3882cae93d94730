// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo bench --bench observe`: the cost of latency histograms and traces, for requests through a whole device in one
//! process.
//!
//! The driver makes batches of requests available in one queue. "polled": 256 at a time, by a driver that spins, so
//! that only the device's work is measured; the thread that writes the trace competes with two busy threads.
//! "interrupt": 32 at a time, by a driver that sleeps until the interrupt, as real ones do. The modes take turns, so
//! that a drift of the machine favours none. The results are medians of the rounds. Put the image into memory
//! (`TMPDIR=/dev/shm`): a disk would hide the cost.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use std::os::fd::{AsRawFd, BorrowedFd};

use common::*;
use rustix::event::{PollFd, PollFlags, poll};

const ROUNDS: usize = 41;
/// Time of one measurement.
const SLICE: Duration = Duration::from_millis(60);
/// Requests in flight.
const POLLED: u16 = 256;
const INTERRUPT: u16 = 32;

struct Load {
    guest: Guest,
    heads: Vec<u16>,
    polled: bool,
}

impl Load {
    /// Reads of `bytes`, each one in a place of its own.
    fn new(polled: bool, crypto: bool, bytes: usize) -> Self {
        let mut config = Options::default().config;
        config.queue_size = 1024;
        let mut guest = Guest::with(Options { config, ring_size: 1024, ..Options::default() });
        let control = guest.control();
        guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
        let heads = (0..if polled { POLLED } else { INTERRUPT })
            .map(|number| {
                let sector = u64::from(number) * (bytes / SECTOR) as u64 % 8192;
                let readable = if crypto {
                    crypto_header(CRYPTO_IN, sector, 0, [sector / 8, 0, 0, 0])
                } else {
                    header(IN, sector)
                };
                guest.rings[0].add(&readable, bytes + 1).head
            })
            .collect();
        let mut load = Self { guest, heads, polled };
        load.finish_batch();
        load
    }

    fn finish_batch(&mut self) {
        let ring = &mut self.guest.rings[0];
        // Request an interrupt for the last one.
        ring.set_used_event(ring.next_avail.wrapping_sub(1));
        ring.kick();
        while ring.used_index() != ring.next_avail {
            if self.polled {
                std::hint::spin_loop();
            } else {
                // SAFETY: the descriptor is open as long as the ring.
                let call = unsafe { BorrowedFd::borrow_raw(ring.call.as_raw_fd()) };
                poll(&mut [PollFd::new(&call, PollFlags::IN)], None).expect("poll");
                ring.call.read().expect("interrupt");
            }
        }
        ring.next_used = ring.next_avail;
    }

    /// Requests per second.
    fn rate(&mut self) -> f64 {
        let start = Instant::now();
        let mut batches = 0u32;
        while start.elapsed() < SLICE {
            for at in 0..self.heads.len() {
                self.guest.rings[0].publish(self.heads[at]);
            }
            self.finish_batch();
            batches += 1;
        }
        f64::from(batches * self.heads.len() as u32) / start.elapsed().as_secs_f64()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let directory = tempfile::TempDir::new().expect("directory");
    let file = directory.path().join("trace");
    println!("{:<28} {:>8} {:>20} {:>20}", "reads of bytes", "off, k/s", "latency", "trace");
    for (polled, crypto, bytes) in [
        (true, false, 512),
        (true, true, 4096),
        (true, true, 16384),
        (false, false, 4096),
        (false, true, 4096),
        (false, true, 16384),
    ] {
        let mut load = Load::new(polled, crypto, bytes);
        let observer = std::sync::Arc::clone(load.guest.device.observer());
        let (mut off, mut latency, mut trace) = (Vec::new(), Vec::new(), Vec::new());
        let (mut records, mut dropped) = (0, 0);
        for turn in 0..3 * ROUNDS {
            // Each mode follows each other one equally often.
            match [[0, 1, 2], [0, 2, 1]][turn / 3 % 2][turn % 3] {
                0 => off.push(load.rate()),
                1 => {
                    observer.set_latency(true);
                    latency.push(load.rate());
                    observer.set_latency(false);
                }
                _ => {
                    observer.start_trace(&file).expect("trace");
                    trace.push(load.rate());
                    let status = observer.stop_trace().expect("trace");
                    records += status.records;
                    dropped += status.dropped;
                }
            }
        }
        let off = median(off);
        let on = |rates: Vec<f64>| {
            let rate = median(rates);
            format!("{:.1} % {:>+5.0} ns", 100.0 * rate / off, 1e9 / rate - 1e9 / off)
        };
        println!(
            "{:<28} {:>8.0} {:>20} {:>20}  {:.1} % of records dropped",
            format!(
                "{} {bytes}{}",
                if polled { "polled" } else { "interrupt" },
                if crypto { ", encrypted" } else { "" }
            ),
            off / 1e3,
            on(latency),
            on(trace),
            100.0 * dropped as f64 / (records + dropped) as f64,
        );
    }
}
