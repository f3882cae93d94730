// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data unit sizes as text: on the command line, in a personality's file and in the table.

/// The sizes' binary logarithms as a bit mask, from a list (`512,4096`) or a range (`512-65536`) of powers of two.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_data_unit_sizes(text: &str) -> Result<u32, String> {
    let size = |text: &str| match text.trim().parse::<u32>() {
        Ok(size) if size.is_power_of_two() && (512..=65536).contains(&size) => Ok(size),
        _ => Err(format!("{text:?} is not a power of two from 512 to 65536")),
    };
    match text.split_once('-') {
        Some((low, high)) => {
            let (low, high) = (size(low)?, size(high)?);
            if low > high {
                return Err(format!("{low} is more than {high}; write the smaller size first"));
            }
            // A size is its own bit: all bits from `low` to `high`.
            Ok((high | (high - 1)) & !(low - 1))
        }
        None => text.split(',').try_fold(0, |mask, word| Ok(mask | size(word)?)),
    }
}

/// The text for a mask, in the form that [`parse_data_unit_sizes`] reads: a range if it is one.
pub fn format_data_unit_sizes(mask: u32) -> String {
    let sizes: Vec<u32> = (0..u32::BITS).map(|bit| 1 << bit).filter(|size| mask & size != 0).collect();
    match sizes[..] {
        [low, .., high] if sizes.len() > 2 && mask == (high | (high - 1)) & !(low - 1) => format!("{low}-{high}"),
        _ => sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_unit_sizes_are_lists_or_ranges() {
        assert_eq!(parse_data_unit_sizes("512-65536"), Ok(0x1fe00));
        assert_eq!(parse_data_unit_sizes("4096"), Ok(0x1000));
        assert_eq!(parse_data_unit_sizes("512,4096"), Ok(0x1200));
        assert_eq!(parse_data_unit_sizes("4096-4096"), Ok(0x1000));
        for bad in ["", "0", "16", "256", "1000", "131072", "4096-512", "512-", "x", "512,,4096"] {
            assert!(parse_data_unit_sizes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_mask_is_read_back() {
        for mask in (1u32..256).map(|mask| mask << 9) {
            assert_eq!(parse_data_unit_sizes(&format_data_unit_sizes(mask)), Ok(mask));
        }
        assert_eq!(format_data_unit_sizes(0x1fe00), "512-65536");
        assert_eq!(format_data_unit_sizes(0x1200), "512,4096");
        assert_eq!(format_data_unit_sizes(0x600), "512,1024");
    }
}
