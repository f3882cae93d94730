// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The configuration space of the PCI function. What the client emulates itself, base addresses for example, is only remembered.
#![forbid(unsafe_code)]

/// Bytes of a conventional configuration space.
pub const CONFIG_BYTES: usize = 256;

const VENDOR_INTEL: u16 = 0x8086;
/// Meteor Lake's controller: one of those for which Linux' ufshcd-pci switches crypto on.
const DEVICE_METEOR_LAKE: u16 = 0x7e47;

/// What can be written: first byte, last byte, bits of each.
const WRITABLE: &[(usize, usize, u8)] = &[
    // Command: memory, bus master; interrupt disable.
    (0x04, 0x04, 0x06),
    (0x05, 0x05, 0x04),
    // Cache line size, latency timer.
    (0x0c, 0x0d, 0xff),
    // BAR 0, whose 64 KiB are aligned.
    (0x12, 0x13, 0xff),
    // Interrupt line.
    (0x3c, 0x3c, 0xff),
];

/// The configuration space.
pub struct ConfigSpace([u8; CONFIG_BYTES]);

impl ConfigSpace {
    /// As after power-on.
    pub fn new() -> Self {
        let mut space = Self([0; CONFIG_BYTES]);
        space.put(0x00, &VENDOR_INTEL.to_le_bytes());
        space.put(0x02, &DEVICE_METEOR_LAKE.to_le_bytes());
        // Class: mass storage, UFS, as UFSHCI has it.
        space.put(0x09, &[0x01, 0x09, 0x01]);
        space.put(0x2c, &VENDOR_INTEL.to_le_bytes());
        space.put(0x2e, &DEVICE_METEOR_LAKE.to_le_bytes());
        // The interrupt pin: INTA.
        space.put(0x3d, &[1]);
        space
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    /// Reads bytes; those that there are not are 0.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.0.get(offset..).unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
        data.iter_mut().zip(there).for_each(|(to, from)| *to = from);
    }

    /// Writes bytes, as far as they can be written.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((place, byte), value) in self.0.iter_mut().enumerate().skip(offset).zip(data) {
            let mask = WRITABLE.iter().find(|(first, last, _)| (*first..=*last).contains(&place));
            let mask = mask.map_or(0, |(_, _, mask)| *mask);
            *byte = *byte & !mask | value & mask;
        }
    }
}

impl Default for ConfigSpace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fixed_stays() {
        let mut space = ConfigSpace::new();
        let before = space.0;
        space.write(0, &[0xff; CONFIG_BYTES]);
        space.write(250, &[0xff; 100]);
        let mut after = [0; CONFIG_BYTES];
        space.read(0, &mut after);
        assert_eq!((after[..4].to_vec(), &after[9..12]), (before[..4].to_vec(), &[1, 9, 1][..]));
        assert_eq!((after[4], after[5], after[0x10..0x14].to_vec()), (6, 4, vec![0, 0, 0xff, 0xff]));
        let mut beyond = [1; 8];
        space.read(252, &mut beyond);
        assert_eq!(beyond, [0; 8]);
    }
}
