// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Parses SCSI command descriptor blocks.
#![forbid(unsafe_code)]

use super::lu::{LogicalUnit, LogicalUnits, MOST_BYTES, MOST_RANGES, MOST_UNMAPPED};
use super::protocol::{SENSE_BYTES, scsi};
use crate::request::Extent;

/// Sense key, additional sense code and its qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense(pub u8, pub u8, pub u8);

impl Sense {
    /// No sense: all is well.
    pub const NONE: Self = Self(0, 0, 0);
    /// The command does not exist.
    pub const INVALID_COMMAND: Self = Self(5, 0x20, 0);
    /// The blocks do not exist.
    pub const OUT_OF_RANGE: Self = Self(5, 0x21, 0);
    /// A field of the command is invalid.
    pub const INVALID_FIELD: Self = Self(5, 0x24, 0);
    /// There is no such logical unit.
    pub const NO_UNIT: Self = Self(5, 0x25, 0);
    /// A parameter is invalid.
    pub const INVALID_PARAMETER: Self = Self(5, 0x26, 0);
    /// Unit attention: READ CAPACITY has another answer.
    pub const CAPACITY_CHANGED: Self = Self(6, 0x2a, 9);
    /// Writes are refused.
    pub const WRITE_PROTECTED: Self = Self(7, 0x27, 0);
    /// The disk is full.
    pub const NO_SPACE: Self = Self(7, 0x27, 7);
    /// Unrecovered read error.
    pub const READ_ERROR: Self = Self(3, 0x11, 0);
    /// Write error.
    pub const WRITE_ERROR: Self = Self(3, 0x0c, 0);

    /// As fixed-format sense data.
    pub fn bytes(self) -> [u8; SENSE_BYTES] {
        let Self(key, code, qualifier) = self;
        [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0]
    }
}

/// What a command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Read these bytes.
    Read(Extent),
    /// Write these bytes. `true`: with FUA, they must be durable before the command completes.
    Write(Extent, bool),
    /// SYNCHRONIZE CACHE.
    Flush,
    /// UNMAP, with so many bytes of parameters.
    Unmap(u16),
    /// MODE SELECT, with so many bytes of parameters.
    ModeSelect(u16),
    /// Return this data.
    Data(Vec<u8>),
    /// Nothing: the command succeeds.
    Good,
}

/// Parses a command for a logical unit.
///
/// # Errors
/// The sense data that says why it fails.
pub fn parse(units: &LogicalUnits, unit: u8, cdb: &[u8; 16]) -> Result<Command, Sense> {
    let (byte, number) = (|place| byte(cdb, place), |first, bytes| number(cdb, first, bytes));
    let known = units.has(unit);
    match byte(0) {
        scsi::INQUIRY if byte(1) & 1 == 0 && byte(2) == 0 => answer(Some(units.inquiry(unit)), number(3, 2)),
        scsi::INQUIRY if byte(1) & 1 == 1 && known => answer(units.vital_data(unit, byte(2)), number(3, 2)),
        scsi::INQUIRY => Err(Sense::INVALID_FIELD),
        scsi::REQUEST_SENSE => {
            let sense = if known { Sense::NONE } else { Sense::NO_UNIT };
            answer(Some(sense.bytes().to_vec()), number(4, 1))
        }
        scsi::REPORT_LUNS => answer(units.report_luns(byte(2)), number(6, 4)),
        _ if !known => Err(Sense::NO_UNIT),
        // Changes of the power mode have no effect.
        scsi::TEST_UNIT_READY | scsi::START_STOP_UNIT => Ok(Command::Good),
        _ => block_command(units.get(unit).ok_or(Sense::INVALID_COMMAND)?, cdb),
    }
}

/// Parses a command that only disks have.
fn block_command(lu: &LogicalUnit, cdb: &[u8; 16]) -> Result<Command, Sense> {
    let (byte, number) = (|place| byte(cdb, place), |first, bytes| number(cdb, first, bytes));
    // Fields of 2 bytes.
    let short = |first| number(first, 2) as u16;
    match byte(0) {
        scsi::READ_CAPACITY_10 => answer(Some(lu.capacity_10()), 8),
        scsi::SERVICE_ACTION_IN_16 if byte(1) & 0x1f == scsi::READ_CAPACITY_16 => {
            answer(Some(lu.capacity_16()), number(10, 4))
        }
        scsi::MODE_SENSE_10 => answer(lu.mode_sense(byte(2) >> 6, byte(2) & 0x3f), number(7, 2)),
        scsi::MODE_SELECT_10 => Ok(Command::ModeSelect(short(7))),
        scsi::READ_10 => Ok(Command::Read(extent(lu, number(2, 4), number(7, 2))?)),
        scsi::READ_16 => Ok(Command::Read(extent(lu, number(2, 8), number(10, 4))?)),
        scsi::WRITE_10 => write(lu, number(2, 4), number(7, 2), byte(1)),
        scsi::WRITE_16 => write(lu, number(2, 8), number(10, 4), byte(1)),
        scsi::SYNCHRONIZE_CACHE_10 | scsi::SYNCHRONIZE_CACHE_16 => Ok(Command::Flush),
        scsi::UNMAP if lu.can_discard() => {
            if lu.is_read_only() {
                Err(Sense::WRITE_PROTECTED)
            } else {
                Ok(Command::Unmap(short(7)))
            }
        }
        _ => Err(Sense::INVALID_COMMAND),
    }
}

fn byte(cdb: &[u8; 16], place: usize) -> u8 {
    cdb.get(place).copied().unwrap_or(0)
}

fn number(cdb: &[u8; 16], first: usize, bytes: usize) -> u64 {
    cdb.iter().skip(first).take(bytes).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Data, cut to the length that the driver has allocated.
fn answer(data: Option<Vec<u8>>, most: u64) -> Result<Command, Sense> {
    let mut data = data.ok_or(Sense::INVALID_FIELD)?;
    data.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(Command::Data(data))
}

fn write(lu: &LogicalUnit, first: u64, blocks: u64, flags: u8) -> Result<Command, Sense> {
    let extent = extent(lu, first, blocks)?;
    if lu.is_read_only() {
        return Err(Sense::WRITE_PROTECTED);
    }
    Ok(Command::Write(extent, flags & 0x08 != 0))
}

/// The bytes of blocks, if there are so many.
fn extent(lu: &LogicalUnit, first: u64, blocks: u64) -> Result<Extent, Sense> {
    let there = lu.blocks();
    if blocks > there || first > there - blocks {
        return Err(Sense::OUT_OF_RANGE);
    }
    // Inside the disk, so the shifts lose no bits.
    let (offset, len) = (first << lu.block_bits(), blocks << lu.block_bits());
    if len > MOST_BYTES { Err(Sense::INVALID_FIELD) } else { Ok(Extent { offset, len }) }
}

/// The ranges of UNMAP's parameters (SBC-4, UNMAP command).
///
/// # Errors
/// The sense data, if any of them is invalid.
pub fn ranges(lu: &LogicalUnit, parameters: &[u8]) -> Result<Vec<Extent>, Sense> {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let length = parameters.get(2..4).map(number).ok_or(Sense::INVALID_PARAMETER)?;
    let list = parameters.get(8..).unwrap_or_default();
    let list = list.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(list);
    let count = list.len() / 16;
    if count as u64 > MOST_RANGES.into() {
        return Err(Sense::INVALID_PARAMETER);
    }
    let (mut extents, mut bytes) = (Vec::with_capacity(count), 0); // at most `MOST_RANGES`
    for range in list.chunks_exact(16) {
        let (first, rest) = range.split_at(8);
        let (first, blocks) = (number(first), number(rest.get(..4).unwrap_or_default()));
        let there = lu.blocks();
        if blocks > there || first > there - blocks {
            return Err(Sense::OUT_OF_RANGE);
        }
        if blocks > 0 {
            let extent = Extent { offset: first << lu.block_bits(), len: blocks << lu.block_bits() };
            bytes += extent.len; // at most 64 ranges of 2^32 blocks
            extents.push(extent);
        }
    }
    if bytes > MOST_UNMAPPED {
        return Err(Sense::INVALID_PARAMETER);
    }
    Ok(extents)
}
