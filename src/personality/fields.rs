// SPDX-License-Identifier: Apache-2.0 OR MIT

//! All fields that describe an engine. A new field is one entry here, from which the file format, the option, the check
//! and the table are made.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use clap::{Args, value_parser};
use serde::Deserialize;

use super::check::{self, number};
use super::{CRYPTO_MODE, DEFAULT, KeyType, KeysOnReset, format_data_unit_sizes, limits};
use crate::digest::DigestAlgorithm;

/// An entry: `/// help` `name: type in the file => type in use = default, [clap's attributes], option, check, column, cell`.
/// Fields of one column share it; one without a column has an empty name there.
macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $field:ident: $given:ty => $type:ty = $default:expr,
        [$($arg:tt)+], $option:literal, $check:expr, $column:literal, $cell:expr;)+) => {
        /// The fields that describe the engine: what `unknown`, `differs` and `[source]` may name.
        pub(super) const FIELDS: &[&str] = &[$(stringify!($field)),+];

        /// What a file or the command line says about an engine. Numbers are wide, so that the error for one out of
        /// range names the range, not a type.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Args)]
        #[cfg_attr(test, derive(serde::Serialize))]
        #[serde(deny_unknown_fields)]
        pub struct Description {
            #[arg(skip)]
            pub(super) summary: String,
            $($(#[doc = $doc])+ #[arg($($arg)+)] pub $field: Option<$given>,)+
            #[arg(skip)]
            #[serde(default)]
            pub(super) unknown: BTreeSet<String>,
            #[arg(skip)]
            #[serde(default)]
            pub(super) differs: BTreeSet<String>,
            #[arg(skip)]
            #[serde(default)]
            pub(super) source: BTreeMap<String, String>,
        }

        impl Description {
            /// Which of [`FIELDS`] have a value.
            pub(super) fn given(&self) -> Vec<&'static str> {
                let given = [$((stringify!($field), self.$field.is_some())),+];
                given.into_iter().filter_map(|(field, given)| given.then_some(field)).collect()
            }

            /// Replaces the values that are given.
            pub(super) fn apply(&self, engine: &mut Personality, by_option: bool) -> Result<()> {
                $(if let Some(given) = &self.$field {
                    let name = if by_option { $option } else { stringify!($field) };
                    engine.$field = $check(given).map_err(|error: String| anyhow!("{name}{error}"))?;
                })+
                Ok(())
            }
        }

        /// An inline-encryption engine and the host controller around it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Personality {
            /// Its name: that of the file, without `.toml`.
            pub name: String,
            /// One line about it.
            pub summary: String,
            $($(#[doc = $doc])+ pub $field: $type,)+
            /// Fields whose value no public source states: they have the default's.
            pub unknown: BTreeSet<String>,
            /// Fields in which the real engine differs from this emulation.
            pub differs: BTreeSet<String>,
        }

        impl Default for Personality {
            fn default() -> Self {
                let (name, summary) = (DEFAULT.into(), String::new());
                Self { name, summary, $($field: $default,)+ unknown: BTreeSet::new(), differs: BTreeSet::new() }
            }
        }

        impl Personality {
            /// Each field with its column of the table, and its value as text.
            pub(super) fn cells(&self) -> Vec<(&'static str, &'static str, String)> {
                vec![$((stringify!($field), $column, { let cell: fn(&$type) -> String = $cell; cell(&self.$field) })),+]
            }
        }
    };
}

fields! {
    /// Number of keyslots [ideal: 32]
    keyslots: i64 => u16 = 32,
        [long, value_name = "N", value_parser = value_parser!(i64).range(limits::KEYSLOTS)],
        "--keyslots", number(limits::KEYSLOTS), "KEYSLOTS", u16::to_string;

    /// Key types on offer: raw, wrapped (hardware-wrapped keys) or both [ideal: raw]
    key_types: Vec<KeyType> => Vec<KeyType> = vec![KeyType::Raw],
        [long, value_enum, value_name = "TYPES", value_delimiter = ','],
        "--key-types", check::key_types, "KEYS", |types| types.iter().map(check::name).collect::<Vec<_>>().join(",");

    /// Crypto modes, as the kernel names them in lower case
    crypto_modes: Vec<String> => Vec<String> = vec![CRYPTO_MODE.into()],
        [skip], "", check::crypto_modes, "", |_| String::new();

    /// Data unit sizes on offer: a list (512,4096) or a range (512-65536) of powers of two [ideal: 512-65536]
    data_unit_sizes: String => u32 = 0x1fe00,
        [long, value_name = "BYTES", value_parser = check::data_unit_sizes_text],
        "--data-unit-sizes", check::data_unit_sizes, "DATA UNITS", |mask| format_data_unit_sizes(*mask);

    /// Maximum bytes of a data unit number; AES-XTS uses 16 [ideal: 16]
    max_dun_bytes: i64 => u8 = 16,
        [long, value_name = "N", value_parser = value_parser!(i64).range(limits::DUN_BYTES)],
        "--max-dun-bytes", number(limits::DUN_BYTES), "DUN BITS", |bytes| (u16::from(*bytes) * 8).to_string();

    /// Digests of the ciphertext that requests may ask for: a list of crc32c, xxhash64, sha256 and blake2b-256, or none
    /// [ideal: all]
    digests: String => Vec<DigestAlgorithm> = DigestAlgorithm::ALL.to_vec(),
        [long, value_name = "LIST|none", value_parser = check::digests_text],
        "--digests", |text: &String| check::digests(text), "DIGESTS", |digests| check::format_digests(digests);

    /// Number of request queues; one control virtqueue comes after them [ideal: 64]
    queues: i64 => u16 = 64,
        [long = "num-queues", value_name = "N", value_parser = value_parser!(i64).range(limits::QUEUES)],
        "--num-queues", number(limits::QUEUES), "QUEUES", u16::to_string;

    /// Maximum size of a queue, a power of two. If given, the guest's requests may be as long as such a queue, so the
    /// frontend must use this size (QEMU: vq_size= or queue-size=). Without it, requests fit in queues of 128, and
    /// queues of up to 1024 are served [ideal: 256]
    queue_depth: i64 => u16 = 256,
        [long = "queue-size", value_name = "N", value_parser = value_parser!(i64).range(limits::QUEUE_DEPTH)],
        "--queue-size", check::queue_depth, "DEPTH", u16::to_string;

    /// Serial number that the guest reads, at most 20 characters [ideal: vhost-blk-crypto]
    serial: String => String = "vhost-blk-crypto".into(),
        [long, value_name = "TEXT"], "--serial", check::serial, "", |_| String::new();

    /// What happens to the keys in a reset of the device; a disconnect of the frontend always clears them [ideal: lost]
    keys_on_reset: KeysOnReset => KeysOnReset = KeysOnReset::Lost,
        [long, value_enum, value_name = "WHAT"],
        "--keys-on-reset", |given: &KeysOnReset| Ok(*given), "ON RESET", |what| format!("keys {}", check::name(what));

    /// Microseconds to program a key into a slot [ideal: 0]
    program_latency_us: i64 => u32 = 0,
        [long, value_name = "US", value_parser = value_parser!(i64).range(limits::LATENCY_US)],
        "--program-latency-us", number(limits::LATENCY_US), "SLOWED DOWN", |us| check::unless_zero(*us, "program ", " us");

    /// Microseconds to evict a key [ideal: 0]
    evict_latency_us: i64 => u32 = 0,
        [long, value_name = "US", value_parser = value_parser!(i64).range(limits::LATENCY_US)],
        "--evict-latency-us", number(limits::LATENCY_US), "SLOWED DOWN", |us| check::unless_zero(*us, "evict ", " us");

    /// Throughput of the engine in MB/s (10^6 bytes per second), all queues together; 0: the host's [ideal: 0]
    crypto_throughput_mb_per_s: i64 => u32 = 0,
        [long, value_name = "MB/S", value_parser = value_parser!(i64).range(limits::MB_PER_S)],
        "--crypto-throughput-mb-per-s", number(limits::MB_PER_S), "SLOWED DOWN", |rate| check::unless_zero(*rate, "", " MB/s");

    /// Microseconds that the engine adds to an encrypted request [ideal: 0]
    crypto_latency_us: i64 => u32 = 0,
        [long, value_name = "US", value_parser = value_parser!(i64).range(limits::LATENCY_US)],
        "--crypto-latency-us", number(limits::LATENCY_US), "SLOWED DOWN", |us| check::unless_zero(*us, "request ", " us");
}
