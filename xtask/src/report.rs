// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counting what passed, failed and was skipped, and the summary at the end.

use crate::progress;
use std::time::Duration;

/// Why something is skipped.
pub const TAKES_MINUTES: &str = "takes minutes: give --long";

/// All verdicts of a run.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
}

impl Report {
    /// Something passed; its progress line is printed.
    pub fn pass(&mut self, name: &str, took: Duration) {
        progress::line(name, "passed", took);
        self.passed += 1;
    }

    /// Something failed. Prints its progress line and the reason at once; the summary repeats the reason's first line.
    pub fn fail(&mut self, name: &str, took: Duration, reason: &str) {
        progress::line(name, "FAILED", took);
        for line in reason.lines() {
            progress::print(&format!("    {line}"));
        }
        self.failed.push((name.to_owned(), reason.to_owned()));
    }

    /// Something was not run.
    pub fn skip(&mut self, name: &str, took: Duration, reason: &str) {
        progress::line(name, "skipped", took);
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Adds the counts of a test program that counted for itself, without printing.
    pub fn add(&mut self, passed: usize, failed: Vec<(String, String)>, skipped: Vec<(String, String)>) {
        self.passed += passed;
        self.failed.extend(failed);
        self.skipped.extend(skipped);
    }

    /// True before anything was counted.
    pub fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed.is_empty() && self.skipped.is_empty()
    }

    /// Prints the summary; true when nothing failed and something passed.
    pub fn finish(&self) -> bool {
        println!();
        for (what, list) in [("skipped", &self.skipped), ("FAILED", &self.failed)] {
            for (name, reason) in list {
                println!("{what}: {name}: {}", reason.lines().next().unwrap_or_default());
            }
        }
        println!("{}", self.totals());
        self.failed.is_empty() && self.passed > 0
    }

    fn totals(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_verdict() {
        let mut report = Report::default();
        assert!(!report.finish(), "nothing ran");
        report.add(3, vec![], vec![("a".into(), "b".into())]);
        assert_eq!(report.totals(), "3 passed, 0 failed, 1 skipped");
        assert!(report.finish());
        report.fail("x", Duration::ZERO, "why\nmore");
        assert!(!report.finish());
    }
}
