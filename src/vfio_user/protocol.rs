// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every number of the vfio-user protocol 0.0 that is in use here (QEMU's docs/interop/vfio-user.rst, `<linux/vfio.h>`).
//!
//! The protocol has the host's byte order; all hosts that this program runs on are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Commands.
pub mod command {
    /// The first message of a connection.
    pub const VERSION: u16 = 1;
    /// Guest memory that the device may use.
    pub const DMA_MAP: u16 = 2;
    /// Remove guest memory.
    pub const DMA_UNMAP: u16 = 3;
    /// Describe the device.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// Describe a region.
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// Describe an interrupt index.
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Sets interrupts up.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// Reads registers.
    pub const REGION_READ: u16 = 9;
    /// Writes registers.
    pub const REGION_WRITE: u16 = 10;
    /// Resets the device.
    pub const DEVICE_RESET: u16 = 13;
    /// Several writes of registers in one message.
    pub const REGION_WRITE_MULTI: u16 = 15;
}

/// Bits of [`Header::flags`].
pub mod header_flag {
    /// The bits that tell commands (0) from replies.
    pub const TYPE: u32 = 0xf;
    /// It is a reply.
    pub const REPLY: u32 = 1;
    /// A command that wants no reply.
    pub const NO_REPLY: u32 = 1 << 4;
    /// An error reply.
    pub const ERROR: u32 = 1 << 5;
}

/// Regions of a PCI device, as VFIO numbers them.
pub mod region {
    /// The first base address register.
    pub const BAR0: u32 = 0;
    /// The configuration space.
    pub const CONFIG: u32 = 7;
    /// The number of regions. QEMU asks for all of them, also for those without a size.
    pub const COUNT: u32 = 9;
    /// It can be read.
    pub const READ: u32 = 1;
    /// It can be written.
    pub const WRITE: u32 = 2;
}

/// Interrupt indexes of a PCI device, and what SET_IRQS does with them.
pub mod irq {
    /// The interrupt line.
    pub const INTX: u32 = 0;
    /// How many there are: line, MSI, MSI-X, error, request.
    pub const COUNT: u32 = 5;
    /// It signals an eventfd.
    pub const EVENTFD: u32 = 1;
    /// It can be masked.
    pub const MASKABLE: u32 = 2;
    /// It masks itself when it has signalled.
    pub const AUTOMASKED: u32 = 4;
    /// No data.
    pub const DATA_NONE: u32 = 1;
    /// A byte for each interrupt.
    pub const DATA_BOOL: u32 = 2;
    /// A descriptor for each interrupt.
    pub const DATA_EVENTFD: u32 = 4;
    /// The action: mask.
    pub const ACTION_MASK: u32 = 8;
    /// The action: unmask.
    pub const ACTION_UNMASK: u32 = 16;
    /// The action: signal, or how to.
    pub const ACTION_TRIGGER: u32 = 32;
}

/// `VFIO_DEVICE_FLAGS_RESET`: there is DEVICE_RESET.
pub const DEVICE_FLAG_RESET: u32 = 1;
/// `VFIO_DEVICE_FLAGS_PCI`.
pub const DEVICE_FLAG_PCI: u32 = 2;
/// The device may read a range of guest memory.
pub const DMA_FLAG_READ: u32 = 1;
/// The device may write a range of guest memory.
pub const DMA_FLAG_WRITE: u32 = 2;
/// `VFIO_DMA_UNMAP_FLAG_ALL`.
pub const UNMAP_FLAG_ALL: u32 = 2;

/// Starts every message.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender, and repeated in the reply.
    pub id: U16,
    /// One of [`command`].
    pub command: U16,
    /// Bytes of the message, header included.
    pub size: U32,
    /// Bits of [`header_flag`].
    pub flags: U32,
    /// In an error reply: an errno.
    pub error: U32,
}

/// VERSION, before the JSON text.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Version {
    pub major: U16,
    pub minor: U16,
}

/// DMA_MAP.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DmaMap {
    /// Bytes of this.
    pub argsz: U32,
    /// [`DMA_FLAG_READ`], [`DMA_FLAG_WRITE`].
    pub flags: U32,
    /// Where in the file it begins.
    pub offset: U64,
    /// Where in guest memory it begins.
    pub address: U64,
    /// Bytes.
    pub size: U64,
}

/// DMA_UNMAP, and its reply.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DmaUnmap {
    /// Bytes of the reply.
    pub argsz: U32,
    /// [`UNMAP_FLAG_ALL`] or 0.
    pub flags: U32,
    /// Where in guest memory it begins.
    pub address: U64,
    /// Bytes.
    pub size: U64,
}

/// DEVICE_GET_INFO, and its reply.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DeviceInfo {
    pub argsz: U32,
    pub flags: U32,
    pub num_regions: U32,
    pub num_irqs: U32,
}

/// DEVICE_GET_REGION_INFO, and its reply.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct RegionInfo {
    pub argsz: U32,
    pub flags: U32,
    pub index: U32,
    pub cap_offset: U32,
    pub size: U64,
    pub offset: U64,
}

/// DEVICE_GET_IRQ_INFO, and its reply.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct IrqInfo {
    pub argsz: U32,
    pub flags: U32,
    pub index: U32,
    pub count: U32,
}

/// DEVICE_SET_IRQS, before the data.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct IrqSet {
    pub argsz: U32,
    pub flags: U32,
    pub index: U32,
    pub start: U32,
    pub count: U32,
}

/// REGION_READ, REGION_WRITE and their replies, before the data; also one write of REGION_WRITE_MULTI.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RegionAccess {
    /// Byte of the region.
    pub offset: U64,
    /// One of [`region`].
    pub region: U32,
    /// Bytes.
    pub count: U32,
}

/// One write of REGION_WRITE_MULTI.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OneWrite {
    /// Where to.
    pub access: RegionAccess,
    /// The first [`RegionAccess::count`] bytes count.
    pub data: [u8; 8],
}
