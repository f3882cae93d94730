// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options that choose the engine and override its values.

use anyhow::Result;
use clap::Args;

use vhost_user_blk_crypto::personality::{self, DEFAULT, Description, Personality};

/// The engine: a personality and overrides. An option overrides the personality, which overrides the default
/// personality.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the engine (defaults: the personality's)")]
pub struct PersonalityArgs {
    /// Emulate this engine: a built-in personality, or a file that describes one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = DEFAULT)]
    pub personality: String,

    /// Print the built-in personalities and exit
    #[arg(long)]
    pub list_personalities: bool,

    #[command(flatten)]
    pub options: Description,
}

/// What `--list-personalities` prints.
pub fn list() -> Result<String> {
    personality::table()
}

impl PersonalityArgs {
    /// The personality, with the options in place of its values.
    ///
    /// # Errors
    /// When there is no such personality, its file has errors, or an option's value is invalid.
    pub fn resolve(&self) -> Result<Personality> {
        Personality::load(&self.personality)?.with_options(&self.options)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use vhost_user_blk_crypto::digest::DigestAlgorithm;
    use vhost_user_blk_crypto::personality::{KeyType, KeysOnReset};

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
        assert_eq!(emmc.data_unit_sizes, ideal.data_unit_sizes);
        let other = resolve("--personality emmc-cqhci --max-dun-bytes 8 --num-queues 2").expect("eMMC");
        assert_eq!((other.max_dun_bytes, other.queues, other.queue_depth), (8, 2, 32));
        assert_eq!(Personality { max_dun_bytes: 4, queues: 1, ..other }, emmc);
    }

    #[test]
    fn every_value_can_be_changed() {
        let line = "--personality qcom-ice --keyslots 3 --key-types raw,wrapped --data-unit-sizes 512 --max-dun-bytes 5 --digests sha256,crc32c \
            --num-queues 6 --queue-size 8 --serial S --program-latency-us 10 --evict-latency-us 20 \
            --crypto-throughput-mb-per-s 30 --crypto-latency-us 40 --keys-on-reset kept";
        let engine = resolve(line).expect("all options");
        let expected = Personality {
            keyslots: 3,
            key_types: vec![KeyType::Raw, KeyType::Wrapped],
            data_unit_sizes: 512,
            max_dun_bytes: 5,
            digests: vec![DigestAlgorithm::Sha256, DigestAlgorithm::Crc32c],
            queues: 6,
            queue_depth: 8,
            serial: "S".into(),
            program_latency_us: 10,
            evict_latency_us: 20,
            crypto_throughput_mb_per_s: 30,
            crypto_latency_us: 40,
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
        assert!(error("--keyslots 4097").contains("0..=4096"));
        assert!(error("--max-dun-bytes 33").contains("1..=32"));
        assert!(error("--digests md5").contains("blake2b-256"));
        assert!(error("--key-types x").contains("wrapped"));
        assert!(error("--keys-on-reset x").contains("kept"));
        assert!(error("--program-latency-us 10000001").contains("0..=10000000"));
        assert!(error("--crypto-throughput-mb-per-s -1").contains("-1"));
        assert!(error("--personality x").contains("ufs-3.1"));
    }
}
