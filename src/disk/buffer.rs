// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Private memory between guest memory and the disk: page-aligned, bounded, reused.

#![forbid(unsafe_code)]

use vm_memory::VolatileSlice;
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a small buffer. Any data unit fits.
pub const SMALL: usize = 64 << 10;
/// Bytes of a large buffer. Longer requests are moved in steps.
pub const LARGE: usize = 256 << 10;
/// Small buffers of a pool: 4 MiB.
const SMALL_COUNT: usize = 64;
/// Large buffers of a pool: 8 MiB.
const LARGE_COUNT: usize = 32;

/// Page alignment: O_DIRECT needs it, and copies are several times slower below 32 bytes.
#[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A buffer of a pool, [`SMALL`] or [`LARGE`]. It holds the guest's data and is not cleared between requests, so a user
/// reads only what it has filled.
pub struct Buffer {
    pages: Box<[Page]>,
    index: usize,
}

impl Buffer {
    fn new(bytes: usize, index: usize) -> Option<Self> {
        // The kernel provides the memory on first touch.
        <[Page]>::new_box_zeroed_with_elems(bytes / size_of::<Page>()).ok().map(|pages| Self { pages, index })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.pages.as_bytes()
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes()
    }

    /// The first `len` bytes, in the form that crypto works on.
    pub fn piece(&mut self, len: usize) -> VolatileSlice<'_> {
        let bytes = self.bytes_mut();
        let len = len.min(bytes.len());
        VolatileSlice::from(bytes.get_mut(..len).unwrap_or_default())
    }

    /// Its size.
    pub fn capacity(&self) -> usize {
        self.bytes().len()
    }

    /// Its index in the pool.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("index", &self.index).field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// The buffers of one worker. The one used last is used first, while it is in the cache.
pub struct Pool {
    small: Class,
    large: Class,
}

impl Pool {
    /// A pool that allocates its buffers on demand.
    pub fn new() -> Self {
        Self { small: Class::new(SMALL, SMALL_COUNT, 0), large: Class::new(LARGE, LARGE_COUNT, SMALL_COUNT) }
    }

    /// Allocates all buffers now. Returns false without memory.
    pub fn make_all(&mut self) -> bool {
        self.small.make_all() && self.large.make_all()
    }

    /// How many buffers can be taken. Any buffer serves any request, if necessary in steps.
    pub fn available(&self) -> usize {
        self.small.available() + self.large.available()
    }

    /// A buffer for a transfer of `len` bytes: of the right size, or else of the other. `None` when all are taken or
    /// there is no memory.
    pub fn get(&mut self, len: u64) -> Option<Buffer> {
        // usize to u64 loses nothing
        if len > SMALL as u64 {
            self.large.get().or_else(|| self.small.get())
        } else {
            self.small.get().or_else(|| self.large.get())
        }
    }

    /// Returns a buffer.
    pub fn put(&mut self, buffer: Buffer) {
        if buffer.index < SMALL_COUNT { self.small.free.push(buffer) } else { self.large.free.push(buffer) }
    }

    /// The buffers that are not taken.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Buffer> {
        self.small.free.iter_mut().chain(&mut self.large.free)
    }
}

/// Buffers of one size.
struct Class {
    bytes: usize,
    count: usize,
    first_index: usize,
    free: Vec<Buffer>,
    made: usize,
}

impl Class {
    fn new(bytes: usize, count: usize, first_index: usize) -> Self {
        Self { bytes, count, first_index, free: Vec::new(), made: 0 }
    }

    fn available(&self) -> usize {
        self.free.len() + (self.count - self.made)
    }

    fn make(&mut self) -> Option<Buffer> {
        if self.made == self.count {
            return None;
        }
        let buffer = Buffer::new(self.bytes, self.first_index + self.made)?;
        self.made += 1;
        Some(buffer)
    }

    fn make_all(&mut self) -> bool {
        while self.made < self.count {
            let Some(buffer) = self.make() else { return false };
            self.free.push(buffer);
        }
        true
    }

    fn get(&mut self) -> Option<Buffer> {
        self.free.pop().or_else(|| self.make())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_bounded_and_gives_the_last_buffer_first() {
        let mut pool = Pool::new();
        let all = pool.available();
        assert_eq!(all, SMALL_COUNT + LARGE_COUNT);
        let first = pool.get(4096).expect("buffer");
        assert_eq!(first.capacity(), SMALL);
        assert_eq!(first.bytes().as_ptr() as usize % 4096, 0);
        let index = first.index();
        pool.put(first);
        assert_eq!(pool.get(1).map(|buffer| buffer.index()), Some(index));
        // One is lost on purpose: taken and dropped.
        let mut taken: Vec<_> = std::iter::from_fn(|| pool.get(1 << 20)).collect();
        assert_eq!((taken.len(), pool.available()), (all - 1, 0));
        let mut indices: Vec<_> = taken.iter().map(Buffer::index).collect();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), all - 1);
        assert!(taken.iter().take(LARGE_COUNT).all(|buffer| buffer.capacity() == LARGE));
        taken.drain(..).for_each(|buffer| pool.put(buffer));
        assert_eq!(pool.available(), all - 1);
        assert!(pool.make_all());
    }
}
