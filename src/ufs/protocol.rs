// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every number of UFSHCI 3.1, UFS 3.1 and SCSI that is in use here, as Linux' include/ufs and include/scsi have them.
#![allow(missing_docs)] // names and meanings are the standards'

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian as be, little_endian as le};

/// Offsets of registers in BAR 0.
pub mod register {
    pub const CAP: u64 = 0x00;
    pub const VER: u64 = 0x08;
    pub const HCPID: u64 = 0x10;
    pub const HCMID: u64 = 0x14;
    pub const AHIT: u64 = 0x18;
    pub const IS: u64 = 0x20;
    pub const IE: u64 = 0x24;
    pub const HCS: u64 = 0x30;
    pub const HCE: u64 = 0x34;
    /// The first of the five error registers.
    pub const UECPA: u64 = 0x38;
    pub const UECDME: u64 = 0x48;
    pub const UTRIACR: u64 = 0x4c;
    pub const UTRLBA: u64 = 0x50;
    pub const UTRLBAU: u64 = 0x54;
    pub const UTRLDBR: u64 = 0x58;
    pub const UTRLCLR: u64 = 0x5c;
    pub const UTRLRSR: u64 = 0x60;
    pub const UTRLCNR: u64 = 0x64;
    pub const UTMRLBA: u64 = 0x70;
    pub const UTMRLBAU: u64 = 0x74;
    pub const UTMRLDBR: u64 = 0x78;
    pub const UTMRLCLR: u64 = 0x7c;
    pub const UTMRLRSR: u64 = 0x80;
    pub const UICCMD: u64 = 0x90;
    pub const UCMDARG1: u64 = 0x94;
    pub const UCMDARG2: u64 = 0x98;
    pub const UCMDARG3: u64 = 0x9c;
    pub const CCAP: u64 = 0x100;
    pub const CRYPTOCAP: u64 = 0x104;
    /// Intel's: latency tolerance while active and idle.
    pub const INTEL_ACTIVELTR: u64 = 0x804;
    pub const INTEL_IDLELTR: u64 = 0x808;
    /// The array of crypto configurations; CCAP says where it is, in units of 256 bytes.
    pub const CRYPTOCFG: u64 = 0x1000;
    /// Bytes of a crypto configuration.
    pub const CRYPTOCFG_BYTES: u64 = 128;
}

/// Bytes of BAR 0: room for 256 crypto configurations.
pub const BAR_BYTES: u64 = 0x10000;

/// Bits of IS and IE.
pub mod interrupt {
    pub const TRANSFER_COMPLETION: u32 = 1 << 0;
    pub const UIC_ERROR: u32 = 1 << 2;
    pub const POWER_MODE: u32 = 1 << 4;
    pub const HIBERNATE_EXIT: u32 = 1 << 5;
    pub const HIBERNATE_ENTER: u32 = 1 << 6;
    pub const LINK_LOST: u32 = 1 << 8;
    pub const TASK_COMPLETION: u32 = 1 << 9;
    pub const UIC_COMMAND: u32 = 1 << 10;
    pub const SYSTEM_BUS_FATAL: u32 = 1 << 17;
    pub const CRYPTO_ENGINE_FATAL: u32 = 1 << 18;
}

/// Bits of HCS.
pub mod status {
    pub const DEVICE_PRESENT: u32 = 1 << 0;
    pub const TRANSFER_LIST_READY: u32 = 1 << 1;
    pub const TASK_LIST_READY: u32 = 1 << 2;
    pub const UIC_READY: u32 = 1 << 3;
    /// UPMCRS: the change of the power mode was made.
    pub const POWER_LOCAL: u32 = 1 << 8;
    /// It failed for good.
    pub const POWER_FATAL_ERROR: u32 = 5 << 8;
}

/// Bits of HCE.
pub mod enable {
    pub const CONTROLLER: u32 = 1;
    pub const CRYPTO: u32 = 2;
}

/// Bits of UECPA and UECDL.
pub mod uic_error {
    /// In all of these registers: there is an error.
    pub const ERROR: u32 = 1 << 31;
    /// UECPA: a line was reset.
    pub const LINE_RESET: u32 = 1 << 4;
    /// UECDL: the layer below was initialized anew.
    pub const PA_INIT: u32 = 1 << 13;
}

/// UIC commands, and what they end with.
pub mod uic {
    pub const GET: u32 = 0x01;
    pub const SET: u32 = 0x02;
    pub const PEER_GET: u32 = 0x03;
    pub const PEER_SET: u32 = 0x04;
    pub const ENABLE: u32 = 0x12;
    pub const RESET: u32 = 0x14;
    pub const END_POINT_RESET: u32 = 0x15;
    pub const LINK_STARTUP: u32 = 0x16;
    pub const HIBERNATE_ENTER: u32 = 0x17;
    pub const HIBERNATE_EXIT: u32 = 0x18;
    pub const SUCCESS: u32 = 0;
    pub const FAILURE: u32 = 1;
    pub const INVALID_ATTRIBUTE: u32 = 1;
    pub const PEER_FAILURE: u32 = 8;
}

/// Attributes of UniPro.
pub mod attribute {
    pub const PA_AVAILTXDATALANES: u16 = 0x1520;
    pub const PA_AVAILRXDATALANES: u16 = 0x1540;
    pub const PA_LOCAL_TX_LCC_ENABLE: u16 = 0x155e;
    pub const PA_ACTIVETXDATALANES: u16 = 0x1560;
    pub const PA_CONNECTEDTXDATALANES: u16 = 0x1561;
    pub const PA_TXGEAR: u16 = 0x1568;
    pub const PA_PWRMODE: u16 = 0x1571;
    pub const PA_ACTIVERXDATALANES: u16 = 0x1580;
    pub const PA_CONNECTEDRXDATALANES: u16 = 0x1581;
    pub const PA_RXGEAR: u16 = 0x1583;
    pub const PA_MAXRXPWMGEAR: u16 = 0x1586;
    pub const PA_MAXRXHSGEAR: u16 = 0x1587;
    pub const PA_TACTIVATE: u16 = 0x15a8;
    pub const PA_GRANULARITY: u16 = 0x15aa;
}

/// Overall command status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ocs {
    Success = 0x0,
    InvalidCommandTable = 0x1,
    InvalidPrdt = 0x2,
    MismatchDataSize = 0x3,
    MismatchResponseSize = 0x4,
    CommunicationFailure = 0x5,
    Aborted = 0x6,
    FatalError = 0x7,
    DeviceFatalError = 0x8,
    InvalidCryptoConfiguration = 0x9,
    GeneralCryptoError = 0xa,
}

/// Transaction codes of UPIUs.
pub mod transaction {
    pub const NOP_OUT: u8 = 0x00;
    pub const COMMAND: u8 = 0x01;
    pub const QUERY_REQUEST: u8 = 0x16;
    pub const NOP_IN: u8 = 0x20;
    pub const RESPONSE: u8 = 0x21;
    pub const TASK_RESPONSE: u8 = 0x24;
    pub const QUERY_RESPONSE: u8 = 0x36;
}

/// A response's flags: less data was moved than the driver had expected.
pub const UNDERFLOW: u8 = 0x20;

/// UTP Transfer Request Descriptor.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TransferDescriptor {
    /// Crypto configuration index.
    pub cci: u8,
    pub ehs_length: u8,
    /// Bit 7: crypto enable.
    pub crypto: u8,
    /// Bit 0: interrupt; 1-2: data direction; 4-7: command type.
    pub control: u8,
    pub dun_lower: le::U32,
    pub ocs: u8,
    pub cds: u8,
    pub ldbc: le::U16,
    pub dun_upper: le::U32,
    pub command_descriptor: le::U64,
    /// In units of 4 bytes, as the other offset.
    pub response_length: le::U16,
    pub response_offset: le::U16,
    /// Entries.
    pub prdt_length: le::U16,
    pub prdt_offset: le::U16,
}

impl TransferDescriptor {
    /// Whether the request wants encryption.
    pub fn is_encrypted(&self) -> bool {
        self.crypto & 0x80 != 0
    }
}

/// Where the overall command status is in a descriptor.
pub const OCS_OFFSET: u64 = std::mem::offset_of!(TransferDescriptor, ocs) as u64;
/// Data directions.
pub const TO_DEVICE: u8 = 1;
pub const TO_HOST: u8 = 2;

/// An entry of a physical region description table.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PrdtEntry {
    pub address: le::U64,
    pub reserved: le::U32,
    /// Bytes, less one.
    pub count: le::U32,
}

/// Starts every UPIU.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UpiuHeader {
    pub transaction: u8,
    pub flags: u8,
    pub lun: u8,
    pub tag: u8,
    pub command_set: u8,
    /// Query or task management.
    pub function: u8,
    pub response: u8,
    pub status: u8,
    pub ehs_length: u8,
    pub device_information: u8,
    pub data_length: be::U16,
}

/// COMMAND and the other requests: 32 bytes.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RequestUpiu {
    pub header: UpiuHeader,
    /// Of COMMAND: the bytes that the driver expects to be moved.
    pub expected: be::U32,
    pub cdb: [u8; 16],
}

/// QUERY REQUEST and QUERY RESPONSE.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct QueryUpiu {
    pub header: UpiuHeader,
    pub opcode: u8,
    pub idn: u8,
    pub index: u8,
    pub selector: u8,
    pub reserved: be::U16,
    pub length: be::U16,
    pub value: be::U32,
    pub reserved2: [u8; 8],
}

/// Bytes of sense data.
pub const SENSE_BYTES: usize = 18;

/// RESPONSE with sense data.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ResponseUpiu {
    pub header: UpiuHeader,
    pub residual: be::U32,
    pub reserved: [u8; 16],
    pub sense_length: be::U16,
    pub sense: [u8; SENSE_BYTES],
}

/// UTP Task Management Request Descriptor.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TaskDescriptor {
    pub reserved: [u8; 8],
    pub ocs: u8,
    pub reserved2: [u8; 7],
    pub request: TaskUpiu,
    pub response: TaskUpiu,
}

/// TASK MANAGEMENT REQUEST and RESPONSE.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TaskUpiu {
    pub header: UpiuHeader,
    /// Request: the logical unit. Response: the service response.
    pub parameter1: be::U32,
    /// Request: the task's tag.
    pub parameter2: be::U32,
    pub parameters: [u8; 12],
}

/// Task management functions and service responses.
pub mod task {
    pub const ABORT_TASK: u8 = 0x01;
    pub const ABORT_TASK_SET: u8 = 0x02;
    pub const CLEAR_TASK_SET: u8 = 0x04;
    pub const LOGICAL_UNIT_RESET: u8 = 0x08;
    pub const QUERY_TASK: u8 = 0x80;
    pub const QUERY_TASK_SET: u8 = 0x81;
    pub const COMPLETE: u32 = 0x00;
    pub const NOT_SUPPORTED: u32 = 0x04;
    pub const SUCCEEDED: u32 = 0x08;
    pub const INCORRECT_LUN: u32 = 0x09;
}

/// Query functions, opcodes and results.
pub mod query {
    pub const FUNCTION_READ: u8 = 0x01;
    pub const FUNCTION_WRITE: u8 = 0x81;
    pub const NOP: u8 = 0x0;
    pub const READ_DESCRIPTOR: u8 = 0x1;
    pub const READ_ATTRIBUTE: u8 = 0x3;
    pub const WRITE_ATTRIBUTE: u8 = 0x4;
    pub const READ_FLAG: u8 = 0x5;
    pub const SET_FLAG: u8 = 0x6;
    pub const CLEAR_FLAG: u8 = 0x7;
    pub const TOGGLE_FLAG: u8 = 0x8;
    pub const SUCCESS: u8 = 0x00;
    pub const NOT_WRITEABLE: u8 = 0xf7;
    pub const INVALID_INDEX: u8 = 0xfc;
    pub const INVALID_IDN: u8 = 0xfd;
    pub const INVALID_OPCODE: u8 = 0xfe;
    pub const GENERAL_FAILURE: u8 = 0xff;
}

/// Well-known logical units, as UPIUs number them.
pub mod lun {
    pub const REPORT_LUNS: u8 = 0x81;
    pub const BOOT: u8 = 0xb0;
    pub const RPMB: u8 = 0xc4;
    pub const DEVICE: u8 = 0xd0;
}

/// Operation codes of SCSI commands.
pub mod scsi {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const INQUIRY: u8 = 0x12;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const UNMAP: u8 = 0x42;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const READ_CAPACITY_16: u8 = 0x10;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const GOOD: u8 = 0x00;
    pub const CHECK_CONDITION: u8 = 0x02;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_of_the_standards() {
        assert_eq!(
            (size_of::<TransferDescriptor>(), size_of::<PrdtEntry>(), size_of::<TaskDescriptor>()),
            (32, 16, 80)
        );
        assert_eq!((size_of::<RequestUpiu>(), size_of::<QueryUpiu>(), size_of::<ResponseUpiu>()), (32, 32, 52));
        assert_eq!((size_of::<UpiuHeader>(), size_of::<TaskUpiu>(), OCS_OFFSET), (12, 32, 8));
    }
}
