// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Feature bits and the configuration space (virtio 1.4, 5.2.3 and 5.2.4).

use std::sync::atomic::Ordering;

use zerocopy::{FromZeros, IntoBytes};

use super::Device;
use crate::protocol::{CONFIG_WRITEBACK_OFFSET, ConfigSpace, SECTOR_SHIFT, SECTOR_SIZE, feature};
use crate::request::{DISCARD_LIMITS, ERASE_LIMITS, RangeLimits};

/// Descriptors of a request besides its data: header, crypto message, status. A driver may separate the first two.
const OTHER_DESCRIPTORS: u16 = 3;
/// With header and status this fills rings of 128 entries, the default of QEMU and libblkio.
const USUAL_SEG_MAX: u16 = 126;

/// The maximum number of segments for rings of at most `queue_size`. If the user has `asked` for that size, the rings
/// have it.
///
/// A driver reads this number before it sets up its rings, and QEMU even before there is a driver. So only the user
/// knows the size of the rings. A driver whose chains are longer than its ring waits forever for free descriptors.
pub fn seg_max(queue_size: u16, asked: bool) -> u16 {
    let fits = queue_size.saturating_sub(OTHER_DESCRIPTORS).max(1);
    if asked { fits } else { fits.min(USUAL_SEG_MAX) }
}

impl Device {
    pub(super) fn offered_features(&self) -> u64 {
        let mut features = feature::VERSION_1
            | feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::TOPOLOGY
            | feature::FLUSH
            | feature::CONFIG_WCE
            | feature::MQ
            | feature::CTRL_VQ
            | feature::INLINE_ENCRYPTION;
        if self.config.access_platform {
            features |= feature::ACCESS_PLATFORM;
        }
        if self.disk().image().read_only() {
            features |= feature::RO;
        } else {
            features |= feature::WRITE_ZEROES;
            if self.disk().image().can_discard() {
                features |= feature::DISCARD;
            }
            if self.disk().image().can_secure_erase() {
                features |= feature::SECURE_ERASE;
            }
        }
        features
    }

    pub(super) fn config_bytes(&self) -> Vec<u8> {
        let config = &self.config;
        let block_sectors = (u64::from(config.engine.logical_block_size) / SECTOR_SIZE) as u32; // at most 128
        let features = self.offered_features();
        let limits = |feature, limits: RangeLimits| {
            if features & feature != 0 { (limits.sectors, limits.ranges) } else { (0, 0) }
        };
        let (discard_sectors, discard_ranges) = limits(feature::DISCARD, DISCARD_LIMITS);
        let (zero_sectors, zero_ranges) = limits(feature::WRITE_ZEROES, ERASE_LIMITS);
        let (erase_sectors, erase_ranges) = limits(feature::SECURE_ERASE, ERASE_LIMITS);

        let mut space = ConfigSpace::new_zeroed();
        space.capacity.set(self.disk().image().len() >> SECTOR_SHIFT);
        space.seg_max.set(config.seg_max.into());
        space.blk_size.set(config.engine.logical_block_size);
        // Both sizes are powers of two and the physical one is not smaller; the exponent is at most 7.
        space.physical_block_exp =
            (config.physical_block_size.trailing_zeros() - config.engine.logical_block_size.trailing_zeros()) as u8;
        space.min_io_size.set((config.physical_block_size / config.engine.logical_block_size) as u16); // at most 128
        space.writeback = self.writeback.load(Ordering::Acquire).into();
        space.num_queues.set(config.num_queues);
        space.max_discard_sectors.set(discard_sectors);
        space.max_discard_seg.set(discard_ranges);
        space.discard_sector_alignment.set(block_sectors);
        space.max_write_zeroes_sectors.set(zero_sectors);
        space.max_write_zeroes_seg.set(zero_ranges);
        space.write_zeroes_may_unmap = self.disk().image().can_discard().into();
        space.max_secure_erase_sectors.set(erase_sectors);
        space.max_secure_erase_seg.set(erase_ranges);
        space.secure_erase_sector_alignment.set(block_sectors);
        space.crypto = self.engine.capabilities().characteristics();
        space.as_bytes().to_vec()
    }

    /// The driver may write one field, `writeback`, if it has negotiated that. All other writes are ignored.
    pub(super) fn write_config_bytes(&self, offset: u32, data: &[u8]) {
        let byte = CONFIG_WRITEBACK_OFFSET
            .checked_sub(offset)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| data.get(index));
        if let Some(&value) = byte
            && self.may_choose_cache_mode()
        {
            self.chosen_early.store(self.awaits_driver(), Ordering::Release);
            let writeback = value != 0;
            let before = self.writeback.swap(writeback, Ordering::AcqRel);
            if before && !writeback {
                // `flush` logs a failure. Later flushes fail, too, and so do writes: the frontend may not ask again which mode it is.
                let _ = self.flush();
            }
        }
    }
}
