// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options that choose the engine and change single values of it.

use anyhow::{Result, ensure};
use clap::{Args, value_parser};

use vhost_user_blk_crypto::personality::{
    self, DEFAULT, KeyType, KeysOnReset, Personality, limits, microseconds, parse_data_unit_sizes,
};
use vhost_user_blk_crypto::protocol::ID_BYTES;

/// The engine: a personality, and what is to be different from it. An option wins over the personality, and that over
/// the default personality.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the engine (defaults: the personality's)")]
pub struct PersonalityArgs {
    /// Be this engine: a built-in personality, or a file that describes one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = DEFAULT)]
    pub personality: String,

    /// Print the built-in personalities and exit
    #[arg(long)]
    pub list_personalities: bool,

    /// Number of keyslots [ideal: 32]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(limits::KEYSLOTS))]
    pub keyslots: Option<u16>,

    /// Key types on offer: raw, wrapped (hardware-wrapped keys) or both [ideal: raw]
    #[arg(long, value_enum, value_name = "TYPES", value_delimiter = ',')]
    pub key_types: Option<Vec<KeyType>>,

    /// Data unit sizes on offer: a list (512,4096) or a range (512-65536) of powers of two [ideal: 512-65536]
    #[arg(long, value_name = "BYTES", value_parser = parse_data_unit_sizes)]
    pub data_unit_sizes: Option<u32>,

    /// The most bytes a data unit number may have; AES-XTS uses 16 [ideal: 16]
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(limits::DUN_BYTES))]
    pub max_dun_bytes: Option<u8>,

    /// Number of request queues; one control virtqueue comes after them [ideal: 64]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(limits::QUEUES))]
    pub num_queues: Option<u16>,

    /// The most descriptors of a queue, a power of two. When it is given, the guest is told that its requests may be as long
    /// as such a queue, so the frontend must use this size (QEMU: vq_size= or queue-size=); without it, requests fit in
    /// queues of 128, and queues of up to 1024 are served [ideal: 256]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(limits::QUEUE_DEPTH))]
    pub queue_size: Option<u16>,

    /// Serial number that the guest reads, at most 20 characters [ideal: vhost-blk-crypto]
    #[arg(long, value_name = "TEXT")]
    pub serial: Option<String>,

    /// Microseconds that it takes to program a key into a slot [ideal: 0]
    #[arg(long, value_name = "US", value_parser = value_parser!(u32).range(limits::LATENCY_US))]
    pub program_latency_us: Option<u32>,

    /// Microseconds that it takes to evict a key [ideal: 0]
    #[arg(long, value_name = "US", value_parser = value_parser!(u32).range(limits::LATENCY_US))]
    pub evict_latency_us: Option<u32>,

    /// Throughput of the engine in MB/s (10^6 bytes per second), all queues together; 0: the host's [ideal: 0]
    #[arg(long, value_name = "MB/S", value_parser = value_parser!(u32).range(limits::MB_PER_S))]
    pub crypto_throughput_mb_per_s: Option<u32>,

    /// Microseconds that the engine adds to an encrypted request [ideal: 0]
    #[arg(long, value_name = "US", value_parser = value_parser!(u32).range(limits::LATENCY_US))]
    pub crypto_latency_us: Option<u32>,

    /// What becomes of the keys in a reset of the device; a frontend that disconnects loses them always [ideal: lost]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub keys_on_reset: Option<KeysOnReset>,
}

/// What `--list-personalities` prints.
pub fn list() -> Result<String> {
    personality::table()
}

fn set<T: Clone>(value: &mut T, option: &Option<T>) {
    if let Some(option) = option {
        value.clone_from(option);
    }
}

impl PersonalityArgs {
    /// The engine: the personality, with the options in place of its values.
    ///
    /// # Errors
    /// When there is no such personality, its file has mistakes, or an option has a value that cannot be.
    pub fn resolve(&self) -> Result<Personality> {
        let mut engine = Personality::load(&self.personality)?;
        set(&mut engine.keyslots, &self.keyslots);
        set(&mut engine.key_types, &self.key_types);
        set(&mut engine.data_unit_mask, &self.data_unit_sizes);
        set(&mut engine.max_dun_bytes, &self.max_dun_bytes);
        set(&mut engine.queues, &self.num_queues);
        set(&mut engine.queue_depth, &self.queue_size);
        set(&mut engine.serial, &self.serial);
        set(&mut engine.timing.program, &self.program_latency_us.map(microseconds));
        set(&mut engine.timing.evict, &self.evict_latency_us.map(microseconds));
        set(&mut engine.timing.crypto_mb_per_s, &self.crypto_throughput_mb_per_s);
        set(&mut engine.timing.crypto_latency, &self.crypto_latency_us.map(microseconds));
        set(&mut engine.keys_on_reset, &self.keys_on_reset);
        ensure!(
            engine.queue_depth.is_power_of_two(),
            "--queue-size {} is not a power of two; take {}",
            engine.queue_depth,
            engine.queue_depth.next_power_of_two()
        );
        ensure!(
            engine.serial.len() <= ID_BYTES,
            "--serial has {} bytes; the most that a guest can read is {ID_BYTES}",
            engine.serial.len()
        );
        Ok(engine)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        engine: PersonalityArgs,
    }

    fn resolve(line: &str) -> Result<Personality> {
        Line::try_parse_from(["device"].into_iter().chain(line.split_whitespace()))?.engine.resolve()
    }

    #[test]
    fn options_win_over_the_personality_and_that_over_ideal() {
        let ideal = resolve("").expect("ideal");
        assert_eq!(ideal, Personality::load(DEFAULT).expect("ideal"));
        let emmc = resolve("--personality emmc-cqhci").expect("eMMC");
        assert_eq!((emmc.max_dun_bytes, emmc.queues, emmc.queue_depth), (4, 1, 32));
        assert_eq!(emmc.data_unit_mask, ideal.data_unit_mask);
        let other = resolve("--personality emmc-cqhci --max-dun-bytes 8 --num-queues 2").expect("eMMC");
        assert_eq!((other.max_dun_bytes, other.queues, other.queue_depth), (8, 2, 32));
        assert_eq!(Personality { max_dun_bytes: 4, queues: 1, ..other }, emmc);
    }

    #[test]
    fn every_value_can_be_changed() {
        let line = "--personality qcom-ice --keyslots 3 --key-types raw,wrapped --data-unit-sizes 512 --max-dun-bytes 5 \
            --num-queues 6 --queue-size 8 --serial S --program-latency-us 10 --evict-latency-us 20 \
            --crypto-throughput-mb-per-s 30 --crypto-latency-us 40 --keys-on-reset kept";
        let engine = resolve(line).expect("all options");
        let us = Duration::from_micros;
        let expected = Personality {
            keyslots: 3,
            key_types: vec![KeyType::Raw, KeyType::Wrapped],
            data_unit_mask: 512,
            max_dun_bytes: 5,
            queues: 6,
            queue_depth: 8,
            serial: "S".into(),
            timing: vhost_user_blk_crypto::engine::Timing {
                program: us(10),
                evict: us(20),
                crypto_mb_per_s: 30,
                crypto_latency: us(40),
            },
            keys_on_reset: KeysOnReset::Kept,
            ..Personality::load("qcom-ice").expect("built in")
        };
        assert_eq!(engine, expected);
    }

    #[test]
    fn bad_values_say_what_is_allowed() {
        let error = |line: &str| resolve(line).expect_err("must be refused").to_string();
        assert!(error("--queue-size 100").contains("take 128"));
        assert!(error("--serial 123456789012345678901").contains("20"));
        assert!(error("--keyslots 0").contains("1..=4096"));
        assert!(error("--max-dun-bytes 33").contains("1..=32"));
        assert!(error("--key-types x").contains("wrapped"));
        assert!(error("--keys-on-reset x").contains("kept"));
        assert!(error("--program-latency-us 10000001").contains("0..=10000000"));
        assert!(error("--crypto-throughput-mb-per-s -1").contains("-1"));
        assert!(error("--personality x").contains("ufs-3.1"));
    }
}
