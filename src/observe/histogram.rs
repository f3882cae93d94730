// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Latency histograms with the bucket layout of HdrHistogram: 32 linear buckets per power of two, so values are
//! accurate to 3 %. One thread records without a lock while others read, which the `hdrhistogram` crate's types do not
//! support.

use super::tally::Tally;

/// Buckets in each power of two.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Powers of two above [`SUB`]: up to 2^40 ns, 18 minutes. Longer times are counted there.
const OCTAVES: usize = 35;
const BUCKETS: usize = SUB * (OCTAVES + 1);

/// The bucket of a value. Upper bounds are inclusive: the last value of a bucket is a multiple of its width, as
/// Prometheus' `le` needs.
fn index(nanos: u64) -> usize {
    let value = nanos.saturating_sub(1);
    if value < SUB as u64 {
        return value as usize; // below 32
    }
    let shift = value.ilog2() - SUB_BITS;
    let sub = (value >> shift) as usize & (SUB - 1); // below 64 before the mask
    ((shift as usize + 1) * SUB + sub).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    let (octave, sub) = (index / SUB, (index % SUB) as u64);
    match octave.checked_sub(1) {
        None => sub + 1,
        Some(shift) => (SUB as u64 + sub + 1) << shift,
    }
}

/// A histogram of nanoseconds with one writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[Tally]>,
    sum: Tally,
    max: Tally,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Tally::default()).collect(), sum: Tally::default(), max: Tally::default() }
    }
}

impl Histogram {
    /// Counts a value. Only for the one writer.
    pub fn record(&self, nanos: u64) {
        if let Some(bucket) = self.buckets.get(index(nanos)) {
            bucket.add(1);
        }
        self.sum.add(nanos);
        self.max.raise(nanos);
    }
}

/// The sum of all writers' histograms.
#[derive(Debug, Clone)]
pub struct Distribution {
    buckets: Vec<u64>,
    sum: u64,
    max: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum: 0, max: 0 }
    }
}

impl Distribution {
    /// Adds the current counts of a histogram.
    pub fn add(&mut self, histogram: &Histogram) {
        self.buckets.iter_mut().zip(&histogram.buckets).for_each(|(sum, bucket)| *sum += bucket.get());
        self.sum = self.sum.wrapping_add(histogram.sum.get());
        self.max = self.max.max(histogram.max.get());
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A value that `per_mille` of a thousand values do not exceed, accurate to 3 %; 0 without values.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let count = self.count();
        let rank = (u128::from(count) * u128::from(per_mille)).div_ceil(1000).max(1) as u64; // at most `count`
        let mut seen = 0;
        let found = self.buckets.iter().position(|&bucket| {
            seen += bucket;
            seen >= rank
        });
        found.map_or(0, |index| upper(index).min(self.max))
    }

    /// How many values are at most 2^i nanoseconds, for each exponent `i`; exact.
    pub fn cumulative(&self, exponents: impl Iterator<Item = u32>) -> impl Iterator<Item = (u64, u64)> {
        exponents.map(|exponent| {
            let bound = 1u64 << exponent.min(63);
            let count = self.buckets.iter().take(index(bound) + 1).sum();
            (bound, count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_join_without_gaps() {
        for bucket in 0..BUCKETS {
            assert_eq!(index(upper(bucket)), bucket);
            if bucket + 1 < BUCKETS {
                assert_eq!(index(upper(bucket) + 1), bucket + 1);
            }
        }
        assert_eq!((index(0), index(u64::MAX)), (0, BUCKETS - 1));
        assert_eq!(upper(BUCKETS - 1), 1 << 40);
    }

    proptest! {
        /// Against the crate `hdrhistogram`, and against sorting.
        #[test]
        fn quantiles_are_those_of_hdrhistogram(values in proptest::collection::vec(
            prop_oneof![0u64..100, 100u64..100_000, 0u64..1 << 40], 1..300), per_mille in 1u64..=1000)
        {
            let histogram = Histogram::default();
            let mut theirs = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1 << 41, 3).expect("histogram");
            values.iter().for_each(|&value| {
                histogram.record(value);
                theirs.record(value).expect("in range");
            });
            let mut ours = Distribution::default();
            ours.add(&histogram);
            prop_assert_eq!(ours.count(), values.len() as u64);
            prop_assert_eq!(ours.sum(), values.iter().sum::<u64>());
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1) as usize;
            let exact = sorted[rank - 1];
            let near = |value: u64| value >= exact && value <= exact + exact / 30 + 1;
            prop_assert!(near(ours.quantile(per_mille)), "{} for {exact}", ours.quantile(per_mille));
            let difference = theirs.value_at_quantile(per_mille as f64 / 1000.0).abs_diff(ours.quantile(per_mille));
            prop_assert!(difference <= exact / 20 + 2);
            for (bound, count) in ours.cumulative(0..41) {
                prop_assert_eq!(count, values.iter().filter(|&&value| value <= bound).count() as u64);
            }
        }
    }
}
