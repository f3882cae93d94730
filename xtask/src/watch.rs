// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device uses of the host while a guest runs: its private memory, and its CPU time while it should be idle.

use anyhow::{Result, bail, ensure};
use procfs::process::Process;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// What a case allows the device.
#[derive(Debug, Default)]
pub struct Bounds {
    /// Bytes of private memory, at any time.
    pub memory: Option<u64>,
    /// Percent of a CPU, between the guest's lines `calm` and `over` on its port `progress`.
    pub calm: Option<u32>,
}

/// Watches a device.
pub struct Watch<'a> {
    bounds: &'a Bounds,
    /// What the guest writes to its port.
    port: &'a Path,
    most_memory: u64,
    lines: usize,
    /// When the calm period began, and the CPU time then.
    since: Option<(Instant, f64)>,
    /// Percent of a CPU, for each calm period.
    used: Vec<f64>,
}

impl<'a> Watch<'a> {
    /// Nothing has been seen yet.
    pub fn new(bounds: &'a Bounds, port: &'a Path) -> Self {
        Self { bounds, port, most_memory: 0, lines: 0, since: None, used: vec![] }
    }

    /// Looks at the process. Call it often.
    pub fn step(&mut self, process: u32) {
        if self.bounds.memory.is_some() {
            self.most_memory = self.most_memory.max(private_memory(process).unwrap_or(0));
        }
        if self.bounds.calm.is_some() {
            let lines = fs::read_to_string(self.port).unwrap_or_default().lines().count();
            while self.lines < lines {
                self.lines += 1;
                self.turn(process);
            }
        }
    }

    fn turn(&mut self, process: u32) {
        let Some(now) = cpu_seconds(process) else { return };
        match self.since.take() {
            None => self.since = Some((Instant::now(), now)),
            Some((begin, before)) => self.used.push(100.0 * (now - before) / begin.elapsed().as_secs_f64()),
        }
    }

    /// What was seen, in words; empty when nothing was to be watched.
    pub fn report(&self) -> String {
        let memory = self.bounds.memory.map(|_| format!("private memory: at most {} KiB\n", self.most_memory >> 10));
        let calm = self.used.iter().map(|used| format!("CPU time while calm: {used:.1} %\n"));
        memory.into_iter().chain(calm).collect()
    }

    /// What was too much.
    pub fn finish(&self) -> Result<()> {
        if let Some(most) = self.bounds.memory {
            ensure!(self.most_memory > 0, "the device's memory was never seen");
            let found = self.most_memory >> 10;
            ensure!(
                self.most_memory <= most,
                "the device had {found} KiB of private memory; {} are allowed",
                most >> 10
            );
        }
        if let Some(most) = self.bounds.calm {
            ensure!(!self.used.is_empty(), "the guest never wrote calm and over to its port progress");
            if let Some(used) = self.used.iter().find(|used| **used > f64::from(most)) {
                bail!("the device used {used:.0} % of a CPU while it had nothing to do; {most} % are allowed");
            }
        }
        Ok(())
    }
}

/// Bytes of memory that are not shared.
fn private_memory(process: u32) -> Option<u64> {
    Some(Process::new(process.cast_signed()).ok()?.status().ok()?.rssanon? << 10)
}

/// The CPU time of all threads.
fn cpu_seconds(process: u32) -> Option<f64> {
    let stat = Process::new(process.cast_signed()).ok()?.stat().ok()?;
    Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn memory_and_cpu_time_of_a_process() {
        let scratch = tempfile::tempdir().unwrap();
        let port = scratch.path().join("port");
        let bounds = Bounds { memory: Some(4 << 30), calm: Some(50) };
        let mut watch = Watch::new(&bounds, &port);
        let me = std::process::id();
        watch.step(me);
        assert!(watch.most_memory > 100 << 10);
        assert!(watch.finish().is_err(), "never calm");
        fs::write(&port, "calm\n").unwrap();
        watch.step(me);
        std::thread::sleep(Duration::from_millis(10));
        fs::write(&port, "calm\nover\n").unwrap();
        watch.step(me);
        assert_eq!(watch.used.len(), 1);
        watch.used[0] = 49.0;
        watch.finish().unwrap();
        assert!(watch.report().ends_with("CPU time while calm: 49.0 %\n"));
        watch.used[0] = 51.0;
        assert!(watch.finish().is_err());
        watch.used[0] = 0.0;
        watch.most_memory = 5 << 30;
        assert!(watch.finish().is_err());
    }
}
