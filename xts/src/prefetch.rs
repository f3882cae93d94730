// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory that will be used soon: the CPU is asked to fetch it into its caches, beside other work.
//!
//! A CPU waits for few lines of memory at a time. Asked for a page at once it can do nothing else until most of that has come;
//! asked for some lines now and then it fetches them while it computes.

use vm_memory::VolatileSlice;

/// Bytes of a line of the caches, or a divisor of that.
const LINE: usize = 64;

/// A range of memory. Plain numbers: nothing is accessed through them, and it is no harm if the memory is gone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Soon {
    at: usize,
    left: usize,
}

/// Asks for the first bytes of a range, for the sake of their translation, which takes longer than the bytes: with virtual
/// machines it is a walk through two page tables.
#[inline]
pub fn look_up(range: &VolatileSlice<'_>) {
    fetch_line(range.ptr_guard().as_ptr().addr());
}

impl Soon {
    /// The bytes of a range, which is looked up at once.
    #[inline]
    pub fn new(range: &VolatileSlice<'_>) -> Self {
        let mut this = Self { at: range.ptr_guard().as_ptr().addr(), left: range.len() };
        this.fetch(LINE);
        this
    }

    /// `left` bytes from an address on. Nothing is asked for yet.
    #[inline]
    pub fn from(at: usize, left: usize) -> Self {
        Self { at, left }
    }

    /// Whether all of it has been asked for.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Asks for the next `bytes` of it.
    #[inline(always)]
    pub fn fetch(&mut self, bytes: usize) {
        let bytes = bytes.min(self.left);
        for offset in (0..bytes).step_by(LINE) {
            fetch_line(self.at.wrapping_add(offset));
        }
        self.at = self.at.wrapping_add(bytes);
        self.left -= bytes;
    }

    /// Asks for the rest of it.
    #[inline]
    pub fn fetch_rest(&mut self) {
        self.fetch(self.left);
    }
}

#[inline(always)]
fn fetch_line(address: usize) {
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
        let mut soon = Soon::new(&slice);
        assert_eq!(soon.left, 1000 - LINE);
        soon.fetch(512);
        assert_eq!(soon.left, 1000 - LINE - 512);
        soon.fetch(512);
        assert_eq!((soon.left, soon.at), (0, slice.ptr_guard().as_ptr().addr() + 1000));
        soon.fetch(512);
        soon.fetch_rest();
        assert_eq!(soon.left, 0);
        Soon::default().fetch_rest();
    }
}
