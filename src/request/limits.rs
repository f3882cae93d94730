// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The limits of requests, and the check that a transfer lies inside the disk.

use crate::protocol::{SECTOR_SHIFT, Status};

/// Limits of requests, set by the disk and by the negotiated features.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the disk.
    pub capacity: u64,
    /// Bytes of a logical block: data and ranges come in multiples of it.
    pub logical_block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Negotiated feature bits.
    pub features: u64,
    /// How the driver may use keyslots.
    pub crypto: CryptoAccess,
}

/// The most bytes of a read or write: a request cannot be stopped, and somebody may wait for all requests. UEFI firmware reads as much at
/// once (edk2, OvmfPkg/VirtioBlkDxe, `SIZE_1GB`).
const MOST_BYTES: u64 = 1 << 30;
/// The same of an encrypted one, digests included. Linux has at most 4 MiB in a request, if nobody raises `max_sectors_kb`.
pub(super) const MOST_ENCRYPTED_BYTES: u64 = 64 << 20;

/// How a driver may use keyslots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptoAccess {
    /// Not at all.
    None,
    /// With the feature: encrypted requests on the request queues, commands on the control virtqueue.
    ControlQueue,
    /// Encrypted requests and commands on any request queue, for drivers behind a frontend that does not pass the
    /// feature through.
    InBand,
}

/// A range of the disk, inside its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Limits {
    /// Whether a feature is negotiated.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The extent of a read or write.
    pub(super) fn data(&self, sector: u64, len: u64, encrypted: bool) -> Result<Extent, Status> {
        if len > if encrypted { MOST_ENCRYPTED_BYTES } else { MOST_BYTES } {
            return Err(Status::IoErr);
        }
        self.transfer(sector, len)
    }

    /// The extent of `len` bytes from a sector on, if it consists of whole blocks inside the disk.
    pub(super) fn transfer(&self, sector: u64, len: u64) -> Result<Extent, Status> {
        let block = u64::from(self.logical_block_size);
        let sectors = len >> SECTOR_SHIFT;
        let capacity = self.capacity >> SECTOR_SHIFT;
        if sectors > capacity || sector > capacity - sectors {
            return Err(Status::IoErr);
        }
        // Inside the capacity, so the shift loses no bits.
        let offset = sector << SECTOR_SHIFT;
        if !len.is_multiple_of(block) || !offset.is_multiple_of(block) {
            return Err(Status::IoErr);
        }
        Ok(Extent { offset, len })
    }

    pub(super) fn check_writable(&self) -> Result<(), Status> {
        if self.read_only { Err(Status::IoErr) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every offset and length on small disks and near overflow, against a list of the existing sectors.
    #[test]
    fn every_transfer_of_small_disks() {
        for (block, blocks) in [(512, 1u64), (512, 5), (1024, 3), (4096, 1), (4096, 2)] {
            let capacity = block * blocks;
            let limits = Limits {
                capacity,
                logical_block_size: block as u32,
                read_only: false,
                features: 0,
                crypto: CryptoAccess::None,
            };
            let top = |n: u64| u64::MAX - n;
            let sectors = (0..20).chain((0..20).map(top)).chain((50..64).flat_map(|bit| [1 << bit, (1 << bit) - 1]));
            let lens = (0..capacity + 1025).chain((0..1025).map(top)).chain((9..64).map(|bit| 1 << bit));
            for (sector, len) in sectors.flat_map(|sector| lens.clone().map(move |len| (sector, len))) {
                // Block by block: the first must begin at a block, and all must be there.
                let first = (0..=blocks).find(|n| n * block == sector.wrapping_mul(512) && sector < 1 << 20);
                let count = (0..=blocks).find(|n| n * block == len);
                let fits = first.zip(count).filter(|(first, count)| first + count <= blocks);
                let expected = fits.map(|(first, count)| Extent { offset: first * block, len: count * block });
                assert_eq!(limits.transfer(sector, len).ok(), expected, "{block} {blocks} {sector} {len}");
            }
        }
    }

    #[test]
    fn encrypted_requests_are_shorter() {
        let limits = Limits {
            capacity: 4 << 30,
            logical_block_size: 512,
            read_only: false,
            features: 0,
            crypto: CryptoAccess::None,
        };
        for (most, encrypted) in [(1 << 30, false), (64 << 20, true)] {
            assert_eq!(limits.data(8, most, encrypted).ok(), Some(Extent { offset: 4096, len: most }));
            assert_eq!(limits.data(8, most + 512, encrypted).ok(), None);
        }
    }

    proptest! {
        /// The same rule in 128 bits, where nothing overflows.
        #[test]
        fn transfers_stay_inside_the_disk(
            sector in prop_oneof![0u64..40, any::<u64>(), (u64::MAX - 40)..=u64::MAX],
            len in prop_oneof![0u64..20_000, (0u64..40).prop_map(|n| n * 512), any::<u64>()],
            blocks in 1u64..8,
            block_bits in 9u32..13,
        ) {
            let block = 1u64 << block_bits;
            let limits = Limits {
                capacity: blocks * block,
                logical_block_size: block as u32,
                read_only: false,
                features: 0,
                crypto: CryptoAccess::None,
            };
            let start = u128::from(sector) * 512;
            let inside = start + u128::from(len) <= u128::from(limits.capacity);
            let aligned = len % block == 0 && start % u128::from(block) == 0;
            match limits.transfer(sector, len) {
                Ok(extent) => {
                    prop_assert!(inside && aligned);
                    prop_assert_eq!(u128::from(extent.offset), start);
                    prop_assert_eq!(extent.len, len);
                }
                Err(_) => prop_assert!(!inside || !aligned),
            }
        }
    }
}
