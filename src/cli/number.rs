// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Numbers on the command line: sizes with suffixes, data unit numbers of up to 256 bits.

use scattered_xts::Dun;

/// Bytes: decimal or 0x..., with K, M, G or T for powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: bytes, decimal or 0x..., with K, M, G or T for powers of 1024");
    // `KiB` means the same as `K`.
    let short = text.strip_suffix("iB").unwrap_or(text);
    let shift = match short.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let digits = if shift == 0 { Some(text) } else { short.get(..short.len() - 1) }.ok_or_else(bad)?;
    match words(digits).ok_or_else(bad)? {
        [number, 0, 0, 0] if number.leading_zeros() >= shift => Ok(number << shift),
        _ => Err(format!("{text:?} is too large")),
    }
}

/// As [`size`], but not 0.
pub fn nonzero_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("the size must not be 0".into()),
        size => Ok(size),
    }
}

/// The size of a data unit: a power of two from 16 bytes to 1 MiB.
pub fn data_unit(text: &str) -> Result<u64, String> {
    match size(text)? {
        unit if unit.is_power_of_two() && (16..=1 << 20).contains(&unit) => Ok(unit),
        _ => Err(format!("{text:?} is not a power of two from 16 to 1M (usual: 512 and 4096)")),
    }
}

/// A data unit number: decimal or 0x..., below 2^256.
pub fn dun(text: &str) -> Result<Dun, String> {
    let bad = || format!("{text:?} is not a data unit number: decimal or 0x..., less than 2^256");
    words(text).map(Dun::new).ok_or_else(bad)
}

/// A number as four words, least significant first; `None` if it is not a number below 2^256.
fn words(text: &str) -> Option<[u64; 4]> {
    let (digits, base) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.chars().try_fold([0; 4], |words, digit| append_digit(words, base, digit.to_digit(base)?))
}

/// `words * base + digit`.
fn append_digit(mut words: [u64; 4], base: u32, digit: u32) -> Option<[u64; 4]> {
    let mut carry = u128::from(digit);
    for word in &mut words {
        // At most (2^64 - 1) * 16 + 2^64, far from an overflow of 128 bits.
        let sum = u128::from(*word) * u128::from(base) + carry;
        *word = sum as u64; // the low 64 bits
        carry = sum >> 64;
    }
    (carry == 0).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("0x10", 16),
            ("0x10K", 16384),
            ("3M", 3 << 20),
            ("2G", 2 << 30),
            ("18446744073709551615", u64::MAX),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "K", "0x", "-1", "1.5K", "1KB", "iB", "1iB", "ten", "18446744073709551616", "16777216T", "\u{fc}"]
        {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        assert_eq!((nonzero_size("1G"), nonzero_size("0K").is_err()), (Ok(1 << 30), true));
        assert_eq!(data_unit("4K"), Ok(4096));
        assert!(data_unit("1000").is_err() && data_unit("8").is_err() && data_unit("0").is_err());
    }

    #[test]
    fn data_unit_numbers_have_256_bits() {
        let all = format!("0x{}", "f".repeat(64));
        assert_eq!(dun(&all), Ok(Dun::new([u64::MAX; 4])));
        assert!(dun(&format!("{all}0")).is_err());
        // 2^256 - 1 and 2^256, from `bc`.
        let max = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(dun(max), Ok(Dun::new([u64::MAX; 4])));
        assert!(dun(&max.replace("9935", "9936")).is_err());
        assert_eq!(dun("18446744073709551616"), Ok(Dun::new([0, 1, 0, 0])));
        assert_eq!(dun("0x10000000000000000000000000000000f"), Ok(Dun::new([15, 0, 1, 0])));
        assert!(dun("").is_err() && dun("x").is_err() && dun("1K").is_err());
    }
}
