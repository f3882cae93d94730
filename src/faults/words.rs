// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values in a specification: numbers, ranges, durations, probabilities.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::spec::SpecError;

/// The longest time: an hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// A decimal number, or a hexadecimal one after `0x`.
pub(super) fn number(name: &str, text: &str, allowed: RangeInclusive<u64>) -> Result<u64, SpecError> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match number {
        Ok(number) if allowed.contains(&number) => Ok(number),
        _ if *allowed.end() == u64::MAX => {
            Err(SpecError(format!("{name}={text}: not a whole number from {} on", allowed.start())))
        }
        _ => Err(SpecError(format!("{name}={text}: not a whole number from {} to {}", allowed.start(), allowed.end()))),
    }
}

/// `A` or `A-B`.
pub(super) fn range(name: &str, text: &str) -> Result<RangeInclusive<u64>, SpecError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = number(name, first, 0..=u64::MAX)?;
    let last = number(name, last, 0..=u64::MAX)?;
    if first > last {
        return Err(SpecError(format!("{name}={text}: write the smaller number first")));
    }
    Ok(first..=last)
}

/// A whole number and a unit: `us`, `ms` or `s`.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration, SpecError> {
    let wrong = || SpecError(format!("{name}={text}: not a time up to an hour, such as 100us, 5ms or 2s"));
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let time = match unit {
        "us" => Duration::from_micros(count),
        "ms" => Duration::from_millis(count),
        "s" => Duration::from_secs(count),
        _ => return Err(wrong()),
    };
    if time <= LONGEST { Ok(time) } else { Err(wrong()) }
}

/// From 0 to 1, as a part of 2^64; `None` for 1.
pub(super) fn probability(name: &str, text: &str) -> Result<Option<u64>, SpecError> {
    match text.parse::<f64>() {
        // The conversion saturates, and the factor is exact.
        Ok(part) if (0.0..1.0).contains(&part) => Ok(Some((part * 18_446_744_073_709_551_616.0) as u64)),
        Ok(1.0) => Ok(None),
        _ => Err(SpecError(format!("{name}={text}: not a number from 0 to 1"))),
    }
}
