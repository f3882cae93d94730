// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A personality's file: the TOML, and what may be in it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Result, anyhow, bail, ensure};
use serde::Deserialize;

use super::{CRYPTO_MODE, KeyType, KeysOnReset, Personality, limits, microseconds, parse_data_unit_sizes};
use crate::protocol::ID_BYTES;

/// The fields that describe the engine: what `unknown`, `differs` and `[source]` may name.
pub(super) const FIELDS: [&str; 13] = [
    "keyslots",
    "key_types",
    "crypto_modes",
    "data_unit_sizes",
    "max_dun_bytes",
    "queues",
    "queue_depth",
    "program_latency_us",
    "evict_latency_us",
    "crypto_throughput_mb_per_s",
    "crypto_latency_us",
    "keys_on_reset",
    "serial",
];

/// The file, field by field. Numbers are wide enough that one out of range is refused with the range, not with a type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    summary: String,
    keyslots: Option<i64>,
    key_types: Option<Vec<KeyType>>,
    crypto_modes: Option<Vec<String>>,
    data_unit_sizes: Option<String>,
    max_dun_bytes: Option<i64>,
    queues: Option<i64>,
    queue_depth: Option<i64>,
    program_latency_us: Option<i64>,
    evict_latency_us: Option<i64>,
    crypto_throughput_mb_per_s: Option<i64>,
    crypto_latency_us: Option<i64>,
    keys_on_reset: Option<KeysOnReset>,
    serial: Option<String>,
    #[serde(default)]
    pub(super) unknown: Vec<String>,
    #[serde(default)]
    pub(super) differs: Vec<String>,
    #[serde(default)]
    pub(super) source: BTreeMap<String, String>,
}

/// Reads a file's text.
///
/// # Errors
/// What is wrong with which field, and what is allowed; the caller names the file.
pub(super) fn parse(name: &str, text: &str) -> Result<Personality> {
    description(text)?.personality(name)
}

pub(super) fn description(text: &str) -> Result<Description> {
    // The message shows the line, and ends with a line break.
    toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))
}

/// A number that was given, or the default.
fn number<T: TryFrom<i64>>(field: &str, given: Option<i64>, allowed: RangeInclusive<i64>, default: T) -> Result<T> {
    let Some(value) = given else { return Ok(default) };
    let converted = T::try_from(value).ok().filter(|_| allowed.contains(&value));
    converted.ok_or_else(|| anyhow!("{field} is {value}; allowed is {} to {}", allowed.start(), allowed.end()))
}

impl Description {
    /// Which fields of [`FIELDS`] have a value.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let given = [
            self.keyslots.is_some(),
            self.key_types.is_some(),
            self.crypto_modes.is_some(),
            self.data_unit_sizes.is_some(),
            self.max_dun_bytes.is_some(),
            self.queues.is_some(),
            self.queue_depth.is_some(),
            self.program_latency_us.is_some(),
            self.evict_latency_us.is_some(),
            self.crypto_throughput_mb_per_s.is_some(),
            self.crypto_latency_us.is_some(),
            self.keys_on_reset.is_some(),
            self.serial.is_some(),
        ];
        FIELDS.iter().zip(given).filter(|(_, given)| *given).map(|(field, _)| *field).collect()
    }

    fn personality(self, name: &str) -> Result<Personality> {
        self.check_marks()?;
        let default = Personality::default();
        let latency = |field, given| number(field, given, limits::LATENCY_US, 0).map(microseconds);

        if let Some(modes) = &self.crypto_modes {
            ensure!(!modes.is_empty(), "crypto_modes is empty; allowed is [\"{CRYPTO_MODE}\"]");
            if let Some(mode) = modes.iter().find(|mode| *mode != CRYPTO_MODE) {
                bail!("crypto_modes has {mode:?}, which cannot be emulated; the only mode is {CRYPTO_MODE:?}");
            }
        }
        let key_types = self.key_types.unwrap_or(default.key_types);
        ensure!(!key_types.is_empty(), "key_types is empty; allowed are \"raw\", \"wrapped\" or both");
        let data_unit_mask = match &self.data_unit_sizes {
            Some(text) => parse_data_unit_sizes(text).map_err(|error| {
                anyhow!("data_unit_sizes: {error}; allowed is a list (\"512,4096\") or a range (\"512-65536\")")
            })?,
            None => default.data_unit_mask,
        };
        let queue_depth: u16 = number("queue_depth", self.queue_depth, limits::QUEUE_DEPTH, default.queue_depth)?;
        ensure!(
            queue_depth.is_power_of_two(),
            "queue_depth is {queue_depth}; allowed is a power of two from {} to {}",
            limits::QUEUE_DEPTH.start(),
            limits::QUEUE_DEPTH.end()
        );
        let serial = self.serial.unwrap_or(default.serial);
        ensure!(serial.len() <= ID_BYTES, "serial has {} bytes; allowed are at most {ID_BYTES}", serial.len());

        Ok(Personality {
            name: name.to_owned(),
            summary: self.summary,
            keyslots: number("keyslots", self.keyslots, limits::KEYSLOTS, default.keyslots)?,
            key_types,
            data_unit_mask,
            max_dun_bytes: number("max_dun_bytes", self.max_dun_bytes, limits::DUN_BYTES, default.max_dun_bytes)?,
            queues: number("queues", self.queues, limits::QUEUES, default.queues)?,
            queue_depth,
            timing: crate::engine::Timing {
                program: latency("program_latency_us", self.program_latency_us)?,
                evict: latency("evict_latency_us", self.evict_latency_us)?,
                crypto_mb_per_s: number(
                    "crypto_throughput_mb_per_s",
                    self.crypto_throughput_mb_per_s,
                    limits::MB_PER_S,
                    0,
                )?,
                crypto_latency: latency("crypto_latency_us", self.crypto_latency_us)?,
            },
            keys_on_reset: self.keys_on_reset.unwrap_or(default.keys_on_reset),
            serial,
            unknown: self.unknown.into_iter().collect(),
            differs: self.differs.into_iter().collect(),
        })
    }

    /// What is said about fields is about fields that there are, and does not contradict itself.
    fn check_marks(&self) -> Result<()> {
        let marks = [("unknown", &self.unknown), ("differs", &self.differs)];
        let sources: Vec<_> = self.source.keys().cloned().collect();
        for (list, fields) in marks.into_iter().chain([("[source]", &sources)]) {
            if let Some(field) = fields.iter().find(|field| !FIELDS.contains(&field.as_str())) {
                bail!("{list} names {field:?}, which is no field of an engine; allowed are {}", FIELDS.join(", "));
            }
        }
        let given = self.given();
        if let Some(field) = self.unknown.iter().find(|field| given.contains(&field.as_str())) {
            bail!("{field} has a value and is in the list unknown; remove one of them");
        }
        Ok(())
    }
}
