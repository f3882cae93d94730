// SPDX-License-Identifier: Apache-2.0 OR MIT

//! All that was counted, at one moment. Every number is documented here, and `docs/statistics.md` is made from that.
//!
//! The counters only ever rise, until the process ends. They are read while the workers go on, so two of them may be a
//! few requests apart.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::counters::QueueCounters;
use super::histogram::Distribution;
use super::record::Kind;
use super::{Observer, running};

/// A documented number: its name in JSON and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Name in its group.
    pub name: &'static str,
    /// What it counts.
    pub doc: &'static str,
}

/// Without the mark of a name that would be a keyword.
const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

macro_rules! counters {
    ($(#[doc = $about:literal])* $group:ident { $($(#[doc = $doc:literal])* $name:ident,)* }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct $group { $($(#[doc = $doc])* pub $name: u64,)* }

        impl $group {
            /// What the group is.
            pub const ABOUT: &str = concat!($($about),*);
            /// Its numbers, in the order of [`Self::values`].
            pub const FIELDS: &[Field] = &[$(Field { name: plain(stringify!($name)), doc: concat!($($doc),*) },)*];

            /// The numbers, in the order of [`Self::FIELDS`].
            pub fn values(&self) -> impl Iterator<Item = (&'static Field, u64)> {
                Self::FIELDS.iter().zip([$(self.$name),*])
            }
        }
    };
}

counters! {
    /// Requests that passed all checks of their form, by type, whether they then succeeded or not; and those that failed.
    Requests {
        /// IN.
        r#in,
        /// OUT.
        out,
        /// FLUSH.
        flush,
        /// GET_ID.
        get_id,
        /// DISCARD.
        discard,
        /// WRITE_ZEROES.
        write_zeroes,
        /// SECURE_ERASE.
        secure_erase,
        /// CRYPTO_IN.
        crypto_in,
        /// CRYPTO_OUT.
        crypto_out,
        /// Commands on the control virtqueue.
        control,
        /// Requests refused for their form with IOERR: out of range, not aligned, too short.
        refused,
        /// Requests of a type that the device does not know or that was not negotiated: UNSUPP.
        unsupported,
        /// Requests that passed the checks and failed with IOERR or UNSUPP.
        failed,
    }
}
counters! {
    /// Bytes of successful requests.
    Bytes {
        /// IN.
        r#in,
        /// OUT.
        out,
        /// CRYPTO_IN.
        crypto_in,
        /// CRYPTO_OUT.
        crypto_out,
    }
}
counters! {
    /// Data units of successful requests.
    DataUnits {
        /// CRYPTO_OUT.
        encrypted,
        /// CRYPTO_IN.
        decrypted,
    }
}
counters! {
    /// Events of the keyslots.
    Keyslots {
        /// Successful KEYSLOT_PROGRAM commands.
        program,
        /// Those of `program` that took the place of another key. Linux reuses its least recently used slot like this,
        /// without an evict command.
        replace,
        /// KEYSLOT_PROGRAM commands that failed.
        program_failed,
        /// KEYSLOT_EVICT commands that emptied a slot.
        evict,
        /// KEYSLOT_EVICT commands for a slot that was empty.
        evict_empty,
        /// Keys lost in a reset, when all queues were stopped (a paused machine, too) or with the frontend.
        lost,
        /// Encrypted requests that found a key in their slot.
        hits,
        /// Encrypted requests whose slot was empty.
        nokey,
        /// Programmed AES-XTS keys with two equal halves.
        equal_halves,
    }
}
counters! {
    /// Commands for hardware-wrapped keys, whether they succeeded or not.
    WrappedKeys {
        /// GENERATE_KEY.
        generate,
        /// IMPORT_KEY.
        import,
        /// PREPARE_KEY.
        prepare,
        /// DERIVE_SW_SECRET.
        derive_sw_secret,
    }
}
counters! {
    /// Events of the device.
    Events {
        /// Resets, by whatever means, and sessions that ended.
        reset,
        /// Resets of the engine alone (`ctl reset-engine`): all keys lost, all else goes on.
        engine_reset,
        /// Times that everything written was made durable: FLUSH, writes in write-through mode, and at exit.
        flush,
        /// Queues stopped because the driver broke the rules of the ring.
        broken_queue,
    }
}
counters! {
    /// One type of request in one queue. Types that never came are left out.
    QueueType {
        /// Requests of the type, all of them.
        requests,
        /// Those that were refused for their form.
        refused,
        /// Those that ended with another status than OK, refused ones included.
        errors,
        /// Bytes of the successful ones: data, or the ranges of DISCARD, WRITE_ZEROES and SECURE_ERASE.
        bytes,
    }
}
counters! {
    /// One queue, all types together.
    QueueTotals {
        /// Requests of a type that the device does not know or that was not negotiated: UNSUPP.
        unsupported,
        /// Encrypted requests whose slot was empty.
        nokey,
        /// Data units of successful CRYPTO_OUT.
        encrypted,
        /// Data units of successful CRYPTO_IN.
        decrypted,
    }
}

/// One queue. Queues that neither run nor ever had a request are left out.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
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
    /// They are recorded now.
    pub on: bool,
    /// Expanding a key and putting it into a slot, with the wait for requests that use the old key.
    pub program: Distribution,
    /// Encrypting or decrypting, of encrypted requests.
    pub crypto: Distribution,
    /// Reading, writing, flushing or deallocating, with the wait for it.
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
                    "Expanding a key and putting it into a slot, with the wait for its old key's requests.",
                ),
                &self.program,
            ),
            (field("crypto", "Encrypting or decrypting, of encrypted requests."), &self.crypto),
            (field("disk", "Reading, writing, flushing or deallocating, with the wait for it."), &self.disk),
            (
                field(
                    "request",
                    "The whole request, from taking it from its queue to its status, with the emulated time of a slow engine.",
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
    /// Commands for hardware-wrapped keys.
    pub wrapped_keys: WrappedKeys,
    /// Events of the device.
    pub events: Events,
    /// By queue and type.
    pub queues: Vec<Queue>,
    /// Latencies.
    pub latency: Latency,
}

impl Observer {
    /// All numbers, now.
    pub fn stats(&self) -> Stats {
        let queues: Vec<Queue> = self.queues.iter().enumerate().map(|(number, queue)| read(number, queue)).collect();
        let of = |kind: Kind| queues.iter().filter_map(move |queue| queue.types.get(kind.name()));
        // Requests are counted before what became of them, and read without a lock: never below 0.
        let passed = |kind| of(kind).map(|it| it.requests.saturating_sub(it.refused)).sum();
        let bytes = |kind| of(kind).map(|it| it.bytes).sum();
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
                crypto_in: passed(Kind::CryptoIn),
                crypto_out: passed(Kind::CryptoOut),
                control: Kind::ALL.iter().filter(|kind| kind.is_control()).map(|&kind| passed(kind)).sum(),
                refused: refused.saturating_sub(unsupported),
                unsupported,
                failed: all(|it| it.errors).saturating_sub(refused).saturating_sub(nokey),
            },
            bytes: Bytes {
                r#in: bytes(Kind::In),
                out: bytes(Kind::Out),
                crypto_in: bytes(Kind::CryptoIn),
                crypto_out: bytes(Kind::CryptoOut),
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
            },
            latency: self.read_latency(),
            queues: queues.into_iter().filter(|queue| queue.running || !queue.types.is_empty()).collect(),
        }
    }

    fn read_latency(&self) -> Latency {
        let mut sum = Latency { on: self.latency(), ..Latency::default() };
        for lane in self.lock_lanes().iter().filter_map(|lane| lane.latency.get()) {
            sum.program.add(&lane.program);
            sum.crypto.add(&lane.crypto);
            sum.disk.add(&lane.disk);
            sum.request.add(&lane.request);
        }
        sum
    }
}

fn read(number: usize, queue: &QueueCounters) -> Queue {
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
    Queue { queue: number, running: running(queue), totals, types }
}
