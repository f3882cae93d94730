// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was measured, and queries.

use super::disk::Counters;
use super::load::{Counted, Latency, Load};
use super::target::{Disk, Target};
use super::verdict::Verdict;
use crate::measure::statistics;
use serde::Serialize;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// What the load counted.
    #[serde(flatten)]
    pub counted: Counted,
    /// CPU time of the guest, all CPUs, all that ran on them, in seconds.
    #[serde(rename = "guest_cpu_s")]
    pub guest_cpu: f64,
    /// CPU time of the device's process on the host, in seconds.
    #[serde(rename = "device_cpu_s")]
    pub device_cpu: f64,
    /// What the device counted.
    #[serde(rename = "device")]
    pub counters: Counters,
}

impl Sample {
    /// Requests, or files, per second.
    pub fn rate(&self) -> f64 {
        self.counted.requests / self.counted.seconds
    }

    /// Megabytes (10^6) per second.
    pub fn megabytes(&self) -> f64 {
        self.counted.bytes / self.counted.seconds / 1e6
    }

    /// The guest's CPU time for 10^9 bytes, in seconds.
    pub fn guest_cpu_per_gb(&self) -> f64 {
        self.guest_cpu / (self.counted.bytes / 1e9)
    }

    /// The same of the device's process.
    pub fn device_cpu_per_gb(&self) -> f64 {
        self.device_cpu / (self.counted.bytes / 1e9)
    }

    /// Keys programmed per second.
    pub fn programs(&self) -> f64 {
        self.counters.programs as f64 / self.counted.seconds
    }
}

/// All measurements of one target under one load.
#[derive(Debug)]
pub struct Series {
    /// The load.
    pub load: &'static Load,
    /// The target.
    pub target: Target,
    /// One sample for each round.
    pub samples: Vec<Sample>,
}

impl Series {
    /// One value of each sample.
    pub fn values(&self, number: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(number).collect()
    }

    /// The median of a value.
    pub fn median(&self, number: impl Fn(&Sample) -> f64) -> f64 {
        statistics::median(&self.values(number)).unwrap_or(0.0)
    }

    /// The value that is compared: [`Load::unit`].
    pub fn speed(sample: &Sample, load: &Load) -> f64 {
        if load.counts_requests() { sample.rate() } else { sample.megabytes() }
    }

    /// Its values.
    pub fn speeds(&self) -> Vec<f64> {
        self.values(|s| Self::speed(s, self.load))
    }

    /// The median of a latency, if it was measured.
    pub fn latency(&self, which: impl Fn(&Latency) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.samples.iter().filter_map(|s| Some(which(s.counted.latency.as_ref()?))).collect();
        statistics::median(&values)
    }

    /// What the device counted, all samples together.
    pub fn counters(&self) -> Counters {
        self.samples.iter().fold(Counters::default(), |all, s| all.plus(s.counters))
    }

    /// The share of encrypted requests that found their key in a slot.
    pub fn hit_rate(&self) -> Option<f64> {
        self.counters().hit_rate()
    }
}

/// All results of a run.
#[derive(Debug, Default)]
pub struct Results {
    /// Measurements, in the order of the report.
    pub series: Vec<Series>,
    /// How each target was encrypted.
    pub verdicts: Vec<(Target, Verdict)>,
    /// Targets that were not measured, and why.
    pub not_run: Vec<(String, String)>,
    /// What failed.
    pub failed: Vec<String>,
}

impl Results {
    /// A series.
    pub fn find(&self, load: &Load, target: &str) -> Option<&Series> {
        self.series.iter().find(|s| s.load == load && s.target.name == target)
    }

    /// The ratio of a series to what it is compared with.
    pub fn ratio(&self, series: &Series) -> Option<f64> {
        let base = self.find(series.load, &series.target.base())?;
        statistics::ratio(&series.speeds(), &base.speeds())
    }

    /// Series under the same load, in the order of the plan.
    pub fn groups(&self) -> Vec<(&'static Load, Vec<&Series>)> {
        let mut groups: Vec<(&'static Load, Vec<&Series>)> = vec![];
        for series in self.series.iter().filter(|s| !s.samples.is_empty()) {
            match groups.iter_mut().find(|(load, _)| *load == series.load) {
                Some((_, group)) => group.push(series),
                None => groups.push((series.load, vec![series])),
            }
        }
        groups
    }

    /// What programming one key costs: how much longer a request takes, in microseconds, for each program command that
    /// comes with it. From a straight line through all measurements of changes of keys by the device, reading and writing
    /// apart.
    pub fn cost_of_a_program(&self, writing: bool) -> Option<Cost> {
        let of = |s: &&Series| matches!(s.load, Load::Churn { writing: w, .. } if *w == writing);
        let samples = self.series.iter().filter(of).filter(|s| s.target.keyslots().is_some()).flat_map(|s| &s.samples);
        let points: Vec<(f64, f64)> = samples
            .map(|s| (s.counters.programs as f64 / s.counted.requests, s.counted.seconds / s.counted.requests * 1e6))
            .collect();
        line(&points)
    }

    /// Microseconds of a request that carries its key: the median of all measurements, reading and writing apart, and
    /// their number.
    pub fn time_with_key_in_request(&self, writing: bool) -> Option<(f64, usize)> {
        let of = |s: &&Series| matches!(s.load, Load::Churn { writing: w, .. } if *w == writing);
        let samples =
            self.series.iter().filter(of).filter(|s| s.target.disk == Disk::KeysInRequests).flat_map(|s| &s.samples);
        let times: Vec<f64> = samples.map(|s| s.counted.seconds / s.counted.requests * 1e6).collect();
        Some((statistics::median(&times)?, times.len()))
    }
}

/// A straight line through times of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Microseconds of a request that finds its key.
    pub request: f64,
    /// Microseconds more for each key that is programmed.
    pub program: f64,
    /// Number of measurements.
    pub points: usize,
}

/// Least squares; `None` when all points have about the same number of programs.
fn line(points: &[(f64, f64)]) -> Option<Cost> {
    let n = points.len() as f64;
    let mean = |which: fn(&(f64, f64)) -> f64| points.iter().map(which).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if points.len() < 3 || spread / n < 0.01 {
        return None;
    }
    let program = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
    Some(Cost { request: y - program * x, program, points: points.len() })
}

#[cfg(test)]
pub mod tests {
    use super::super::load;
    use super::super::target;
    use super::super::verdict::tests::verdict;
    use super::*;

    /// A sample with this many requests of 4 KiB in one second, and this many program commands.
    pub fn sample(requests: f64, programs: u64) -> Sample {
        Sample {
            counted: Counted {
                requests,
                bytes: requests * 4096.0,
                seconds: 1.0,
                latency: Some(Latency { mean: 100.0, p50: 90.0, p95: 200.0, p99: 300.0 }),
            },
            guest_cpu: 1.5,
            device_cpu: 0.25,
            counters: Counters { crypto_requests: requests as u64, programs, ..Counters::default() },
        }
    }

    /// The number of program commands for random requests to files with a key each.
    fn programs(load: &Load, target: &Target, requests: f64) -> u64 {
        match (load, target.keyslots()) {
            (Load::Churn { files, .. }, Some(slots)) => {
                (requests * (1.0 - f64::from(slots) / f64::from(*files)).max(0.0)) as u64
            }
            _ => 0,
        }
    }

    /// Results with two samples, the second twice as fast, of each load and target of a quick run.
    pub fn results() -> Results {
        let mut results = Results::default();
        let targets = target::all(true);
        for load in load::all().filter(|l| l.is_quick()) {
            for (at, target) in targets.iter().enumerate().filter(|(_, t)| t.kind == load.kind()) {
                let requests = 1000.0 * (at + 1) as f64;
                let samples =
                    [requests, 2.0 * requests].map(|requests| sample(requests, programs(load, target, requests)));
                let samples = samples.to_vec();
                results.series.push(Series { load, target: target.clone(), samples });
            }
        }
        results.verdicts = targets.iter().map(|t| (t.clone(), verdict(t))).collect();
        results.not_run.push(("f2fs/plain".into(), "the guest's kernel has no <f2fs>".into()));
        results
    }

    #[test]
    fn ratios_are_to_the_plain_file_system_or_the_fallback() {
        let results = results();
        let ratio = |load: usize, target: &str| {
            let load = load::all().nth(load).unwrap();
            results.ratio(results.find(load, target).unwrap())
        };
        assert_eq!(ratio(2, "ext4/plain"), Some(1.0));
        assert_eq!(ratio(2, "ext4/native"), Some(2.0));
        assert_eq!(ratio(7, "churn/1"), Some(7.0 / 10.0));
    }

    #[test]
    fn numbers_of_a_sample() {
        let sample = sample(1000.0, 250);
        assert_eq!((sample.rate(), sample.programs()), (1000.0, 250.0));
        assert!((sample.megabytes() - 4.096).abs() < 1e-9);
        assert!((sample.guest_cpu_per_gb() - 1.5 / 0.004_096).abs() < 1e-6);
    }

    #[test]
    fn what_a_program_costs() {
        let cost = line(&[(0.0, 50.0), (0.5, 90.0), (1.0, 130.0)]).unwrap();
        assert!((cost.request - 50.0).abs() < 1e-9 && (cost.program - 80.0).abs() < 1e-9, "{cost:?}");
        assert_eq!(line(&[(0.5, 1.0), (0.5, 2.0), (0.5, 3.0)]), None);
        assert_eq!(line(&[]), None);
    }
}
