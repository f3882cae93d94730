// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was measured, and queries.

use super::client::{Client, Measured};
use super::contender::Contender;
use super::image::Place;
use super::workload::Workload;
use crate::measure::statistics;

/// All samples of one contender under one load.
pub struct Series {
    /// Where the image was.
    pub place: Place,
    /// The load.
    pub workload: &'static Workload,
    /// The client.
    pub client: Client,
    /// The contender.
    pub contender: &'static Contender,
    /// One sample for each round.
    pub samples: Vec<Measured>,
}

impl Series {
    /// What was measured, in words.
    pub fn title(&self) -> String {
        format!("{} · {} · {}", self.workload.title, self.place.name(), self.client.name())
    }

    /// One value of each sample.
    pub fn values(&self, number: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.samples.iter().map(number).collect()
    }

    /// The value that is compared: requests per second.
    pub fn iops(&self) -> Vec<f64> {
        self.values(Measured::iops)
    }

    /// Its median.
    pub fn median(&self) -> f64 {
        statistics::median(&self.iops()).unwrap_or(0.0)
    }
}

/// All results of a run.
#[derive(Default)]
pub struct Results {
    /// Measurements.
    pub series: Vec<Series>,
    /// Contenders that did not run: where, and why.
    pub not_run: Vec<(Place, &'static str, String)>,
    /// What failed during the run.
    pub failed: Vec<String>,
}

impl Results {
    /// Adds a sample.
    pub fn add(
        &mut self,
        place: Place,
        workload: &'static Workload,
        client: Client,
        contender: &'static Contender,
        measured: Measured,
    ) {
        let at = self.series.iter_mut().find(|s| s.is(place, workload.name, client, contender.name));
        match at {
            Some(series) => series.samples.push(measured),
            None => self.series.push(Series { place, workload, client, contender, samples: vec![measured] }),
        }
    }

    /// A series with samples.
    pub fn find(&self, place: Place, workload: &str, client: Client, contender: &str) -> Option<&Series> {
        self.series.iter().find(|s| s.is(place, workload, client, contender))
    }

    /// The fastest contender of a family: each side may use the settings that suit it best.
    pub fn best(
        &self,
        place: Place,
        workload: &str,
        client: Client,
        families: &[&str],
        unit: Option<u32>,
    ) -> Option<&Series> {
        self.series
            .iter()
            .filter(|s| s.place == place && s.workload.name == workload && s.client == client)
            .filter(|s| families.contains(&s.contender.family) && s.contender.unit == unit)
            .max_by(|a, b| a.median().total_cmp(&b.median()))
    }

    /// What a series is compared with: the baseline under the same load; for key changes, the same contender with one
    /// key.
    pub fn base_of(&self, series: &Series, baseline: &str) -> Option<&Series> {
        match series.workload.reference() {
            Some(reference) => self.find(series.place, reference.name, series.client, series.contender.name),
            None => self.find(series.place, series.workload.name, series.client, baseline),
        }
    }

    /// The ratio of a series to what it is compared with.
    pub fn ratio(&self, series: &Series, baseline: &str) -> Option<f64> {
        statistics::ratio(&series.iops(), &self.base_of(series, baseline)?.iops())
    }
}

impl Series {
    fn is(&self, place: Place, workload: &str, client: Client, contender: &str) -> bool {
        self.place == place
            && self.workload.name == workload
            && self.client == client
            && self.contender.name == contender
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results with one sample each: this number of requests per second.
    pub fn results(numbers: &[(&str, &str, f64)]) -> Results {
        let mut results = Results::default();
        for (workload, contender, iops) in numbers {
            let workload = Workload::named(workload).unwrap();
            let measured = Measured {
                requests: *iops,
                bytes: iops * f64::from(workload.block),
                seconds: 1.0,
                server_cpu: 0.5,
                client_cpu: 0.5,
                programs: 0.0,
            };
            results.add(Place::Tmpfs, workload, Client::ALL[0], Contender::named(contender).unwrap(), measured);
        }
        results
    }

    #[test]
    fn ratios_are_to_the_baseline_or_to_one_key() {
        let results = results(&[
            ("randwrite-qd32", "qsd-uring", 100.0),
            ("randwrite-qd32", "ours+4096", 200.0),
            ("churn-qd32", "ours+4096", 150.0),
        ]);
        let ratio = |w, c| {
            let series = results.find(Place::Tmpfs, w, Client::ALL[0], c).unwrap();
            results.ratio(series, "qsd-uring")
        };
        assert_eq!(ratio("randwrite-qd32", "ours+4096"), Some(2.0));
        assert_eq!(ratio("churn-qd32", "ours+4096"), Some(0.75));
    }

    #[test]
    fn the_best_setting_counts() {
        let results = results(&[("randread-qd1", "ours", 1.0), ("randread-qd1", "ours-poll", 3.0)]);
        let best = results.best(Place::Tmpfs, "randread-qd1", Client::ALL[0], &["ours"], None).unwrap();
        assert_eq!(best.contender.name, "ours-poll");
        assert!(results.best(Place::Disk, "randread-qd1", Client::ALL[0], &["ours"], None).is_none());
    }
}
