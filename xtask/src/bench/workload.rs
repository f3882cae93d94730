// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The workloads.

/// How much is measured: each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `--quick`
    Quick,
    /// Neither option.
    Normal,
    /// `--full`
    Full,
}

/// What the client does besides requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    Load,
    /// A new key for each request.
    Churn,
    /// It programs other keyslots all the time.
    ChurnBeside,
}

/// A load.
#[derive(Debug)]
pub struct Workload {
    /// Name, for filters and files.
    pub name: &'static str,
    /// Title, for people.
    pub title: &'static str,
    /// The clients' `--operation`.
    pub operation: &'static str,
    /// Bytes of a request.
    pub block: u32,
    /// Requests in flight.
    pub depth: u16,
    /// What the client does besides.
    pub task: Task,
    /// The lowest level that includes it.
    pub level: Level,
    /// The lowest level at which the libblkio client runs it, too.
    pub compare: Level,
}

impl Workload {
    /// The workload with one key that this workload with key changes is compared with.
    pub fn reference(&self) -> Option<&'static Workload> {
        if self.task == Task::Load {
            return None;
        }
        ALL.iter().find(|w| {
            w.task == Task::Load && (w.operation, w.block, w.depth) == (self.operation, self.block, self.depth)
        })
    }

    /// Whether bytes per second say more than requests per second.
    pub fn is_throughput(&self) -> bool {
        self.block > 16384
    }

    /// The workload with this name.
    #[cfg(test)]
    pub fn named(name: &str) -> Option<&'static Workload> {
        ALL.iter().find(|w| w.name == name)
    }
}

const KIB4: u32 = 4096;
const KIB128: u32 = 128 << 10;

const fn load(
    name: &'static str,
    title: &'static str,
    operation: &'static str,
    block: u32,
    depth: u16,
    level: Level,
    compare: Level,
) -> Workload {
    Workload { name, title, operation, block, depth, task: Task::Load, level, compare }
}

const fn churn(name: &'static str, title: &'static str, depth: u16, task: Task, level: Level) -> Workload {
    Workload { name, title, operation: "randwrite", block: KIB4, depth, task, level, compare: Level::Full }
}

use Level::{Full, Normal, Quick};

/// All workloads, in the order of the report.
pub const ALL: &[Workload] = &[
    load("randread-qd1", "4 KiB random read, QD1", "randread", KIB4, 1, Quick, Normal),
    load("randread-qd32", "4 KiB random read, QD32", "randread", KIB4, 32, Quick, Quick),
    load("randwrite-qd1", "4 KiB random write, QD1", "randwrite", KIB4, 1, Normal, Full),
    load("randwrite-qd32", "4 KiB random write, QD32", "randwrite", KIB4, 32, Quick, Normal),
    load("seqread-qd8", "128 KiB sequential read, QD8", "read", KIB128, 8, Normal, Full),
    load("seqread-qd32", "128 KiB sequential read, QD32", "read", KIB128, 32, Quick, Normal),
    load("seqwrite-qd8", "128 KiB sequential write, QD8", "write", KIB128, 8, Normal, Full),
    load("seqwrite-qd32", "128 KiB sequential write, QD32", "write", KIB128, 32, Quick, Full),
    churn("churn-qd32", "a new key for each 4 KiB write, 32 at a time", 32, Task::Churn, Quick),
    Workload {
        operation: "randread",
        ..churn("churn-read-qd32", "a new key for each 4 KiB read, 32 at a time", 32, Task::Churn, Normal)
    },
    churn("churn-qd1", "a new key for each 4 KiB write, one at a time", 1, Task::Churn, Normal),
    churn("churn-beside", "4 KiB writes, QD32, while other keyslots are programmed", 32, Task::ChurnBeside, Normal),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_change_has_a_workload_to_compare_with_at_its_level() {
        for workload in ALL.iter().filter(|w| w.task != Task::Load) {
            let reference = workload.reference().expect(workload.name);
            assert!(reference.level <= workload.level, "{}", workload.name);
        }
        assert!(ALL.iter().filter(|w| w.task == Task::Load).all(|w| w.reference().is_none()));
    }
}
