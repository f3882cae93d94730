// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device's statistics file: looking counters up, and checking what a case asserts of them.

use anyhow::{Context, Error, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// The counters a device left at its end.
pub struct Stats(Value);

impl Stats {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("the device left no statistics in {}", path.display()))?;
        Ok(Self(serde_json::from_slice(&text).context("the device's statistics are not JSON")?))
    }

    /// A counter by its path, such as `keyslots.program`.
    pub fn get(&self, path: &str) -> Option<u64> {
        path.split('.').try_fold(&self.0, |value, name| value.get(name))?.as_u64()
    }
}

/// `PATH OP NUMBER`.
#[derive(Debug)]
pub struct Assertion {
    path: String,
    op: String,
    number: u64,
}

impl FromStr for Assertion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [path, op, number] = words.as_slice() else { anyhow::bail!("a stat line is PATH OP NUMBER") };
        ensure!([">=", "<=", "==", "!=", ">", "<"].contains(op), "{op} is none of >= <= == != > <");
        let number = number.parse().with_context(|| format!("{number} is not a number"))?;
        Ok(Self { path: (*path).to_owned(), op: (*op).to_owned(), number })
    }
}

impl Assertion {
    /// Checks it.
    pub fn check(&self, stats: &Stats) -> Result<()> {
        let Self { path, op, number } = self;
        let value = stats.get(path).with_context(|| format!("the device's statistics have no counter {path}"))?;
        let holds = match op.as_str() {
            ">=" => value >= *number,
            "<=" => value <= *number,
            "==" => value == *number,
            "!=" => value != *number,
            ">" => value > *number,
            _ => value < *number,
        };
        ensure!(holds, "the device counted {path} = {value}, expected {op} {number}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions() {
        let stats = Stats(serde_json::json!({"keyslots": {"program": 5}}));
        let check = |text: &str| text.parse::<Assertion>().unwrap().check(&stats).is_ok();
        for good in ["keyslots.program >= 5", "keyslots.program == 5", "keyslots.program < 6", "keyslots.program != 4"]
        {
            assert!(check(good), "{good}");
        }
        for bad in ["keyslots.program > 5", "keyslots.evict >= 0", "keyslots <= 9"] {
            assert!(!check(bad), "{bad}");
        }
        assert!("a => 1".parse::<Assertion>().is_err() && "a >= x".parse::<Assertion>().is_err());
    }
}
