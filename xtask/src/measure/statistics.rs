// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Medians, spreads and ratios of repeated measurements.

/// The middle of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// The median: the middle value, or the mean of the two middle ones; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    let lower = sorted.get(sorted.len() / 2 - 1)?;
    Some((lower + upper) / 2.0)
}

/// Median, smallest and largest value; `None` without values.
pub fn summary(values: &[f64]) -> Option<Summary> {
    Some(Summary {
        median: median(values)?,
        min: values.iter().copied().min_by(f64::total_cmp)?,
        max: values.iter().copied().max_by(f64::total_cmp)?,
    })
}

/// The median of the ratios of two contenders round by round, so that a drift of the machine between rounds cancels
/// out.
pub fn ratio(values: &[f64], base: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = values.iter().zip(base).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), Some(3.5));
        assert_eq!(summary(&[2.0, 9.0, 1.0]), Some(Summary { median: 2.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn ratios_cancel_what_all_contenders_share() {
        // The machine is twice as fast in the second round.
        assert_eq!(ratio(&[3.0, 6.0, 3.0], &[2.0, 4.0, 2.0]), Some(1.5));
        assert_eq!(ratio(&[3.0], &[]), None);
        assert_eq!(ratio(&[3.0], &[0.0]), None);
    }
}
