// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is known about the pages of an image in memory (tmpfs, or a memory disk), block by block.
//!
//! *Present*: all pages of the block exist, so it can be read in place. Touching a page of a hole would create it: a
//! read would take the host's memory and undo a discard.
//!
//! *Populated*: writing in place pays, too. Storing into a mapping is several times as fast as `pwrite(2)`, except for
//! the first time, which costs a page fault. So a block is written by system calls twice. Then, if it is present, its
//! pages are put into the page table at once.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use vm_memory::VolatileSlice;

use super::resident::{Resident, is_resident};

const BLOCK: u64 = 64 << 10;
/// The largest image that is tracked. This bounds the memory to 4 MiB.
const LARGEST: u64 = BLOCK << 22;

/// Blocks per system call: 2 MiB.
const AT_ONCE: usize = 32;

/// State bits of a block.
mod state {
    /// All of its pages exist.
    pub const PRESENT: u8 = 1;
    /// It has been written once.
    pub const WRITTEN: u8 = 2;
    /// It is written in place.
    pub const POPULATED: u8 = 4;
}

#[derive(Debug)]
pub struct Blocks {
    states: Box<[AtomicU8]>,
    /// How often pages may have gone. A probe does not count if they may have gone meanwhile.
    losses: AtomicU32,
}

impl Blocks {
    /// Nothing is known yet. `None` for an image that is too large.
    pub fn new(len: u64) -> Option<Self> {
        let blocks = usize::try_from(len.div_ceil(BLOCK)).ok().filter(|_| len <= LARGEST)?;
        let states = std::iter::repeat_with(AtomicU8::default).take(blocks).collect();
        Some(Self { states, losses: AtomicU32::new(0) })
    }

    /// Whether all pages of a range are known to exist.
    pub fn are_present(&self, offset: u64, len: usize) -> bool {
        self.are(state::PRESENT, offset, len)
    }

    /// Whether all of a range is populated.
    pub fn are_populated(&self, offset: u64, len: usize) -> bool {
        self.are(state::POPULATED, offset, len)
    }

    fn are(&self, wanted: u8, offset: u64, len: usize) -> bool {
        self.range(offset, len)
            .is_some_and(|(_, states)| states.iter().all(|state| state.load(Ordering::Relaxed) & wanted != 0))
    }

    /// Asks the system whether all pages of a range exist, and records the answer for each whole block. `bytes` returns
    /// a range of the mapping.
    pub fn probe<'a>(&self, offset: u64, len: usize, bytes: impl Fn(u64, u64) -> Option<VolatileSlice<'a>>) -> bool {
        let Some((first, states)) = self.range(offset, len) else { return false };
        let end = offset + len as u64; // it has blocks, so it does not overflow; usize to u64 loses nothing
        let starts = (first * BLOCK..).step_by(AT_ONCE * BLOCK as usize); // 64 KiB
        starts.zip(states.chunks(AT_ONCE)).all(|(start, states)| {
            let len = states.len() as u64 * BLOCK;
            let (from, to) = (start.max(offset), end.min(start + len));
            match bytes(start, len) {
                Some(whole) => self.probe_blocks(states, &whole, from - start, to - from),
                // The image ends within the last block, for which nothing is recorded.
                None => bytes(from, to - from).is_some_and(|range| is_resident(&range)),
            }
        })
    }

    /// Probes a few whole blocks. Returns whether a range of them is present.
    fn probe_blocks(&self, states: &[AtomicU8], whole: &VolatileSlice<'_>, from: u64, len: u64) -> bool {
        let losses = self.losses.load(Ordering::SeqCst);
        let Some(resident) = Resident::of(whole) else { return false };
        for (start, state) in (0..).step_by(BLOCK as usize).zip(states) {
            if resident.are(start, BLOCK) {
                state.fetch_or(state::PRESENT, Ordering::SeqCst);
            }
        }
        if self.losses.load(Ordering::SeqCst) != losses {
            states.iter().for_each(|state| state.store(0, Ordering::SeqCst));
            return false;
        }
        resident.are(from, len)
    }

    /// Records a write by a system call. `bytes` returns a range of the mapping.
    pub fn was_written<'a>(&self, offset: u64, len: usize, bytes: impl Fn(u64, u64) -> Option<VolatileSlice<'a>>) {
        let Some((first, states)) = self.range(offset, len) else { return };
        for (number, state) in (first..).zip(states) {
            // Another thread at the same time only repeats this.
            let now = state.load(Ordering::Relaxed);
            if now & state::POPULATED != 0 {
                continue;
            }
            if now & state::WRITTEN == 0 {
                state.fetch_or(state::WRITTEN, Ordering::Relaxed);
                continue;
            }
            let start = number * BLOCK;
            if now & state::PRESENT != 0 || self.probe(start, BLOCK as usize, &bytes) {
                if let Some(bytes) = bytes(start, BLOCK) {
                    populate(&bytes);
                }
                // Only if it is still present.
                let _ = state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                    (now & state::PRESENT != 0).then_some(now | state::POPULATED)
                });
            } else {
                // Ask again later, but not each time.
                state.fetch_and(!state::WRITTEN, Ordering::Relaxed);
            }
        }
    }

    /// The pages of a range may be gone. Call this before and after they go, because others read meanwhile.
    pub fn forget(&self, offset: u64, len: u64) {
        self.losses.fetch_add(1, Ordering::SeqCst);
        let Ok(first) = usize::try_from(offset / BLOCK) else { return };
        let count = usize::try_from(len.div_ceil(BLOCK)).unwrap_or(usize::MAX).saturating_add(1);
        // Part of the range may be in a larger mapping.
        self.states.iter().skip(first).take(count).for_each(|state| state.store(0, Ordering::SeqCst));
    }

    /// The blocks that a range touches, and the number of the first one.
    fn range(&self, offset: u64, len: usize) -> Option<(u64, &[AtomicU8])> {
        let first = offset / BLOCK;
        let end = offset.checked_add(len as u64)?.div_ceil(BLOCK); // usize to u64 loses nothing
        let range = usize::try_from(first).ok()?..usize::try_from(end).ok()?;
        Some((first, self.states.get(range)?))
    }
}

/// Puts the pages of a present block into the page table. Reading two bytes is enough: a page fault on tmpfs also maps
/// the pages around it (fault-around), by default the aligned 64 KiB, and a block overlaps at most two of these. Writes
/// then cause no fault, because tmpfs tracks no first write. Storing would cause one fault per page.
fn populate(block: &VolatileSlice<'_>) {
    let mut byte = [0u8];
    block.copy_to(&mut byte);
    std::hint::black_box(byte);
    if let Ok(last) = block.offset(block.len().saturating_sub(1)) {
        last.copy_to(&mut byte);
        std::hint::black_box(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_beyond_the_image_are_not_populated() {
        let blocks = Blocks::new(3 * BLOCK + 512).expect("blocks");
        blocks.states.iter().for_each(|state| state.store(state::POPULATED, Ordering::Relaxed));
        assert!(blocks.are_populated(0, 4096) && blocks.are_populated(3 * BLOCK, 512));
        assert!(blocks.are_populated(BLOCK - 512, 1024) && !blocks.are_present(0, 512));
        assert!(!blocks.are_populated(4 * BLOCK, 512) && !blocks.are_populated(4 * BLOCK - 512, 1024));
        assert!(!blocks.are_populated(u64::MAX, 1) && !blocks.are_populated(u64::MAX - 511, usize::MAX));
        blocks.forget(BLOCK, 512);
        assert!(blocks.are_populated(0, 512) && !blocks.are_populated(BLOCK - 512, 1024));
        assert!(blocks.are_populated(3 * BLOCK, 512));
        blocks.forget(3 * BLOCK, u64::MAX);
        assert!(!blocks.are_populated(3 * BLOCK, 512));
        assert!(Blocks::new(LARGEST + 512).is_none());
    }
}
