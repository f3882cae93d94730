// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The logical units, one for each image: what is known of them, and the data that SCSI commands ask for.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::attention::CapacityWatch;
use super::protocol::lun;
use crate::device::Device;
use crate::disk::{Disk, Image};
use crate::request::DISCARD_LIMITS;

/// The maximum number of ranges in an UNMAP command.
pub const MOST_RANGES: u32 = DISCARD_LIMITS.ranges;
/// The maximum number of bytes of an UNMAP, all ranges together.
pub const MOST_UNMAPPED: u64 = DISCARD_LIMITS.sectors as u64 * 512;
/// The maximum number of bytes that a command transfers.
pub const MOST_BYTES: u64 = 32 << 20;
/// The maximum number of logical units.
pub const MOST_LUNS: usize = 8;

const DISK: u8 = 0x00;
const WELL_KNOWN: u8 = 0x1e;
/// Nothing is there.
const NO_UNIT: u8 = 0x7f;

/// The logical units of a device.
pub struct LogicalUnits {
    device: Arc<Device>,
    /// Those that are disks, by their numbers.
    disks: Vec<LogicalUnit>,
}

impl LogicalUnits {
    /// Vendor identification.
    pub const VENDOR: &'static str = "VUBC";
    /// Product identification.
    pub const PRODUCT: &'static str = "UFS-CRYPTO";
    /// Product revision level.
    pub const REVISION: &'static str = "0001";

    /// One for each disk of the device.
    pub fn new(device: Arc<Device>) -> Self {
        let disks = (0u8..).zip(device.engine().disks().take(MOST_LUNS)).map(|(number, disk)| {
            let serial = device.settings().engine.serial.clone();
            // Two units must not have one name.
            let serial = if number == 0 { serial } else { format!("{serial}-{number}") };
            let capacity = CapacityWatch::new(disk.image().len());
            LogicalUnit { device: Arc::clone(&device), disk: Arc::clone(disk), serial, capacity }
        });
        Self { disks: disks.collect(), device }
    }

    /// A disk.
    pub fn get(&self, unit: u8) -> Option<&LogicalUnit> {
        self.disks.get(usize::from(unit))
    }

    /// How many disks there are.
    pub fn count(&self) -> u8 {
        self.disks.len() as u8 // at most `MOST_LUNS`
    }

    /// Bytes of all disks.
    pub fn bytes(&self) -> u64 {
        self.disks.iter().fold(0, |sum, unit| sum.saturating_add(unit.bytes()))
    }

    /// Whether there is such a unit, be it a disk or a well-known one.
    pub fn has(&self, unit: u8) -> bool {
        self.get(unit).is_some() || is_well_known(unit)
    }

    /// Serial number of the device.
    pub fn serial(&self) -> &str {
        &self.device.settings().engine.serial
    }

    /// Whether completed writes may be in a volatile cache.
    pub fn has_write_cache(&self) -> bool {
        self.device.settings().writeback
    }

    /// INQUIRY.
    pub fn inquiry(&self, unit: u8) -> Vec<u8> {
        let kind = match unit {
            _ if self.get(unit).is_some() => DISK,
            _ if is_well_known(unit) => WELL_KNOWN,
            _ => NO_UNIT,
        };
        // SPC-4, with command queuing.
        let mut data = vec![kind, 0, 6, 2, 31, 0, 0, 2];
        data.extend(padded::<8>(Self::VENDOR));
        data.extend(padded::<16>(Self::PRODUCT));
        data.extend(padded::<4>(Self::REVISION));
        data
    }

    /// A page of vital product data. `None`: there is no such page.
    pub fn vital_data(&self, unit: u8, page: u8) -> Option<Vec<u8>> {
        let disk = self.get(unit);
        let serial = disk.map_or(self.serial(), |disk| &disk.serial);
        let body = match (page, disk) {
            (0x00, Some(_)) => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
            (0x00, None) => vec![0x00, 0x80, 0x83],
            (0x80, _) => serial.as_bytes().to_vec(),
            (0x83, _) => {
                // T10 vendor identification, in ASCII.
                let name = [&padded::<8>(Self::VENDOR)[..], serial.as_bytes()].concat();
                [&[0x02, 0x01, 0x00, u8::try_from(name.len()).ok()?][..], &name].concat()
            }
            (page, disk) => disk?.vital_data(page)?,
        };
        let kind = if disk.is_some() { DISK } else { WELL_KNOWN };
        let length = u16::try_from(body.len()).ok()?.to_be_bytes();
        Some([&[kind, page][..], &length, &body].concat())
    }

    /// REPORT LUNS. `None`: there is no such list.
    pub fn report_luns(&self, select: u8) -> Option<Vec<u8>> {
        let disks = (0..self.count()).map(|number| [0, number]);
        let known = [lun::REPORT_LUNS, lun::BOOT, lun::RPMB, lun::DEVICE].map(|unit| [0xc1, unit & 0x7f]);
        let units: Vec<[u8; 2]> = match select {
            0 => disks.collect(),
            1 => known.to_vec(),
            2 => disks.chain(known).collect(),
            _ => return None,
        };
        let length = u32::try_from(8 * units.len()).ok()?.to_be_bytes();
        let list = units.iter().flat_map(|[first, second]| [*first, *second, 0, 0, 0, 0, 0, 0]);
        Some(length.into_iter().chain([0; 4]).chain(list).collect())
    }
}

fn is_well_known(unit: u8) -> bool {
    matches!(unit, lun::REPORT_LUNS | lun::BOOT | lun::RPMB | lun::DEVICE)
}

/// A logical unit that is a disk.
pub struct LogicalUnit {
    device: Arc<Device>,
    disk: Arc<Disk>,
    serial: String,
    capacity: CapacityWatch,
}

impl LogicalUnit {
    /// Whether a command has to fail, because the size is another one than before.
    pub fn has_another_size(&self, opcode: u8) -> bool {
        self.capacity.has_changed(self.bytes(), opcode)
    }

    fn image(&self) -> &Image {
        self.disk.image()
    }

    fn block(&self) -> u32 {
        self.device.settings().engine.logical_block_size
    }

    /// Binary logarithm of the bytes of a block.
    pub fn block_bits(&self) -> u8 {
        self.block().trailing_zeros() as u8 // at most 16
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.image().len()
    }

    /// Its size in blocks.
    pub fn blocks(&self) -> u64 {
        self.bytes() >> self.block_bits()
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.image().read_only()
    }

    /// Whether UNMAP frees space.
    pub fn can_discard(&self) -> bool {
        self.image().can_discard()
    }

    /// The body of a page of vital product data that only disks have.
    fn vital_data(&self, page: u8) -> Option<Vec<u8>> {
        let mut body = vec![0; 60];
        match page {
            0xb0 => {
                let block = u64::from(self.block());
                let blocks = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX).to_be_bytes();
                let (range, ranges) =
                    if self.can_discard() { (blocks(MOST_UNMAPPED), MOST_RANGES) } else { ([0; 4], 0) };
                put(&mut body, 4, &blocks(MOST_BYTES));
                put(&mut body, 16, &range);
                put(&mut body, 20, &ranges.to_be_bytes());
                put(&mut body, 24, &1u32.to_be_bytes());
            }
            // A medium that does not rotate.
            0xb1 => put(&mut body, 0, &[0, 1]),
            // UNMAP, and thin provisioning.
            0xb2 if self.can_discard() => body = vec![0, 0x80, 2, 0],
            0xb2 => body = vec![0; 4],
            _ => return None,
        }
        Some(body)
    }

    /// READ CAPACITY(10).
    pub fn capacity_10(&self) -> Vec<u8> {
        let last = u32::try_from(self.blocks().saturating_sub(1)).unwrap_or(u32::MAX);
        [last.to_be_bytes(), self.block().to_be_bytes()].concat()
    }

    /// READ CAPACITY(16).
    pub fn capacity_16(&self) -> Vec<u8> {
        let settings = self.device.settings();
        let exponent = settings.physical_block_size.trailing_zeros().saturating_sub(self.block().trailing_zeros());
        let mut data = vec![0; 32];
        put(&mut data, 0, &self.blocks().saturating_sub(1).to_be_bytes());
        put(&mut data, 8, &self.block().to_be_bytes());
        put(&mut data, 13, &[exponent as u8, if self.can_discard() { 0x80 } else { 0 }]); // at most 7
        data
    }

    /// MODE SENSE(10). `None`: there is no such page.
    pub fn mode_sense(&self, page_control: u8, page: u8) -> Option<Vec<u8>> {
        let current = page_control != 1;
        // Write cache enable.
        let caching = [0x08, 18, if current && self.device.settings().writeback { 4 } else { 0 }];
        let caching = caching.into_iter().chain(std::iter::repeat_n(0, 17));
        let control = [0x0a, 10].into_iter().chain(std::iter::repeat_n(0, 10));
        let pages: Vec<u8> = match page {
            0x08 => caching.collect(),
            0x0a => control.collect(),
            0x3f => caching.chain(control).collect(),
            _ => return None,
        };
        let length = u16::try_from(6 + pages.len()).ok()?.to_be_bytes();
        // Write protection, and FUA.
        let parameter = if self.is_read_only() { 0x90 } else { 0x10 };
        Some([&length[..], &[0, parameter, 0, 0, 0, 0], &pages].concat())
    }
}

fn put(data: &mut [u8], offset: usize, bytes: &[u8]) {
    data.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [b' '; N];
    put(&mut bytes, 0, text.as_bytes());
    bytes
}
