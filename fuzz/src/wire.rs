// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests as bytes, mostly sensible, written down from the protocol's text and not with the device's own types.

use arbitrary::{Arbitrary, Result, Unstructured};

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
pub const NOKEY: u8 = 0xe0;

/// In-band only.
pub const GET_CRYPTO_CHARACTERISTICS: u32 = 0x1ce00;

/// Every type that the device knows, and some that it does not.
const TYPES: [u32; 20] =
    [0, 1, 4, 8, 11, 13, 14, 27, 28, 29, 30, 31, 32, 33, 34, 35, 2, 3, 16, GET_CRYPTO_CHARACTERISTICS];

/// As many as the bytes make, up to `most`. (`Vec` of `arbitrary` ends at every other byte, on the average.)
pub fn all<'a, T: Arbitrary<'a>>(mut u: Unstructured<'a>, most: usize) -> Vec<T> {
    std::iter::from_fn(|| if u.is_empty() { None } else { u.arbitrary().ok() }).take(most).collect()
}

/// Bytes for the device to read, and room for its answer with the status.
#[derive(Debug, Clone)]
pub struct Request {
    pub readable: Vec<u8>,
    pub room: u32,
}

/// A number that is mostly small, sometimes near the top, sometimes anything.
pub fn number(u: &mut Unstructured<'_>, small: u64) -> Result<u64> {
    Ok(match u.int_in_range(0..=9)? {
        0 => u.arbitrary()?,
        1 => u64::MAX - u.int_in_range(0..=small)?,
        _ => u.int_in_range(0..=small)?,
    })
}

/// A number of bytes: mostly whole sectors.
fn length(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=5)? {
        0 => u.int_in_range(0..=20_000)?,
        _ => 512 * u.int_in_range(0..=40u32)?,
    })
}

impl<'a> Arbitrary<'a> for Request {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let request_type = if u.ratio(1, 20)? { u.arbitrary()? } else { *u.choose(&TYPES)? };
        let mut readable = [&request_type.to_le_bytes()[..], &[0; 4], &number(u, 300)?.to_le_bytes()].concat();
        let mut room = 1;
        match request_type {
            0 => room += length(u)?,
            1 => readable.extend(std::iter::repeat_n(u.arbitrary::<u8>()?, length(u)? as usize)),
            8 => room += u.int_in_range(0..=30)?,
            11 | 13 | 14 => {
                for _ in 0..u.int_in_range(0..=4)? {
                    readable.extend(number(u, 300)?.to_le_bytes());
                    readable.extend((number(u, 40)? as u32).to_le_bytes());
                    readable.extend((number(u, 2)? as u32).to_le_bytes());
                }
            }
            27 | 28 => {
                readable.extend((number(u, 4)? as u32).to_le_bytes());
                readable.extend([0; 4]);
                for _ in 0..4 {
                    readable.extend(number(u, 9)?.to_le_bytes());
                }
                let len = length(u)?;
                if request_type == 28 {
                    room += len;
                } else {
                    readable.extend(std::iter::repeat_n(u.arbitrary::<u8>()?, len as usize));
                }
            }
            30 | 31 => readable.extend(Program::arbitrary(u)?.bytes()),
            29 | 32..=35 | GET_CRYPTO_CHARACTERISTICS => {
                room += u.int_in_range(0..=140)?;
                let size = *u.choose(&[0u32, 16, 32, 64, 68, 128, 129, u32::MAX])?;
                readable.extend(size.to_le_bytes());
                let byte: u8 = u.arbitrary()?;
                readable.extend([byte; 128]);
            }
            _ => readable.extend(u.bytes(u.len().min(40))?),
        }
        if u.ratio(1, 10)? {
            readable.truncate(u.choose_index(readable.len() + 1)?);
        }
        if u.ratio(1, 20)? {
            room = u.int_in_range(0..=3)?;
        }
        Ok(Self { readable, room })
    }
}

/// KEYSLOT_PROGRAM, mostly one that works.
#[derive(Debug, Clone)]
pub struct Program {
    pub slot: u32,
    /// A key that is named by a number: see [`key`].
    pub key: u8,
    pub key_size: u32,
    pub mode: u32,
    pub key_type: u32,
    pub unit_bits: u32,
    pub dun_bytes: u32,
}

/// A key with different halves.
pub fn key(number: u8) -> [u8; 64] {
    std::array::from_fn(|i| number.wrapping_mul(151).wrapping_add((i * i) as u8) ^ i as u8)
}

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut odd = |usual: u32, others: &[u32]| -> Result<u32> {
            Ok(match u.int_in_range(0..=15)? {
                0 => u.arbitrary()?,
                1 => *u.choose(others)?,
                _ => usual,
            })
        };
        let key_size = odd(64, &[0, 32, 63, 65, 128, 129])?;
        let mode = odd(1, &[0, 2, 3, 4])?;
        let key_type = odd(1, &[0, 2, 3])?;
        let unit_bits = if u.ratio(1, 10)? { number(u, 18)? as u32 } else { *u.choose(&[9, 12])? };
        let dun_bytes = if u.ratio(1, 10)? { number(u, 20)? as u32 } else { *u.choose(&[1, 2, 4, 8, 16])? };
        Ok(Self { slot: number(u, 4)? as u32, key: u.arbitrary()?, key_size, mode, key_type, unit_bits, dun_bytes })
    }
}

impl Program {
    /// Header and descriptor.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.slot.to_le_bytes().to_vec();
        bytes.extend(key(self.key));
        bytes.extend([0; 64]);
        for word in [self.key_size, self.mode, self.key_type, self.unit_bits, self.dun_bytes] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}

/// A header.
pub fn header(request_type: u32, sector: u64) -> Vec<u8> {
    [&request_type.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}
