// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Resizing an image while it is in use.

#![forbid(unsafe_code)]

use std::io::{self, Seek, SeekFrom};
use std::sync::atomic::Ordering;

use super::Image;
use super::SECTOR_SIZE;

/// Why an image keeps its size. The messages say what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum ResizeError {
    #[error("there is no LUN {lun}; the device has {disks}, counted from 0")]
    NoDisk { lun: usize, disks: usize },
    #[error("an image of 0 bytes cannot be a disk; enlarge it, for example: truncate -s 1G FILE")]
    Empty,
    #[error("{bytes} bytes are not a multiple of the block size {block}{}", next_multiple(*bytes, *block))]
    Blocks { bytes: u64, block: u32 },
    #[error(
        "the disk would shrink from {before} to {bytes} bytes while a frontend is connected, and lose data in use; \
         restore the image's size, or disconnect the frontend first"
    )]
    InUse { before: u64, bytes: u64 },
    #[error(
        "the image has {image} bytes, and the device does not shrink it; shrink it yourself (truncate -s {bytes} \
         FILE) and resize without a size"
    )]
    Cut { image: u64, bytes: u64 },
    #[error(
        "the image is {what}, which the device cannot enlarge; enlarge it yourself, then resize without a size to update \
         the disk"
    )]
    NotOurs { what: &'static str },
    #[error("the image cannot be resized: {0}")]
    System(#[from] io::Error),
}

fn next_multiple(bytes: u64, block: u32) -> String {
    let next = bytes.checked_next_multiple_of(block.into());
    next.map(|next| format!("; the next one that is: {next}")).unwrap_or_default()
}

impl Image {
    /// Takes over the current size of the image; with `wanted`, first enlarges a regular file or a memory disk to that.
    /// Requests see the new [`Image::len`] at once. Returns the bytes before and now.
    ///
    /// This never shrinks an image. Its owner may have truncated it, which is taken over only if it `may_shrink`.
    /// `block` is the logical block size.
    ///
    /// # Errors
    /// [`ResizeError`]; the image and its length are unchanged.
    pub fn resize(&self, wanted: Option<u64>, block: u32, may_shrink: bool) -> Result<(u64, u64), ResizeError> {
        let before = self.len();
        // Nothing else uses the file's position. This also works for block devices.
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
            log::debug!("the new part of the image is not mapped: {error}");
        }
        if bytes < before {
            // If it grows again, there is a hole.
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
