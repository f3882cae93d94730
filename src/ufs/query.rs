// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QUERY: the descriptors, attributes and flags of the UFS device.
#![forbid(unsafe_code)]

use zerocopy::IntoBytes;

use super::lu::LogicalUnits;
use super::protocol::{QueryUpiu, UpiuHeader, lun, query, transaction};

/// Number, initial value, whether a driver can write it.
const ATTRIBUTES: &[(u8, u32, bool)] = &[
    (0x00, 0, true),     // bBootLunEn
    (0x02, 0x11, false), // bCurrentPowerMode
    (0x03, 0, true),     // bActiveICCLevel
    (0x04, 0, true),     // bOutOfOrderDataEn
    (0x05, 0, false),    // bBackgroundOpStatus
    (0x06, 0, false),    // bPurgeStatus
    (0x07, 8, true),     // bMaxDataInSize
    (0x08, 8, true),     // bMaxDataOutSize
    (0x0a, 1, true),     // bRefClkFreq
    (0x0b, 0, false),    // bConfigDescrLock
    (0x0c, 2, true),     // bMaxNumOfRTT
    (0x0d, 0, true),     // wExceptionEventControl
    (0x0e, 0, false),    // wExceptionEventStatus
    (0x0f, 0, true),     // dSecondsPassed
    (0x14, 0, false),    // bDeviceFFUStatus
    (0x17, 50, false),   // bRefClkGatingWaitTime, in microseconds
];

/// Number, initial value, whether a driver can write it.
const FLAGS: &[(u8, bool, bool)] = &[
    (FLAG_DEVICE_INIT, false, true),
    (0x02, false, false), // fPermanentWPEn
    (0x03, false, false), // fPowerOnWPEn
    (0x04, true, true),   // fBackgroundOpsEn
    (0x05, false, true),  // fDeviceLifeSpanModeEn
    (0x09, false, false), // fBusyRTC
];
/// The device clears it when it is ready, which is at once.
const FLAG_DEVICE_INIT: u8 = 0x01;

const MANUFACTURER_STRING: u8 = 1;
const PRODUCT_STRING: u8 = 2;
const SERIAL_STRING: u8 = 3;
const OEM_STRING: u8 = 4;
const REVISION_STRING: u8 = 5;

/// The UFS device, as QUERY sees it.
pub struct Query {
    attributes: Vec<u32>,
    flags: Vec<bool>,
}

impl Query {
    /// The state after power-on.
    pub fn new() -> Self {
        let attributes = ATTRIBUTES.iter().map(|(_, value, _)| *value).collect();
        Self { attributes, flags: FLAGS.iter().map(|(_, value, _)| *value).collect() }
    }

    /// Answers a request: the UPIU, with the data that follows it.
    pub fn answer(&mut self, request: &QueryUpiu, units: &LogicalUnits, queue_depth: u8) -> Vec<u8> {
        let (result, value, data) = match self.execute(request, units, queue_depth) {
            Ok((value, data)) => (query::SUCCESS, value, data),
            Err(result) => (result, request.value.get(), Vec::new()),
        };
        let data_length = u16::try_from(data.len()).unwrap_or(0); // at most 255
        let header = UpiuHeader {
            transaction: transaction::QUERY_RESPONSE,
            response: result,
            data_length: data_length.into(),
            ehs_length: 0,
            ..request.header
        };
        let length = if data.is_empty() { request.length } else { data_length.into() };
        let response = QueryUpiu { header, length, value: value.into(), ..*request };
        [response.as_bytes(), &data].concat()
    }

    fn execute(&mut self, request: &QueryUpiu, units: &LogicalUnits, queue_depth: u8) -> Result<(u32, Vec<u8>), u8> {
        let reads =
            matches!(request.opcode, query::NOP | query::READ_DESCRIPTOR | query::READ_ATTRIBUTE | query::READ_FLAG);
        if request.header.function != if reads { query::FUNCTION_READ } else { query::FUNCTION_WRITE } {
            return Err(query::GENERAL_FAILURE);
        }
        match request.opcode {
            query::NOP => Ok((0, Vec::new())),
            query::READ_DESCRIPTOR => {
                let mut data = descriptor(request.idn, request.index, units, queue_depth)?;
                data.truncate(request.length.get().into());
                Ok((0, data))
            }
            query::READ_ATTRIBUTE => self.attribute(request.idn).map(|(value, _)| (*value, Vec::new())),
            query::WRITE_ATTRIBUTE => match self.attribute(request.idn)? {
                (value, true) => {
                    *value = request.value.get();
                    Ok((*value, Vec::new()))
                }
                (_, false) => Err(query::NOT_WRITEABLE),
            },
            query::READ_FLAG => self.flag(request.idn).map(|(value, _)| (u32::from(*value), Vec::new())),
            query::SET_FLAG | query::CLEAR_FLAG | query::TOGGLE_FLAG => match self.flag(request.idn)? {
                (value, true) => {
                    *value = match request.opcode {
                        _ if request.idn == FLAG_DEVICE_INIT => false,
                        query::SET_FLAG => true,
                        query::CLEAR_FLAG => false,
                        _ => !*value,
                    };
                    Ok((u32::from(*value), Vec::new()))
                }
                (_, false) => Err(query::NOT_WRITEABLE),
            },
            _ => Err(query::INVALID_OPCODE),
        }
    }

    fn attribute(&mut self, idn: u8) -> Result<(&mut u32, bool), u8> {
        let known = ATTRIBUTES.iter().zip(&mut self.attributes).find(|((number, ..), _)| *number == idn);
        known.map(|((_, _, writable), value)| (value, *writable)).ok_or(query::INVALID_IDN)
    }

    fn flag(&mut self, idn: u8) -> Result<(&mut bool, bool), u8> {
        let known = FLAGS.iter().zip(&mut self.flags).find(|((number, ..), _)| *number == idn);
        known.map(|((_, _, writable), value)| (value, *writable)).ok_or(query::INVALID_IDN)
    }
}

impl Default for Query {
    fn default() -> Self {
        Self::new()
    }
}

/// A descriptor of `N` bytes with its fields, by offset.
fn fields<const N: usize>(idn: u8, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = [0; N];
    let length = [N as u8, idn]; // at most 98
    for (offset, value) in [(0, &length[..])].iter().chain(fields) {
        bytes.iter_mut().skip(*offset).zip(*value).for_each(|(to, from)| *to = *from);
    }
    bytes.to_vec()
}

fn descriptor(idn: u8, index: u8, units: &LogicalUnits, queue_depth: u8) -> Result<Vec<u8>, u8> {
    Ok(match (idn, index) {
        (0x0, 0) => fields::<89>(
            idn,
            &[
                (0x06, &[units.count(), 4]), // logical units, well-known ones
                (0x0a, &[1, 0x7f]),          // power mode active, the same priority for all
                (0x10, &[0x03, 0x10]),       // UFS 3.1
                (0x14, &[MANUFACTURER_STRING, PRODUCT_STRING, SERIAL_STRING, OEM_STRING]),
                (0x1a, &[0x16, 0x0e]),  // unit descriptors in a configuration descriptor
                (0x1c, &[2]),           // outstanding RTTs
                (0x21, &[queue_depth]), // of all logical units together
                (0x2a, &[REVISION_STRING]),
            ],
        ),
        (0x2, lun::RPMB) => fields::<35>(idn, &[(0x02, &[lun::RPMB, 1]), (0x08, &[0x0f]), (0x0a, &[8])]),
        (0x2, unit) => {
            let unit = units.get(unit).ok_or(query::INVALID_INDEX)?;
            fields::<45>(
                idn,
                &[
                    (0x02, &[index, 1]),                                // its number, enabled
                    (0x05, &[if unit.is_read_only() { 1 } else { 0 }]), // write protected since power-on
                    (0x0a, &[unit.block_bits()]),
                    (0x0b, &unit.blocks().to_be_bytes()),
                    (0x17, &[if unit.can_discard() { 3 } else { 0 }]), // thin provisioning, zeroes
                ],
            )
        }
        (0x4, 0) => fields::<6>(idn, &[(0x02, &[0x01, 0x80, 0x04, 0x10])]), // UniPro 1.8, M-PHY 4.1
        (0x5, MANUFACTURER_STRING) => string(LogicalUnits::VENDOR),
        (0x5, PRODUCT_STRING) => string(LogicalUnits::PRODUCT),
        (0x5, SERIAL_STRING) => string(units.serial()),
        (0x5, OEM_STRING) => string(LogicalUnits::VENDOR),
        (0x5, REVISION_STRING) => string(LogicalUnits::REVISION),
        (0x5, _) => return Err(query::INVALID_INDEX),
        (0x7, 0) => fields::<87>(
            idn,
            &[
                (0x04, &(units.bytes() / 512).to_be_bytes()),
                (0x0d, &0x2000u32.to_be_bytes()), // segments of 4 MiB
                (0x11, &[1, 8, 8, 8, 8, 8]),      // allocation unit, then blocks and buffers of 4 KiB
                (0x17, &[0x40]),
                (0x1e, &[0x80, 0x01]), // normal memory
            ],
        ),
        (0x8, 0) => fields::<98>(idn, &[]),
        (0x9, 0) => fields::<37>(idn, &[(0x02, &[1, 1, 1])]), // all is well
        (0x0 | 0x4 | 0x7..=0x9, _) => return Err(query::INVALID_INDEX),
        _ => return Err(query::INVALID_IDN),
    })
}

/// A string descriptor. The text is ASCII, and short.
fn string(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().take(126).flat_map(u16::to_be_bytes).collect();
    let length = u8::try_from(2 + units.len()).unwrap_or(u8::MAX);
    [&[length, 0x5][..], &units].concat()
}
