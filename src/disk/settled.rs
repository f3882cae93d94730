// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which parts of an image in memory (tmpfs) are best written in place.
//!
//! Storing into a mapping is several times as fast as `pwrite(2)` - except for the first time, when it costs a page fault,
//! or even takes memory for a hole. So a block of the image is written by system calls until that has happened twice.
//! Then, if all of its pages are there, they are put into the page table at once, and the block is *settled*.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::VolatileSlice;

use super::mapping::is_resident;

/// Bytes that are settled at once.
const BLOCK: u64 = 64 << 10;
/// The largest image for which this is remembered: the memory it takes is bounded (4 MiB).
const LARGEST: u64 = BLOCK << 22;

/// What is known of a block.
mod state {
    pub const UNKNOWN: u8 = 0;
    /// It has been written once.
    pub const WRITTEN: u8 = 1;
    /// It is written in place.
    pub const SETTLED: u8 = 2;
}

/// The state of each block of an image.
#[derive(Debug)]
pub struct Settled {
    blocks: Box<[AtomicU8]>,
}

impl Settled {
    /// Nothing is settled. `None` for an image that is too large.
    pub fn new(len: u64) -> Option<Self> {
        let blocks = usize::try_from(len.div_ceil(BLOCK)).ok().filter(|_| len <= LARGEST)?;
        Some(Self { blocks: std::iter::repeat_with(|| AtomicU8::new(state::UNKNOWN)).take(blocks).collect() })
    }

    /// Whether all of a range is settled.
    pub fn has(&self, offset: u64, len: usize) -> bool {
        self.blocks(offset, len)
            .is_some_and(|(_, blocks)| blocks.iter().all(|block| block.load(Ordering::Relaxed) == state::SETTLED))
    }

    /// A range has been written by a system call. `bytes` gives a range of the mapping.
    pub fn written<'a>(&self, offset: u64, len: usize, bytes: impl Fn(u64, u64) -> Option<VolatileSlice<'a>>) {
        let Some((first, blocks)) = self.blocks(offset, len) else { return };
        let end = offset + len as u64; // it has blocks, so it does not overflow; usize to u64 loses nothing
        let is_all_of = |number: u64| offset <= number * BLOCK && end >= (number + 1) * BLOCK;
        for (number, block) in (first..).zip(blocks) {
            // Whoever comes at the same time does the same once more.
            let next = match block.load(Ordering::Relaxed) {
                state::UNKNOWN => state::WRITTEN,
                state::WRITTEN => match bytes(number * BLOCK, BLOCK) {
                    Some(bytes) if is_all_of(number) || is_resident(&bytes) => {
                        touch(&bytes);
                        state::SETTLED
                    }
                    // It is asked again, but not each time.
                    _ => state::UNKNOWN,
                },
                _ => continue,
            };
            block.store(next, Ordering::Relaxed);
        }
    }

    /// The pages of a range may be gone.
    pub fn forget(&self, offset: u64, len: u64) {
        let Ok(first) = usize::try_from(offset / BLOCK) else { return };
        let count = usize::try_from(len.div_ceil(BLOCK)).unwrap_or(usize::MAX).saturating_add(1);
        // Some of it may lie in a larger mapping.
        self.blocks.iter().skip(first).take(count).for_each(|block| block.store(state::UNKNOWN, Ordering::Relaxed));
    }

    /// The blocks that a range touches, and the number of the first one.
    fn blocks(&self, offset: u64, len: usize) -> Option<(u64, &[AtomicU8])> {
        let first = offset / BLOCK;
        let end = offset.checked_add(len as u64)?.div_ceil(BLOCK); // usize to u64 loses nothing
        let range = usize::try_from(first).ok()?..usize::try_from(end).ok()?;
        Some((first, self.blocks.get(range)?))
    }
}

/// Puts the pages of a block, which are there, into the page table by reading two bytes: tmpfs has a page fault put the pages
/// around in, too, by default the 64 KiB of addresses that it lies in, of which a block touches two at the most. The pages
/// can be written then: nobody has to be told of the first write, as with other file systems. A store would take a page
/// fault for each page.
fn touch(block: &VolatileSlice<'_>) {
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
    fn ranges_beyond_the_image_are_not_settled() {
        let settled = Settled::new(3 * BLOCK + 512).expect("blocks");
        settled.blocks.iter().for_each(|block| block.store(state::SETTLED, Ordering::Relaxed));
        assert!(settled.has(0, 4096) && settled.has(3 * BLOCK, 512) && settled.has(BLOCK - 512, 1024));
        assert!(!settled.has(4 * BLOCK, 512) && !settled.has(4 * BLOCK - 512, 1024));
        assert!(!settled.has(u64::MAX, 1) && !settled.has(u64::MAX - 511, usize::MAX));
        settled.forget(BLOCK, 512);
        assert!(settled.has(0, 512) && !settled.has(BLOCK - 512, 1024) && settled.has(3 * BLOCK, 512));
        settled.forget(3 * BLOCK, u64::MAX);
        assert!(!settled.has(3 * BLOCK, 512));
        assert!(Settled::new(LARGEST + 512).is_none());
    }
}
