// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The counters that the device writes. `stats` makes the statistics from them.

use std::sync::atomic::AtomicBool;

use super::record::{CryptoUse, Kind, Record};
use super::tally::{Counter, Tally};
use crate::digest::DigestAlgorithm;
use crate::protocol::Status;

/// Counters of one queue. One worker at a time serves a queue, so it is the only writer. The alignment keeps two
/// queues' counters out of one cache line, and out of one pair of lines, which some CPUs fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueCounters {
    pub kinds: [KindCounters; Kind::COUNT],
    /// Refused with UNSUPP.
    pub unsupported: Tally,
    /// Encrypted requests whose slot had no key.
    pub nokey: Tally,
    pub encrypted: Tally,
    pub decrypted: Tally,
    /// Data units with digests, by algorithm.
    pub digests: [Tally; DigestAlgorithm::ALL.len()],
    /// Written by the frontend's thread.
    pub running: AtomicBool,
}

/// Counters of one request type in one queue.
#[derive(Debug, Default)]
pub struct KindCounters {
    pub requests: Tally,
    pub refused: Tally,
    pub errors: Tally,
    pub bytes: Tally,
}

impl QueueCounters {
    /// Counts a finished request. Only for the worker of the queue.
    pub fn count(&self, record: &Record) {
        let kind = record.kind();
        let Some(counters) = self.kinds.get(kind as usize) else { return };
        counters.requests.add(1);
        if record.status == Status::Ok {
            counters.bytes.add(record.bytes);
            match (kind, record.crypto) {
                (Kind::CryptoIn, Some(CryptoUse { units, .. })) => self.decrypted.add(units),
                (Kind::CryptoOut, Some(CryptoUse { units, .. })) => self.encrypted.add(units),
                (Kind::CryptoInExt, Some(used)) => self.count_extended(&self.decrypted, used),
                (Kind::CryptoOutExt, Some(used)) => self.count_extended(&self.encrypted, used),
                _ => {}
            }
            return;
        }
        counters.errors.add(1);
        match (record.refused, record.status) {
            (true, Status::Unsupp) => {
                counters.refused.add(1);
                self.unsupported.add(1);
            }
            (true, _) => counters.refused.add(1),
            (false, Status::NoKey) => self.nokey.add(1),
            (false, _) => {}
        }
    }

    fn count_extended(&self, crypted: &Tally, CryptoUse { units, digest, .. }: CryptoUse) {
        crypted.add(units);
        if let Some(digests) = digest.and_then(|algorithm| self.digests.get(algorithm as usize)) {
            digests.add(units);
        }
    }
}

/// Counters of one keyslot's commands.
#[derive(Debug, Default)]
pub struct SlotCounters {
    pub programs: Counter,
    pub evictions: Counter,
}

/// Counters of rare events of the whole device.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    pub program: Counter,
    pub replace: Counter,
    pub program_failed: Counter,
    pub evict: Counter,
    pub evict_empty: Counter,
    pub lost: Counter,
    pub equal_halves: Counter,
    pub reset: Counter,
    pub engine_reset: Counter,
    pub flush: Counter,
    pub broken_queue: Counter,
    pub fault: Counter,
}
