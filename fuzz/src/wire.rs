// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests from arbitrary bytes, most of them valid.

use arbitrary::{Arbitrary, Result, Unstructured};
use test_driver::wire::{self, *};

/// Every type that the device knows, and some that it does not.
const TYPES: [u32; 20] =
    [0, 1, 4, 8, 11, 13, 14, 27, 28, 29, 30, 31, 32, 33, 34, 35, 2, 3, 16, GET_CRYPTO_CHARACTERISTICS];

/// As many elements as the bytes give, up to `most`. (`arbitrary`'s `Vec` ends at every other byte, on average.)
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
        let mut readable = header(request_type, number(u, 300)?);
        let mut room = 1;
        match request_type {
            IN => room += length(u)?,
            OUT => readable.extend(std::iter::repeat_n(u.arbitrary::<u8>()?, length(u)? as usize)),
            GET_ID => room += u.int_in_range(0..=30)?,
            DISCARD | WRITE_ZEROES | SECURE_ERASE => {
                for _ in 0..u.int_in_range(0..=4)? {
                    readable.extend(range(number(u, 300)?, number(u, 40)? as u32, number(u, 2)? as u32));
                }
            }
            CRYPTO_OUT | CRYPTO_IN => {
                let extensions = match u.int_in_range(0..=7)? {
                    0 => Some(u.arbitrary()?),
                    flags @ 1..=2 => Some([u.int_in_range(0..=BLAKE2B_256)?, flags - 1, 0, 0]),
                    _ => None,
                };
                if extensions.is_some() {
                    let extended = if request_type == CRYPTO_IN { CRYPTO_IN_EXT } else { CRYPTO_OUT_EXT };
                    readable.splice(..4, extended.to_le_bytes());
                }
                let [algorithm, flags, ..] = extensions.unwrap_or_default();
                let slot = if flags == 1 { NO_SLOT } else { number(u, 4)? as u32 };
                readable.extend(slot.to_le_bytes());
                readable.extend(extensions.unwrap_or_default());
                for _ in 0..4 {
                    readable.extend(number(u, 9)?.to_le_bytes());
                }
                if flags == 1 {
                    readable.extend(&Program { slot, ..Program::arbitrary(u)? }.command(PROGRAM)[16..]);
                }
                let len = length(u)?;
                if let Some((_, size)) = DIGESTS.iter().find(|(known, _)| *known == algorithm) {
                    room += len / 512 * *size as u32;
                }
                if request_type == CRYPTO_IN {
                    room += len;
                } else {
                    readable.extend(std::iter::repeat_n(u.arbitrary::<u8>()?, len as usize));
                }
            }
            PROGRAM | EVICT => readable.extend(&Program::arbitrary(u)?.command(request_type)[16..]),
            GET_CRYPTO_MODES | DERIVE_SW_SECRET..=PREPARE_KEY | GET_CRYPTO_CHARACTERISTICS => {
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
    /// A command of this type.
    pub fn command(&self, request_type: u32) -> Vec<u8> {
        let Self { slot, key: number, key_size, mode, key_type, unit_bits, dun_bytes } = *self;
        let program =
            wire::Program { key_size, mode, key_type, dun_bytes, ..wire::Program::new(slot, &key(number), unit_bits) };
        program.command(request_type).into()
    }
}
