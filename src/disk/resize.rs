// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Another size for an image that is in use.

#![forbid(unsafe_code)]

use std::io::{self, Seek, SeekFrom};
use std::sync::atomic::Ordering;

use super::Image;
use super::SECTOR_SIZE;

/// Why an image keeps its size. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// It is empty now, or would be.
    #[error("an image of 0 bytes cannot be a disk; enlarge it, for example: truncate -s 1G FILE")]
    Empty,
    /// It would not consist of whole blocks.
    #[error(
        "{bytes} bytes are not a multiple of the block size {block}; the next one that is: {}",
        bytes.next_multiple_of(u64::from(*block))
    )]
    Blocks {
        /// Bytes that it was to have.
        bytes: u64,
        /// The logical block size.
        block: u32,
    },
    /// It would be smaller than what the guest knows.
    #[error(
        "the disk would shrink from {before} to {bytes} bytes while a frontend is connected, and data in use be cut off; \
         make the image as large as it was, or let the frontend disconnect first"
    )]
    InUse {
        /// Bytes so far.
        before: u64,
        /// Bytes that it was to have.
        bytes: u64,
    },
    /// The size that was asked for is smaller than the image.
    #[error(
        "the image has {image} bytes, and nothing of it is cut off here; to have less, cut it yourself (truncate -s {bytes} \
         FILE) and resize without a size"
    )]
    Cut {
        /// Bytes of the file.
        image: u64,
        /// Bytes asked for.
        bytes: u64,
    },
    /// A size was asked for that only its owner can give it.
    #[error(
        "the image is {what}, which is not enlarged here; do that where it was made, then resize without a size to have it \
         looked at again"
    )]
    NotOurs {
        /// What it is.
        what: &'static str,
    },
    /// The system's reason.
    #[error("the image cannot be resized: {0}")]
    System(#[from] io::Error),
}

impl Image {
    /// Takes over the size that the image has now; with `wanted`, enlarges a regular file or a memory disk to that before.
    /// Requests see the new [`Image::len`] at once. Returns the bytes before and now.
    ///
    /// An image never shrinks by this: its owner may have cut it, which is taken over only if it `may_shrink`. `block` is the
    /// logical block size.
    ///
    /// # Errors
    /// [`ResizeError`]; the image and its length are as before.
    pub fn resize(&self, wanted: Option<u64>, block: u32, may_shrink: bool) -> Result<(u64, u64), ResizeError> {
        let before = self.len();
        // Nothing else uses the file's position. Works for block devices, too.
        let image = (&self.file).seek(SeekFrom::End(0))?;
        let bytes = wanted.unwrap_or(image);
        if bytes == 0 {
            return Err(ResizeError::Empty);
        }
        if !bytes.is_multiple_of(u64::from(block).max(SECTOR_SIZE)) {
            return Err(ResizeError::Blocks { bytes, block });
        }
        if bytes < before && !may_shrink {
            return Err(ResizeError::InUse { before, bytes });
        }
        if bytes < image {
            return Err(ResizeError::Cut { image, bytes });
        }
        if bytes > image {
            self.enlarge(bytes)?;
        }
        if let Some(mapping) = &self.mapping
            && let Err(error) = mapping.extend(&self.file, bytes)
        {
            log::debug!("what the image has more is not mapped: {error}");
        }
        if bytes < before {
            // When it grows again, there is a hole.
            self.was_discarded(bytes, before - bytes);
        }
        self.len.store(bytes, Ordering::Release);
        Ok((before, bytes))
    }

    fn enlarge(&self, bytes: u64) -> Result<(), ResizeError> {
        if self.is_block_device {
            return Err(ResizeError::NotOurs { what: "a block device" });
        }
        if self.read_only && !self.in_memory {
            return Err(ResizeError::NotOurs { what: "open for reading only" });
        }
        Ok(self.file.set_len(bytes)?)
    }
}
