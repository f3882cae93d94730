// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Descriptions of the device: its regions and interrupts.
#![forbid(unsafe_code)]

use rustix::io::Errno;
use zerocopy::little_endian::U32;

use super::protocol::{DEVICE_FLAG_PCI, DEVICE_FLAG_RESET, DeviceInfo, IrqInfo, RegionInfo, irq, region};

/// Sizes of the device's regions, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regions {
    /// BAR 0.
    pub bar0: u64,
    /// The configuration space.
    pub config: u64,
}

impl Regions {
    /// Size of a region in bytes; 0 if it is not used. `None`: there is no such region.
    pub fn size(&self, index: u32) -> Option<u64> {
        match index {
            region::BAR0 => Some(self.bar0),
            region::CONFIG => Some(self.config),
            index => (index < region::COUNT).then_some(0),
        }
    }

    /// The answer to DEVICE_GET_REGION_INFO.
    ///
    /// # Errors
    /// EINVAL when there is no such region.
    pub fn info(&self, asked: &RegionInfo) -> Result<RegionInfo, Errno> {
        let bytes = self.size(asked.index.get()).ok_or(Errno::INVAL)?;
        let flags = if bytes > 0 { region::READ | region::WRITE } else { 0 };
        let index = asked.index;
        Ok(RegionInfo { argsz: size(asked), flags: flags.into(), index, size: bytes.into(), ..RegionInfo::default() })
    }
}

/// The answer to DEVICE_GET_INFO.
pub fn device(asked: &DeviceInfo) -> DeviceInfo {
    DeviceInfo {
        argsz: size(asked),
        flags: (DEVICE_FLAG_RESET | DEVICE_FLAG_PCI).into(),
        num_regions: region::COUNT.into(),
        num_irqs: irq::COUNT.into(),
    }
}

/// The answer to DEVICE_GET_IRQ_INFO.
///
/// # Errors
/// EINVAL when there is no such index.
pub fn interrupts(asked: &IrqInfo) -> Result<IrqInfo, Errno> {
    let (flags, count) = match asked.index.get() {
        irq::INTX => (irq::EVENTFD | irq::MASKABLE | irq::AUTOMASKED, 1u32),
        index if index < irq::COUNT => (irq::EVENTFD, 0),
        _ => return Err(Errno::INVAL),
    };
    Ok(IrqInfo { argsz: size(asked), flags: flags.into(), index: asked.index, count: count.into() })
}

/// Size of a structure.
fn size<T>(_: &T) -> U32 {
    (size_of::<T>() as u32).into()
}
