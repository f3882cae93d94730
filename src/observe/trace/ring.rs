// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bounded queue of records from one worker to the writer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::format::{Encoded, RECORD_WORDS, Words};
use crate::observe::tally::Tally;

/// Capacity in records: 20 ms of 800000 requests per second. 1 MiB of memory, from the first trace on.
const CAPACITY: usize = 16384;

/// After this many records, the reader frees their room.
const PORTION: usize = 256;

/// An index on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Index(AtomicUsize);

/// One writer pushes, one reader drains. The words are plain stores and loads; the indices publish them.
#[derive(Debug)]
pub struct TraceRing {
    words: Box<[AtomicU64]>,
    /// Number of records ever pushed.
    pushed: Index,
    /// Number of records ever drained.
    drained: Index,
    dropped: Tally,
}

impl Default for TraceRing {
    fn default() -> Self {
        Self {
            words: (0..CAPACITY * RECORD_WORDS).map(|_| AtomicU64::new(0)).collect(),
            pushed: Index::default(),
            drained: Index::default(),
            dropped: Tally::default(),
        }
    }
}

impl TraceRing {
    /// Adds a request, or counts it as dropped if there is no room. Only for the one writer.
    #[inline]
    pub fn push(&self, Encoded { record, more }: &Encoded) {
        let pushed = self.pushed.0.load(Ordering::Relaxed);
        let next = pushed.wrapping_add(1 + usize::from(more.is_some()));
        // The writer may overwrite what the reader has drained.
        if next.wrapping_sub(self.drained.0.load(Ordering::Acquire)) > CAPACITY {
            return self.dropped.add(1);
        }
        self.store(pushed, record);
        if let Some(more) = more {
            self.store(pushed.wrapping_add(1), more);
        }
        self.pushed.0.store(next, Ordering::Release);
    }

    #[inline]
    fn store(&self, number: usize, record: &Words) {
        let start = number % CAPACITY * RECORD_WORDS;
        let place = self.words.get(start..start + RECORD_WORDS).unwrap_or_default();
        place.iter().zip(record).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
    }

    /// Takes all records. Only for the one reader.
    pub fn drain(&self, mut take: impl FnMut(&Words)) {
        let drained = self.drained.0.load(Ordering::Relaxed);
        let pushed = self.pushed.0.load(Ordering::Acquire);
        let count = pushed.wrapping_sub(drained);
        for record in 0..count {
            let start = drained.wrapping_add(record) % CAPACITY * RECORD_WORDS;
            let mut words = [0; RECORD_WORDS];
            let place = self.words.get(start..start + RECORD_WORDS).unwrap_or_default();
            words.iter_mut().zip(place).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
            if record % PORTION == 0 {
                // These have been copied, so the writer need not wait until `take` is done with the rest.
                self.drained.0.store(drained.wrapping_add(record), Ordering::Release);
            }
            take(&words);
        }
        self.drained.0.store(pushed, Ordering::Release);
    }

    /// Requests lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every third request takes two records.
    fn request(number: u64) -> Encoded {
        let record = [number; RECORD_WORDS];
        Encoded { record, more: number.is_multiple_of(3).then_some(record) }
    }

    #[test]
    fn nothing_is_torn_or_lost_uncounted() {
        let ring = TraceRing::default();
        const REQUESTS: u64 = 300_000;
        let (mut seen, mut last) = (0u64, 0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..=REQUESTS).for_each(|number| ring.push(&request(number))));
            loop {
                let ended = writer.is_finished();
                let mut half = 0;
                ring.drain(|record| {
                    let [number, ..] = *record;
                    assert!(record.iter().all(|word| *word == number), "torn: {record:?}");
                    if half != 0 {
                        assert_eq!(number, half, "both records of a request, or none");
                        half = 0;
                        return;
                    }
                    assert!(number > last, "in order");
                    (last, seen) = (number, seen + 1);
                    half = if number.is_multiple_of(3) { number } else { 0 };
                });
                assert_eq!(half, 0, "both records of a request are there at the same time");
                if ended {
                    break;
                }
            }
        });
        assert_eq!(seen + ring.dropped(), REQUESTS);
    }

    #[test]
    fn a_full_ring_drops_and_goes_on() {
        let ring = TraceRing::default();
        let count = |ring: &TraceRing| {
            let mut count = 0;
            ring.drain(|_| count += 1);
            count
        };
        (0..CAPACITY - 1).for_each(|_| ring.push(&request(1)));
        ring.push(&request(3)); // has no room for both
        assert_eq!(ring.dropped(), 1);
        (0..5).for_each(|_| ring.push(&request(1)));
        assert_eq!((ring.dropped(), count(&ring)), (5, CAPACITY));
        ring.push(&request(3));
        assert_eq!((count(&ring), ring.dropped()), (2, 5));
    }
}
