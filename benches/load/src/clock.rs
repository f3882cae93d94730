// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The timed window of a run: requests, seconds and CPU time from the end of the warm-up on.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// The results of a run in its timed window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Requests completed.
    pub requests: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Length of the window.
    pub seconds: f64,
    /// CPU seconds that all threads of the server used in it; 0 when not measured.
    pub server_cpu: f64,
    /// CPU seconds of this process.
    pub client_cpu: f64,
    /// Keyslots programmed, or keys that requests brought to change it.
    pub programs: u64,
}

/// A window that opens after the warm-up.
pub struct Window {
    warmup: Duration,
    length: Duration,
    server: Option<libc::pid_t>,
    started: Instant,
    opened: Option<(Instant, f64, f64)>,
    requests: u64,
    programs: u64,
}

impl Window {
    /// The warm-up starts now.
    pub fn start(warmup: f64, seconds: f64, server: Option<libc::pid_t>) -> Result<Self> {
        let duration = |s| Duration::try_from_secs_f64(s).context("not a number of seconds");
        Ok(Self {
            warmup: duration(warmup)?,
            length: duration(seconds)?,
            server,
            started: Instant::now(),
            opened: None,
            requests: 0,
            programs: 0,
        })
    }

    /// Counts completions since the last call. Returns the result when the window has closed.
    pub fn count(&mut self, requests: u64, programs: u64, block: u32) -> Result<Option<Measured>> {
        let now = Instant::now();
        let Some((opened, server, client)) = self.opened else {
            if now - self.started >= self.warmup {
                self.opened = Some((Instant::now(), self.server_cpu()?, own_cpu_seconds()?));
            }
            return Ok(None);
        };
        self.requests += requests;
        self.programs += programs;
        if now - opened < self.length {
            return Ok(None);
        }
        Ok(Some(Measured {
            requests: self.requests,
            bytes: self.requests * u64::from(block),
            seconds: (now - opened).as_secs_f64(),
            server_cpu: self.server_cpu()? - server,
            client_cpu: own_cpu_seconds()? - client,
            programs: self.programs,
        }))
    }

    fn server_cpu(&self) -> Result<f64> {
        self.server.map_or(Ok(0.0), cpu_seconds)
    }
}

/// CPU seconds of all threads of a process, including ended ones and the kernel's io_uring workers.
fn cpu_seconds(pid: libc::pid_t) -> Result<f64> {
    let mut clock = MaybeUninit::uninit();
    // SAFETY: the pointer is to a clockid_t of ours, which the function fills in when it returns 0.
    let result = unsafe { libc::clock_getcpuclockid(pid, clock.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result)).with_context(|| format!("no process {pid} to measure"));
    }
    // SAFETY: the call above returned 0.
    read(unsafe { clock.assume_init() })
}

fn own_cpu_seconds() -> Result<f64> {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot read the CPU time of a process; has it ended?");
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_after_the_warm_up_only() {
        let mut window = Window::start(0.0, 0.02, Some(std::process::id().cast_signed())).expect("window");
        assert_eq!(window.count(1000, 0, 512).expect("clock"), None);
        let measured = loop {
            // Work for the CPU clock to see.
            std::hint::black_box((0..10_000).sum::<u64>());
            if let Some(measured) = window.count(2, 1, 512).expect("clock") {
                break measured;
            }
        };
        assert!(measured.requests.is_multiple_of(2) && measured.requests == 2 * measured.programs);
        assert_eq!(measured.bytes, measured.requests * 512);
        assert!(measured.seconds >= 0.02 && measured.server_cpu > 0.0 && measured.client_cpu > 0.0);
    }

    #[test]
    fn a_server_that_is_gone_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().expect("a program");
        let pid = child.id().cast_signed();
        child.wait().expect("it ends");
        assert!(cpu_seconds(pid).is_err());
    }
}
