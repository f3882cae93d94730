// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A small model of keys and encrypted requests, which encrypts with OpenSSL.

use std::ops::Range;

use arbitrary::{Result, Unstructured};
use test_driver::data::{openssl_xts, openssl_xts_decrypt};
use test_driver::wire::{IOERR, UNSUPP};

use crate::guest::{DATA_UNITS, MAX_DUN_BYTES};
use crate::wire::Program;

/// A key that the device has accepted.
#[derive(Clone, Copy)]
pub struct Key {
    pub key: [u8; 64],
    unit: usize,
    dun_bytes: usize,
}

impl Key {
    /// From the descriptor of a key that has no [`refusals`].
    pub fn new(key: [u8; 64], program: &Program) -> Self {
        Self { key, unit: 1 << program.unit_bits, dun_bytes: program.dun_bytes as usize }
    }

    /// Whether the data is whole data units whose numbers fit in the DUN size.
    pub fn fits(&self, dun: [u64; 4], len: usize) -> bool {
        if len == 0 || !len.is_multiple_of(self.unit) {
            return false;
        }
        // Addition with carry over bytes.
        let mut carry = len / self.unit - 1;
        let last: Vec<u8> = dun
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|byte| {
                let sum = usize::from(byte) + carry;
                carry = sum >> 8;
                sum as u8
            })
            .collect();
        carry == 0 && last[self.dun_bytes..].iter().all(|&byte| byte == 0)
    }
}

/// The statuses with which a key may be refused, whatever its bytes are.
pub fn refusals(program: &Program) -> Vec<u8> {
    let mut refusals = Vec::new();
    let unit = 1u32.checked_shl(program.unit_bits).unwrap_or(0);
    let unsupported = program.mode != 1
        || !(program.key_type == 1 || program.key_type == 2)
        || unit & DATA_UNITS == 0
        || program.dun_bytes > MAX_DUN_BYTES.into();
    if unsupported {
        refusals.push(UNSUPP);
    }
    if program.dun_bytes == 0 {
        refusals.push(IOERR);
    }
    refusals
}

/// The bytes of the disk that a request accesses, if these are whole sectors inside the disk.
pub fn extent(sector: u64, len: usize, disk: usize) -> Option<Range<usize>> {
    let start = u128::from(sector) * 512;
    let fits = len.is_multiple_of(512) && start + len as u128 <= disk as u128;
    fits.then(|| start as usize..start as usize + len)
}

/// Writes data to these bytes of the disk, or reads them.
pub fn transfer(disk: &mut [u8], write: bool, data: &[u8], key: Option<(&Key, [u64; 4])>) -> Vec<u8> {
    let crypt = |xts: fn(&[u8; 64], u128, usize, &[u8]) -> Vec<u8>, data: &[u8]| match key {
        Some((key, dun)) => xts(&key.key, u128::from(dun[1]) << 64 | u128::from(dun[0]), key.unit, data),
        None => data.to_vec(),
    };
    if !write {
        return crypt(openssl_xts_decrypt, disk);
    }
    disk.copy_from_slice(&crypt(openssl_xts, data));
    vec![]
}

/// A DUN close to the maximum of a number of bytes.
pub fn edge(u: &mut Unstructured<'_>) -> Result<[u64; 4]> {
    let size = if u.ratio(1, 5)? { u.int_in_range(1..=32)? } else { *u.choose(&[1, 2, 4, 8, 16])? };
    let mut bytes = [0; 32];
    bytes[..size].fill(0xff);
    bytes[0] -= u.int_in_range(0..=20u8)?;
    Ok(std::array::from_fn(|word| u64::from_le_bytes(std::array::from_fn(|i| bytes[8 * word + i]))))
}
