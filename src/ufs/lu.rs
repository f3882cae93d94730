// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The logical unit that the image is: what is known of it, and the data that SCSI commands ask of that.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::attention::CapacityWatch;
use super::protocol::lun;
use crate::device::Device;
use crate::request::DISCARD_LIMITS;

/// Ranges of an UNMAP command.
pub const MOST_RANGES: u32 = DISCARD_LIMITS.ranges;
/// Bytes that may be asked of a command at once.
pub const MOST_BYTES: u64 = 32 << 20;

const DISK: u8 = 0x00;
const WELL_KNOWN: u8 = 0x1e;
/// Nothing is there.
const NO_UNIT: u8 = 0x7f;

/// Logical unit 0.
pub struct LogicalUnit {
    device: Arc<Device>,
    capacity: CapacityWatch,
}

impl LogicalUnit {
    /// Who makes it.
    pub const VENDOR: &'static str = "VUBC";
    /// What it is.
    pub const PRODUCT: &'static str = "UFS-CRYPTO";
    /// Which of these.
    pub const REVISION: &'static str = "0001";

    /// The device's image.
    pub fn new(device: Arc<Device>) -> Self {
        let capacity = CapacityWatch::new(device.engine().disk().image().len());
        Self { device, capacity }
    }

    /// Whether a command has to fail, because the size is another one than before.
    pub fn has_another_size(&self, opcode: u8) -> bool {
        self.capacity.has_changed(self.bytes(), opcode)
    }

    fn block(&self) -> u32 {
        self.device.settings().engine.logical_block_size
    }

    /// Binary logarithm of the bytes of a block.
    pub fn block_bits(&self) -> u8 {
        self.block().trailing_zeros() as u8 // at most 16
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.device.engine().disk().image().len()
    }

    /// Blocks.
    pub fn blocks(&self) -> u64 {
        self.bytes() >> self.block_bits()
    }

    /// Writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.device.engine().disk().image().read_only()
    }

    /// Space can be given back.
    pub fn can_discard(&self) -> bool {
        self.device.engine().disk().image().can_discard()
    }

    /// A completed write may be in the cache.
    pub fn has_write_cache(&self) -> bool {
        self.device.settings().writeback
    }

    /// Its serial number.
    pub fn serial(&self) -> &str {
        &self.device.settings().engine.serial
    }

    /// INQUIRY.
    pub fn inquiry(&self, unit: u8) -> Vec<u8> {
        let kind = match unit {
            0 => DISK,
            lun::REPORT_LUNS | lun::BOOT | lun::RPMB | lun::DEVICE => WELL_KNOWN,
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
        let disk = unit == 0;
        let body = match page {
            0x00 if disk => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
            0x00 => vec![0x00, 0x80, 0x83],
            0x80 => self.serial().as_bytes().to_vec(),
            0x83 => {
                // T10 vendor identification, in ASCII.
                let name = [&padded::<8>(Self::VENDOR)[..], self.serial().as_bytes()].concat();
                [&[0x02, 0x01, 0x00, u8::try_from(name.len()).ok()?][..], &name].concat()
            }
            0xb0 if disk => {
                let block = u64::from(self.block());
                let blocks = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX).to_be_bytes();
                let range = u64::from(DISCARD_LIMITS.sectors) * 512;
                let (range, ranges) = if self.can_discard() { (blocks(range), MOST_RANGES) } else { ([0; 4], 0) };
                let mut body = vec![0; 60];
                put(&mut body, 4, &blocks(MOST_BYTES));
                put(&mut body, 16, &range);
                put(&mut body, 20, &ranges.to_be_bytes());
                put(&mut body, 24, &1u32.to_be_bytes());
                body
            }
            // Nothing rotates.
            0xb1 if disk => {
                let mut body = vec![0; 60];
                put(&mut body, 0, &[0, 1]);
                body
            }
            // UNMAP, and thin provisioning.
            0xb2 if disk && self.can_discard() => vec![0, 0x80, 2, 0],
            0xb2 if disk => vec![0; 4],
            _ => return None,
        };
        let kind = if disk { DISK } else { WELL_KNOWN };
        let length = u16::try_from(body.len()).ok()?.to_be_bytes();
        Some([&[kind, page][..], &length, &body].concat())
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
        let caching = [0x08, 18, if current && self.has_write_cache() { 4 } else { 0 }];
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

    /// REPORT LUNS. `None`: there is no such list.
    pub fn report_luns(select: u8) -> Option<Vec<u8>> {
        let known = [lun::REPORT_LUNS, lun::BOOT, lun::RPMB, lun::DEVICE].map(|unit| [0xc1, unit & 0x7f]);
        let units: Vec<[u8; 2]> = match select {
            0 => vec![[0, 0]],
            1 => known.to_vec(),
            2 => [&[[0, 0]][..], &known].concat(),
            _ => return None,
        };
        let length = u32::try_from(8 * units.len()).ok()?.to_be_bytes();
        let list = units.iter().flat_map(|[first, second]| [*first, *second, 0, 0, 0, 0, 0, 0]);
        Some(length.into_iter().chain([0; 4]).chain(list).collect())
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
