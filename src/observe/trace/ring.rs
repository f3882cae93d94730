// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bounded queue of records from one worker to the writer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::RECORD_WORDS;
use crate::observe::tally::Tally;

/// Records that fit: 20 ms of 800000 requests per second. 1.7 MB of memory, from the first trace on.
const CAPACITY: usize = 16384;

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Index(AtomicUsize);

/// One writer pushes, one reader drains. The words are plain stores and loads; the indices publish them.
#[derive(Debug)]
pub struct Ring {
    words: Box<[AtomicU64]>,
    /// Records pushed ever.
    pushed: Index,
    /// Records drained ever.
    drained: Index,
    dropped: Tally,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            words: (0..CAPACITY * RECORD_WORDS).map(|_| AtomicU64::new(0)).collect(),
            pushed: Index::default(),
            drained: Index::default(),
            dropped: Tally::default(),
        }
    }
}

impl Ring {
    /// Adds a record, or counts it as dropped when there is no room; for the one writer.
    pub fn push(&self, record: &[u64; RECORD_WORDS]) {
        let pushed = self.pushed.0.load(Ordering::Relaxed);
        // What the reader has drained may be written again.
        let full = pushed.wrapping_sub(self.drained.0.load(Ordering::Acquire)) >= CAPACITY;
        let start = pushed % CAPACITY * RECORD_WORDS;
        let Some(place) = self.words.get(start..start + RECORD_WORDS).filter(|_| !full) else {
            return self.dropped.add(1);
        };
        place.iter().zip(record).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
        self.pushed.0.store(pushed.wrapping_add(1), Ordering::Release);
    }

    /// Takes all records that are there; for the one reader. Returns how many there were.
    pub fn drain(&self, mut take: impl FnMut(&[u64; RECORD_WORDS])) -> usize {
        let drained = self.drained.0.load(Ordering::Relaxed);
        let pushed = self.pushed.0.load(Ordering::Acquire);
        let count = pushed.wrapping_sub(drained);
        for record in 0..count {
            let start = drained.wrapping_add(record) % CAPACITY * RECORD_WORDS;
            let mut words = [0; RECORD_WORDS];
            let place = self.words.get(start..start + RECORD_WORDS).unwrap_or_default();
            words.iter_mut().zip(place).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
            take(&words);
        }
        self.drained.0.store(pushed, Ordering::Release);
        count
    }

    /// Records lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_torn_or_lost_uncounted() {
        let ring = Ring::default();
        const RECORDS: u64 = 300_000;
        let (mut seen, mut last) = (0u64, 0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..=RECORDS).for_each(|number| ring.push(&[number; RECORD_WORDS])));
            loop {
                let ended = writer.is_finished();
                ring.drain(|record| {
                    assert!(record.iter().all(|word| *word == record[0]), "torn: {record:?}");
                    assert!(record[0] > last, "in order");
                    last = record[0];
                    seen += 1;
                });
                if ended {
                    break;
                }
            }
        });
        assert_eq!(seen + ring.dropped(), RECORDS);
        // A full ring drops and goes on.
        let ring = Ring::default();
        (0..CAPACITY as u64 + 5).for_each(|number| ring.push(&[number; RECORD_WORDS]));
        assert_eq!(ring.dropped(), 5);
        assert_eq!(ring.drain(|_| ()), CAPACITY);
        ring.push(&[7; RECORD_WORDS]);
        assert_eq!((ring.drain(|record| assert_eq!(record, &[7; RECORD_WORDS])), ring.dropped()), (1, 5));
    }
}
