// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Personalities: descriptions of inline-encryption engines that the device emulates.
//!
//! A personality is a TOML file ([`Personality::load`]); some are built in. Every value in a built-in one has a source.
//! Values that no public source states are those of the default, `ideal`, and are marked as unknown.

#![forbid(unsafe_code)]

mod check;
mod fields;
mod file;
mod sizes;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::engine::Timing;

pub use crate::request::KeyType;
pub use fields::{Description, Personality};
pub use sizes::{format_data_unit_sizes, parse_data_unit_sizes};
pub use table::table;

/// The allowed values. Both ends are included.
pub mod limits {
    use std::ops::RangeInclusive;

    use crate::protocol;

    /// Number of keyslots.
    pub const KEYSLOTS: RangeInclusive<i64> = 0..=4096;
    /// Bytes of a data unit number.
    pub const DUN_BYTES: RangeInclusive<i64> = 1..=protocol::MAX_DUN_BYTES as i64;
    /// Request queues.
    pub const QUEUES: RangeInclusive<i64> = 1..=255;
    /// The maximum size of a queue, also in QEMU.
    pub const LARGEST_QUEUE: u16 = 1024;
    /// Descriptors of a queue, a power of two.
    pub const QUEUE_DEPTH: RangeInclusive<i64> = 4..=LARGEST_QUEUE as i64;
    /// Latencies in microseconds: at most 10 s.
    pub const LATENCY_US: RangeInclusive<i64> = 0..=10_000_000;
    /// Throughput in MB/s; 0: only the host's limit.
    pub const MB_PER_S: RangeInclusive<i64> = 0..=1_000_000;
}

/// The only crypto mode that can be emulated, as the kernel's `queue/crypto/modes` and fscrypt name it, in lower case.
pub const CRYPTO_MODE: &str = "aes-256-xts";

/// The default personality.
pub const DEFAULT: &str = "ideal";

/// Built-in personalities: name and file.
const BUILT_IN: [(&str, &str); 7] = [
    (DEFAULT, include_str!("ideal.toml")),
    ("ufs-3.1", include_str!("ufs-3.1.toml")),
    ("qcom-ice", include_str!("qcom-ice.toml")),
    ("exynos-fmp", include_str!("exynos-fmp.toml")),
    ("emmc-cqhci", include_str!("emmc-cqhci.toml")),
    ("one-slot", include_str!("one-slot.toml")),
    ("wide", include_str!("wide.toml")),
];

/// What happens to the keys when the guest's driver resets the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeysOnReset {
    /// All keyslots are empty afterwards
    Lost,
    /// Keys stay until the frontend disconnects
    Kept,
}

impl Personality {
    /// A built-in personality by its name, or one from a file: a path with a `/` in it or with the ending `.toml`.
    ///
    /// # Errors
    /// When there is none of that name, or the file cannot be read or has errors.
    pub fn load(name: &str) -> Result<Self> {
        if name.contains('/') || name.ends_with(".toml") {
            let path = Path::new(name);
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the personality {name}"))?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            return file::parse(&stem, &text).with_context(|| name.to_owned());
        }
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((name, text)) => file::parse(name, text).with_context(|| (*name).to_owned()),
            None => {
                let names = BUILT_IN.map(|(name, _)| name).join(", ");
                bail!("there is no personality {name:?}; built in are {names}; a file's name ends in .toml")
            }
        }
    }

    /// All built-in personalities.
    ///
    /// # Errors
    /// None, as the tests show.
    pub fn built_in() -> Result<Vec<Self>> {
        BUILT_IN.iter().map(|(name, text)| file::parse(name, text).with_context(|| (*name).to_owned())).collect()
    }

    /// This engine, with the options in place of its own values.
    ///
    /// # Errors
    /// When a value is not allowed.
    pub fn with_options(mut self, options: &Description) -> Result<Self> {
        options.apply(&mut self, true)?;
        Ok(self)
    }

    /// Its emulated times.
    pub fn timing(&self) -> Timing {
        let time = |us: u32| Duration::from_micros(us.into());
        Timing {
            program: time(self.program_latency_us),
            evict: time(self.evict_latency_us),
            crypto_mb_per_s: self.crypto_throughput_mb_per_s,
            crypto_latency: time(self.crypto_latency_us),
        }
    }

    /// Whether keys of this type can be programmed.
    pub fn takes(&self, key_type: KeyType) -> bool {
        self.key_types.contains(&key_type)
    }
}

#[cfg(test)]
mod tests;
