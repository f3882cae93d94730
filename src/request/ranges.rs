// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ranges of DISCARD, WRITE_ZEROES and SECURE_ERASE (virtio 1.4, 5.2.6.2).

use zerocopy::{FromZeros, IntoBytes};

use super::{Extent, Limits};
use crate::protocol::{RANGE_FLAG_UNMAP, RangeSegment, SECTOR_SHIFT, Status};
use crate::segments::Segments;

/// Limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeLimits {
    /// Ranges.
    pub ranges: u32,
    /// Sectors in a range.
    pub sectors: u32,
}

/// DISCARD: freeing space is quick. 2 GiB per range.
pub const DISCARD_LIMITS: RangeLimits = RangeLimits { ranges: 64, sectors: 1 << 22 };
/// WRITE_ZEROES and SECURE_ERASE: if the image has no quick way, every byte is written, and a request cannot be
/// stopped. 64 MiB.
pub const ERASE_LIMITS: RangeLimits = RangeLimits { ranges: 1, sectors: 1 << 17 };

/// A range of WRITE_ZEROES.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroRange {
    /// What becomes zero.
    pub extent: Extent,
    /// The space may be freed.
    pub may_deallocate: bool,
}

/// Parses ranges without flags.
pub(super) fn plain(data: Segments<'_>, limits: &Limits, most: RangeLimits) -> Result<Vec<Extent>, Status> {
    let ranges = parse(data, limits, most, 0)?;
    Ok(ranges.into_iter().map(|(extent, _)| extent).collect())
}

/// Parses ranges of WRITE_ZEROES.
pub(super) fn zeroes(data: Segments<'_>, limits: &Limits) -> Result<Vec<ZeroRange>, Status> {
    let ranges = parse(data, limits, ERASE_LIMITS, RANGE_FLAG_UNMAP)?;
    Ok(ranges
        .into_iter()
        .map(|(extent, flags)| ZeroRange { extent, may_deallocate: flags & RANGE_FLAG_UNMAP != 0 })
        .collect())
}

/// Checks all ranges before the caller uses the first.
fn parse(
    mut data: Segments<'_>,
    limits: &Limits,
    most: RangeLimits,
    known_flags: u32,
) -> Result<Vec<(Extent, u32)>, Status> {
    const SIZE: u64 = size_of::<RangeSegment>() as u64; // 16
    let count = data.len() / SIZE;
    if count == 0 || count > u64::from(most.ranges) || !data.len().is_multiple_of(SIZE) {
        return Err(Status::IoErr);
    }
    limits.check_writable()?;
    let mut ranges = Vec::with_capacity(count as usize); // at most `most.ranges`
    for _ in 0..count {
        let mut range = RangeSegment::new_zeroed();
        if !data.read_front(range.as_mut_bytes()) {
            return Err(Status::IoErr);
        }
        if range.flags.get() & !known_flags != 0 {
            return Err(Status::Unsupp);
        }
        if range.num_sectors.get() > most.sectors {
            return Err(Status::IoErr);
        }
        let extent = limits.transfer(range.sector.get(), u64::from(range.num_sectors.get()) << SECTOR_SHIFT)?;
        if extent.len > 0 {
            ranges.push((extent, range.flags.get()));
        }
    }
    Ok(ranges)
}
