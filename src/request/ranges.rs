// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ranges of DISCARD, WRITE_ZEROES and SECURE_ERASE (virtio 1.4, 5.2.6.2).

use zerocopy::{FromZeros, IntoBytes};

use super::{Extent, Limits, read_front};
use crate::protocol::{RANGE_FLAG_UNMAP, RangeSegment, SECTOR_SHIFT, Status};
use crate::queue::Segments;

/// The most ranges in one request.
pub const MAX_RANGES: u32 = 64;
/// The most sectors in one range: 2 GiB.
pub const MAX_RANGE_SECTORS: u32 = 1 << 22;

/// A range of WRITE_ZEROES.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroRange {
    /// What becomes zero.
    pub extent: Extent,
    /// The space may be given back.
    pub may_deallocate: bool,
}

/// Ranges without flags.
pub(super) fn plain(data: Segments<'_>, limits: &Limits) -> Result<Vec<Extent>, Status> {
    let ranges = parse(data, limits, 0)?;
    Ok(ranges.into_iter().map(|(extent, _)| extent).collect())
}

/// Ranges of WRITE_ZEROES.
pub(super) fn zeroes(data: Segments<'_>, limits: &Limits) -> Result<Vec<ZeroRange>, Status> {
    let ranges = parse(data, limits, RANGE_FLAG_UNMAP)?;
    Ok(ranges
        .into_iter()
        .map(|(extent, flags)| ZeroRange { extent, may_deallocate: flags & RANGE_FLAG_UNMAP != 0 })
        .collect())
}

/// All ranges are checked before the caller touches the first.
fn parse(mut data: Segments<'_>, limits: &Limits, known_flags: u32) -> Result<Vec<(Extent, u32)>, Status> {
    const SIZE: u64 = size_of::<RangeSegment>() as u64; // 16
    let count = data.len() / SIZE;
    if count == 0 || count > u64::from(MAX_RANGES) || !data.len().is_multiple_of(SIZE) {
        return Err(Status::IoErr);
    }
    limits.check_writable()?;
    let mut ranges = Vec::with_capacity(count as usize); // at most MAX_RANGES
    for _ in 0..count {
        let mut range = RangeSegment::new_zeroed();
        if !read_front(&mut data, range.as_mut_bytes()) {
            return Err(Status::IoErr);
        }
        if range.flags.get() & !known_flags != 0 {
            return Err(Status::Unsupp);
        }
        if range.num_sectors.get() > MAX_RANGE_SECTORS {
            return Err(Status::IoErr);
        }
        let extent = limits.transfer(range.sector.get(), u64::from(range.num_sectors.get()) << SECTOR_SHIFT)?;
        if extent.len > 0 {
            ranges.push((extent, range.flags.get()));
        }
    }
    Ok(ranges)
}
