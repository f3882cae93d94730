// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of an engine's fields. An error text follows the field's name.

use std::ops::RangeInclusive;

use clap::ValueEnum;

use super::{CRYPTO_MODE, KeyType, limits, parse_data_unit_sizes};
use crate::digest::DigestAlgorithm;
use crate::protocol::ID_BYTES;

/// Accepts a number in this range.
pub fn number<T: TryFrom<i64>>(allowed: RangeInclusive<i64>) -> impl Fn(&i64) -> Result<T, String> {
    move |value| {
        let converted = T::try_from(*value).ok().filter(|_| allowed.contains(value));
        converted.ok_or_else(|| format!(" is {value}; allowed is {} to {}", allowed.start(), allowed.end()))
    }
}

pub fn queue_depth(value: &i64) -> Result<u16, String> {
    let depth: u16 = number(limits::QUEUE_DEPTH)(value)?;
    if depth.is_power_of_two() {
        return Ok(depth);
    }
    let (low, high) = limits::QUEUE_DEPTH.into_inner();
    Err(format!(" is {depth}; allowed is a power of two from {low} to {high}: take {}", depth.next_power_of_two()))
}

pub fn key_types(types: &[KeyType]) -> Result<Vec<KeyType>, String> {
    let error = || " is empty; allowed are \"raw\", \"wrapped\" or both".to_owned();
    Some(types.to_owned()).filter(|types| !types.is_empty()).ok_or_else(error)
}

pub fn crypto_modes(modes: &[String]) -> Result<Vec<String>, String> {
    match modes.iter().find(|mode| *mode != CRYPTO_MODE) {
        Some(mode) => Err(format!(" has {mode:?}, which cannot be emulated; the only mode is {CRYPTO_MODE:?}")),
        None if modes.is_empty() => Err(format!(" is empty; allowed is [\"{CRYPTO_MODE}\"]")),
        None => Ok(modes.to_owned()),
    }
}

pub fn data_unit_sizes(text: &str) -> Result<u32, String> {
    parse_data_unit_sizes(text)
        .map_err(|error| format!(": {error}; allowed is a list (\"512,4096\") or a range (\"512-65536\")"))
}

/// A list of algorithms, or `none`.
pub fn digests(text: &str) -> Result<Vec<DigestAlgorithm>, String> {
    let known = || DigestAlgorithm::ALL.map(DigestAlgorithm::name).join(", ");
    let parse = |word: &str| {
        word.trim().parse().map_err(|_| format!(" has {word:?}; allowed is \"none\" or a list of {}", known()))
    };
    if text.trim() == "none" { Ok(Vec::new()) } else { text.split(',').map(parse).collect() }
}

/// The text of an option, if it is one.
pub fn digests_text(text: &str) -> Result<String, String> {
    digests(text).map(|_| text.to_owned())
}

/// As the table shows them.
pub fn format_digests(digests: &[DigestAlgorithm]) -> String {
    match digests {
        [] => "none".into(),
        all if DigestAlgorithm::ALL.iter().all(|algorithm| all.contains(algorithm)) => "all".into(),
        some => some.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(","),
    }
}

/// The text of an option, if it is one.
pub fn data_unit_sizes_text(text: &str) -> Result<String, String> {
    parse_data_unit_sizes(text).map(|_| text.to_owned())
}

pub fn serial(text: &str) -> Result<String, String> {
    if text.len() <= ID_BYTES {
        return Ok(text.to_owned());
    }
    Err(format!(" has {} bytes; allowed are at most {ID_BYTES}, as a guest can read no more", text.len()))
}

/// The name of an enum's value.
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A number between words; nothing for 0.
pub fn unless_zero(number: u32, before: &str, after: &str) -> String {
    if number == 0 { String::new() } else { format!("{before}{number}{after}") }
}
