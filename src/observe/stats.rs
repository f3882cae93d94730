// SPDX-License-Identifier: Apache-2.0 OR MIT

//! All statistics at one moment.
//!
//! Counters only rise until the process ends. The workers continue while they are read, so two of them may be a few
//! requests apart.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::counters::QueueCounters;
pub use super::groups::{
    Bytes, DataUnits, Events, Field, Keyslots, QueueTotals, QueueType, RequestKeys, Requests, WrappedKeys,
};
use super::histogram::Distribution;
use super::record::Kind;
use super::{Observer, running};

/// One queue. Queues that neither run nor ever had a request are not listed.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStats {
    /// Its number.
    pub queue: usize,
    /// It is started and enabled now.
    pub running: bool,
    /// All types together.
    #[serde(flatten)]
    pub totals: QueueTotals,
    /// By type.
    pub types: BTreeMap<&'static str, QueueType>,
}

/// Times of requests, while they were recorded.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    /// Times are recorded now.
    pub on: bool,
    /// Expanding a key and putting it into a slot, including the wait for requests that use the old key.
    pub program: Distribution,
    /// Encrypting or decrypting, for encrypted requests.
    pub crypto: Distribution,
    /// Reading, writing, flushing or deallocating, including the wait for it.
    pub disk: Distribution,
    /// From taking a request from its queue to its status.
    pub request: Distribution,
}

impl Latency {
    /// The stages, their names and what they are.
    pub fn stages(&self) -> [(Field, &Distribution); 4] {
        let field = |name, doc| Field { name, doc };
        [
            (
                field(
                    "program",
                    "Expanding a key and putting it into a slot, including the wait for requests that use the old key.",
                ),
                &self.program,
            ),
            (field("crypto", "Encrypting or decrypting, for encrypted requests."), &self.crypto),
            (field("disk", "Reading, writing, flushing or deallocating, including the wait for it."), &self.disk),
            (
                field(
                    "request",
                    "The whole request, from taking it from its queue to its status, including the emulated time of a slow engine.",
                ),
                &self.request,
            ),
        ]
    }
}

/// A distribution's numbers in JSON, nanoseconds.
pub const QUANTILES: &[(&str, u64)] = &[("p50_ns", 500), ("p90_ns", 900), ("p99_ns", 990), ("p999_ns", 999)];

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let count = self.count();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("count", &count)?;
        map.serialize_entry("mean_ns", &self.sum().checked_div(count).unwrap_or(0))?;
        for (name, per_mille) in QUANTILES {
            map.serialize_entry(name, &self.quantile(*per_mille))?;
        }
        map.serialize_entry("max_ns", &self.max())?;
        map.end()
    }
}

/// All numbers of a device.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// The name of the crypto engine.
    pub engine: &'static str,
    /// Requests by type, all queues.
    pub requests: Requests,
    /// Bytes, all queues.
    pub bytes: Bytes,
    /// Data units, all queues.
    pub data_units: DataUnits,
    /// Events of the keyslots.
    pub keyslots: Keyslots,
    /// Keys that came with requests.
    pub request_keys: RequestKeys,
    /// Commands for hardware-wrapped keys.
    pub wrapped_keys: WrappedKeys,
    /// Events of the device.
    pub events: Events,
    /// By queue and type.
    pub queues: Vec<QueueStats>,
    /// Latencies.
    pub latency: Latency,
}

impl Observer {
    /// All numbers, now.
    pub fn stats(&self) -> Stats {
        let queues: Vec<QueueStats> =
            self.queues.iter().enumerate().map(|(number, queue)| read(number, queue)).collect();
        let of = |kind: Kind| queues.iter().filter_map(move |queue| queue.types.get(kind.name()));
        // The two counts are read without a lock, so the difference must not go below 0.
        let passed = |kind| of(kind).map(|it| it.requests.saturating_sub(it.refused)).sum::<u64>();
        let bytes = |kind| of(kind).map(|it| it.bytes).sum::<u64>();
        let total = |number: fn(&QueueTotals) -> u64| queues.iter().map(|queue| number(&queue.totals)).sum::<u64>();
        let all = |number: fn(&QueueType) -> u64| queues.iter().flat_map(|q| q.types.values()).map(number).sum::<u64>();
        let (unsupported, nokey, refused) = (total(|it| it.unsupported), total(|it| it.nokey), all(|it| it.refused));
        let device = &self.device;
        Stats {
            engine: self.engine,
            requests: Requests {
                r#in: passed(Kind::In),
                out: passed(Kind::Out),
                flush: passed(Kind::Flush),
                get_id: passed(Kind::GetId),
                discard: passed(Kind::Discard),
                write_zeroes: passed(Kind::WriteZeroes),
                secure_erase: passed(Kind::SecureErase),
                crypto_in: passed(Kind::CryptoIn) + passed(Kind::CryptoInExt),
                crypto_out: passed(Kind::CryptoOut) + passed(Kind::CryptoOutExt),
                control: Kind::ALL.iter().filter(|kind| kind.is_control()).map(|&kind| passed(kind)).sum(),
                refused: refused.saturating_sub(unsupported),
                unsupported,
                failed: all(|it| it.errors).saturating_sub(refused).saturating_sub(nokey),
            },
            bytes: Bytes {
                r#in: bytes(Kind::In),
                out: bytes(Kind::Out),
                crypto_in: bytes(Kind::CryptoIn) + bytes(Kind::CryptoInExt),
                crypto_out: bytes(Kind::CryptoOut) + bytes(Kind::CryptoOutExt),
            },
            data_units: DataUnits { encrypted: total(|it| it.encrypted), decrypted: total(|it| it.decrypted) },
            keyslots: Keyslots {
                program: device.program.get(),
                replace: device.replace.get(),
                program_failed: device.program_failed.get(),
                evict: device.evict.get(),
                evict_empty: device.evict_empty.get(),
                lost: device.lost.get(),
                hits: self.slots().iter().map(|slot| slot.hits).sum(),
                nokey,
                equal_halves: device.equal_halves.get(),
            },
            request_keys: self.read_request_keys(),
            wrapped_keys: WrappedKeys {
                generate: passed(Kind::GenerateKey),
                import: passed(Kind::ImportKey),
                prepare: passed(Kind::PrepareKey),
                derive_sw_secret: passed(Kind::DeriveSwSecret),
            },
            events: Events {
                reset: device.reset.get(),
                engine_reset: device.engine_reset.get(),
                flush: device.flush.get(),
                broken_queue: device.broken_queue.get(),
                fault: device.fault.get(),
            },
            latency: self.read_latency(),
            queues: queues.into_iter().filter(|queue| queue.running || !queue.types.is_empty()).collect(),
        }
    }

    fn read_request_keys(&self) -> RequestKeys {
        let mut sum = RequestKeys::default();
        for worker in self.lock_workers().iter() {
            let keys = &worker.request_keys;
            sum.requests += keys.requests.get();
            sum.expanded += keys.expanded.get();
            sum.unwrapped += keys.unwrapped.get();
            sum.cached += keys.cached.get();
        }
        sum
    }

    fn read_latency(&self) -> Latency {
        let mut sum = Latency { on: self.latency(), ..Latency::default() };
        for worker in self.lock_workers().iter().filter_map(|worker| worker.latency.get()) {
            sum.program.add(&worker.program);
            sum.crypto.add(&worker.crypto);
            sum.disk.add(&worker.disk);
            sum.request.add(&worker.request);
        }
        sum
    }
}

fn read(number: usize, queue: &QueueCounters) -> QueueStats {
    let mut types = BTreeMap::new();
    for (kind, counters) in Kind::ALL.iter().zip(&queue.kinds) {
        let requests = counters.requests.get();
        if requests > 0 {
            let (refused, errors) = (counters.refused.get(), counters.errors.get());
            types.insert(kind.name(), QueueType { requests, refused, errors, bytes: counters.bytes.get() });
        }
    }
    let totals = QueueTotals {
        unsupported: queue.unsupported.get(),
        nokey: queue.nokey.get(),
        encrypted: queue.encrypted.get(),
        decrypted: queue.decrypted.get(),
    };
    QueueStats { queue: number, running: running(queue), totals, types }
}
