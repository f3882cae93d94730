// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The contenders: this device and qemu-storage-daemon, each with several settings.

use super::workload::Level::{self, Full, Normal, Quick};
use super::workload::{Task, Workload};

/// What qemu-storage-daemon exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// No disk, to measure the cost of the rings.
    Null,
    /// The image.
    Raw {
        /// How it reads and writes.
        aio: &'static str,
        /// Bypass the page cache (O_DIRECT).
        direct: bool,
    },
    /// An encrypted image.
    Luks,
}

/// A program with settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This device.
    Ours {
        /// More options.
        options: &'static [&'static str],
        /// Serve a memory disk (`--blk-ram`) and no image.
        memory: bool,
    },
    /// qemu-storage-daemon.
    Qsd {
        /// The disk.
        disk: Disk,
        /// `poll-max-ns`: the longest time that its thread polls. `None`: the default.
        poll_ns: Option<u32>,
    },
    /// This device's crypto engine without the device.
    Engine,
}

/// One line of the comparison.
#[derive(Debug)]
pub struct Contender {
    /// Name, for tables and filters.
    pub name: &'static str,
    /// Contenders that differ only in how they poll have the same family.
    pub family: &'static str,
    /// Data unit size of encrypted requests. `None`: plain requests.
    pub unit: Option<u32>,
    /// What runs.
    pub kind: Kind,
    /// The lowest level that includes it.
    pub level: Level,
}

impl Contender {
    /// Whether it can run this workload.
    pub fn can(&self, workload: &Workload) -> bool {
        match self.kind {
            Kind::Engine => workload.is_throughput() && workload.depth == 32,
            _ if workload.task == Task::ChurnBeside && self.has_keys_in_requests() => false,
            _ if workload.task != Task::Load => self.unit == Some(4096),
            _ => true,
        }
    }

    /// Whether it has no keyslots, so that each request carries its key.
    pub fn has_keys_in_requests(&self) -> bool {
        matches!(self.kind, Kind::Ours { options, .. } if options.starts_with(NO_SLOTS))
    }

    /// Whether it reads and writes an image.
    pub fn has_image(&self) -> bool {
        !matches!(self.kind, Kind::Engine | Kind::Ours { memory: true, .. } | Kind::Qsd { disk: Disk::Null, .. })
    }

    /// The contender with this name.
    pub fn named(name: &str) -> Option<&'static Contender> {
        ALL.iter().find(|c| c.name == name)
    }
}

const fn qsd(name: &'static str, family: &'static str, disk: Disk, poll_ns: Option<u32>, level: Level) -> Contender {
    Contender { name, family, unit: None, kind: Kind::Qsd { disk, poll_ns }, level }
}

const fn ours(
    name: &'static str,
    family: &'static str,
    unit: Option<u32>,
    options: &'static [&'static str],
    level: Level,
) -> Contender {
    Contender { name, family, unit, kind: Kind::Ours { options, memory: false }, level }
}

const fn ram(name: &'static str, unit: Option<u32>, level: Level) -> Contender {
    // It sleeps as little as possible, to measure the upper limit.
    const OPTIONS: &[&str] = &["--poll-us", "1000"];
    Contender { name, family: "ours-ram", unit, kind: Kind::Ours { options: OPTIONS, memory: true }, level }
}

const fn engine(name: &'static str, unit: Option<u32>, level: Level) -> Contender {
    Contender { name, family: "engine", unit, kind: Kind::Engine, level }
}

const URING: Disk = Disk::Raw { aio: "io_uring", direct: false };
const NATIVE: Disk = Disk::Raw { aio: "native", direct: true };
/// Longer than any gap between the requests of a busy client. qemu-storage-daemon's default is 32768.
const POLL_NS: Option<u32> = Some(1_000_000);
const POLL: &[&str] = &["--poll-us", "1000"];
const NO_SLOTS: &[&str] = &["--keyslots", "0"];

/// All contenders, in the order of the report.
pub const ALL: &[Contender] = &[
    qsd("qsd-null", "qsd-null", Disk::Null, None, Normal),
    qsd("qsd-uring", "qsd-uring", URING, None, Quick),
    qsd("qsd-uring-poll", "qsd-uring", URING, POLL_NS, Normal),
    qsd("qsd-native", "qsd-native", NATIVE, None, Quick),
    qsd("qsd-native-poll", "qsd-native", NATIVE, POLL_NS, Normal),
    qsd("qsd-uring-direct", "qsd-uring-direct", Disk::Raw { aio: "io_uring", direct: true }, None, Full),
    qsd("qsd-threads", "qsd-threads", Disk::Raw { aio: "threads", direct: false }, None, Full),
    qsd("qsd-luks", "qsd-luks", Disk::Luks, None, Quick),
    ours("ours", "ours", None, &[], Quick),
    ours("ours-poll", "ours", None, POLL, Quick),
    ours("ours-nopoll", "ours", None, &["--poll-us", "0"], Full),
    ours("ours-direct", "ours-direct", None, &["--cache", "none"], Normal),
    ours("ours-sync", "ours-sync", None, &["--aio", "sync"], Full),
    ours("ours-uring", "ours-uring", None, &["--aio", "io_uring"], Full),
    ours("ours-threads", "ours-threads", None, &["--aio", "threads"], Full),
    ram("ours-ram", None, Normal),
    ours("ours+4096", "ours", Some(4096), &[], Quick),
    ours("ours-poll+4096", "ours", Some(4096), POLL, Quick),
    ours("ours-noslots+4096", "ours-noslots", Some(4096), NO_SLOTS, Quick),
    ours("ours-noslots-poll+4096", "ours-noslots", Some(4096), &["--keyslots", "0", "--poll-us", "1000"], Quick),
    ours("ours-nopoll+4096", "ours", Some(4096), &["--poll-us", "0"], Full),
    ours("ours-direct+4096", "ours-direct", Some(4096), &["--cache", "none"], Normal),
    ours("ours-sync+4096", "ours-sync", Some(4096), &["--aio", "sync"], Full),
    ours("ours-uring+4096", "ours-uring", Some(4096), &["--aio", "io_uring"], Full),
    ours("ours-threads+4096", "ours-threads", Some(4096), &["--aio", "threads"], Full),
    ours("ours-portable+4096", "ours-portable", Some(4096), &["--crypto-engine", "portable"], Full),
    ram("ours-ram+4096", Some(4096), Normal),
    ours("ours+512", "ours", Some(512), &[], Normal),
    ours("ours-poll+512", "ours", Some(512), POLL, Full),
    ram("ours-ram+512", Some(512), Full),
    engine("engine+4096", Some(4096), Normal),
    engine("engine+512", Some(512), Full),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_say_the_data_unit() {
        let names: HashSet<&str> = ALL.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), ALL.len());
        for c in ALL {
            let unit = c.name.split_once('+').map(|(_, unit)| unit.parse().expect("a number"));
            assert_eq!(unit, c.unit, "{}", c.name);
        }
    }

    #[test]
    fn only_encrypted_requests_change_keys() {
        let churn = Workload::named("churn-qd32").expect("there");
        assert!(ALL.iter().filter(|c| c.can(churn)).all(|c| c.unit == Some(4096)));
        assert!(Contender::named("ours+4096").expect("there").can(churn));
        assert!(!Contender::named("engine+4096").expect("there").can(churn));
        let beside = Workload::named("churn-beside").expect("there");
        for noslots in
            ["ours-noslots+4096", "ours-noslots-poll+4096"].map(|name| Contender::named(name).expect("there"))
        {
            assert!(noslots.has_keys_in_requests() && noslots.can(churn) && !noslots.can(beside));
        }
    }
}
