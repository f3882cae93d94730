// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Private memory between guest memory and the image.

use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a bounce buffer: a multiple of every data unit size, and the most a worker moves in one step.
pub const BOUNCE_BYTES: usize = 1 << 20;

#[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A page-aligned buffer of [`BOUNCE_BYTES`], one per worker, used again for every request.
///
/// Page alignment: copies run at a fraction of their speed on buffers aligned to 16 bytes only.
pub struct Bounce(Box<[Page]>);

impl Bounce {
    /// Allocates the buffer.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Self, zerocopy::AllocError> {
        <[Page]>::new_box_zeroed_with_elems(BOUNCE_BYTES / size_of::<Page>()).map(Self)
    }

    /// The whole buffer.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.0.as_mut_bytes()
    }
}
