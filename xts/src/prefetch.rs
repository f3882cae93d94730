// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Prefetching: loads memory that will be used soon into the caches, beside other work.
//!
//! A CPU waits for few cache lines at a time. If a whole page is requested at once, the CPU can do nothing else until
//! most of the page has come. If some lines are requested now and then, it fetches them while it computes.

use vm_memory::VolatileSlice;

/// Bytes of a cache line, or a divisor of that.
const LINE: usize = 64;

/// A range of memory to prefetch, and how far that has got.
///
/// It is only numbers: nothing is accessed through them, so it is harmless if the memory is gone. Only x86-64
/// prefetches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefetch {
    at: usize,
    left: usize,
}

impl Prefetch {
    /// A range of memory. Requests its first cache line at once.
    #[inline]
    pub fn new(range: &VolatileSlice<'_>) -> Self {
        let mut this = Self { at: range.ptr_guard().as_ptr().addr(), left: range.len() };
        this.advance(LINE);
        this
    }

    /// Requests only the first cache line of a range, for its address translation, which takes longer than the data: in
    /// a virtual machine it is a walk through two page tables.
    #[inline]
    pub fn first_line(range: &VolatileSlice<'_>) {
        prefetch_line(range.ptr_guard().as_ptr().addr());
    }

    /// `left` bytes from an address on. Requests nothing yet.
    #[inline]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn at(at: usize, left: usize) -> Self {
        Self { at, left }
    }

    /// Whether the whole range has been requested.
    #[inline]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Requests the next `bytes` of the range.
    #[inline(always)]
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.left);
        for offset in (0..bytes).step_by(LINE) {
            prefetch_line(self.at.wrapping_add(offset));
        }
        self.at = self.at.wrapping_add(bytes);
        self.left -= bytes;
    }

    /// Requests the rest of the range.
    #[inline]
    pub fn finish(&mut self) {
        self.advance(self.left);
    }
}

#[inline(always)]
fn prefetch_line(address: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on the caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_asked_for_once() {
        let mut bytes = vec![0u8; 1000];
        let slice = VolatileSlice::from(&mut bytes[..]);
        let mut prefetch = Prefetch::new(&slice);
        assert_eq!(prefetch.left, 1000 - LINE);
        prefetch.advance(512);
        assert_eq!(prefetch.left, 1000 - LINE - 512);
        prefetch.advance(512);
        assert_eq!((prefetch.left, prefetch.at), (0, slice.ptr_guard().as_ptr().addr() + 1000));
        prefetch.advance(512);
        prefetch.finish();
        assert_eq!(prefetch.left, 0);
        Prefetch::default().finish();
    }
}
