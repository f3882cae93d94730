// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers of a UFS host controller, written and read in any order and width: no part of a key can be read, and after a reset
//! everything works.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::ufs::{BLOCK, KEYSLOTS, MEMORY, MEMORY_BYTES, reg, with_ufs};
use crate::wire::{all, number};

const BAR_BYTES: u64 = 0x10000;

#[derive(Debug, Arbitrary)]
enum Op {
    Set(Register, Value),
    Get(Register),
    Read { offset: u16, len: u8 },
    Write { offset: u16, data: [u8; 16], len: u8 },
    Poke { place: u16, value: u32 },
    Program { slot: u8, key: u8, config: Config },
    Enable,
    Reset,
    Remap,
}

/// Mostly one that there is.
#[derive(Debug, Clone, Copy)]
struct Register(u64);

impl<'a> Arbitrary<'a> for Register {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0..=9)? {
            0 => 4 * u.int_in_range(0..=BAR_BYTES / 4 - 1)?,
            1..=3 => reg::CRYPTO + 4 * u.int_in_range(0..=32 * u64::from(KEYSLOTS) + 4)?,
            4 => *u.choose(&[0x100, 0x104, 0x804, 0x808])?,
            _ => 4 * u.int_in_range(0..=0x28)?,
        }))
    }
}

#[derive(Debug, Clone, Copy)]
struct Value(u32);

impl<'a> Arbitrary<'a> for Value {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0..=3)? {
            0 => u.arbitrary()?,
            1 => MEMORY as u32 + u.int_in_range(0..=MEMORY_BYTES as u32)?,
            2 => *u.choose(&[0, 1, 2, 3, 0x16, 0x17, 0x18, 0x1571 << 16, 1 << 31, u32::MAX])?,
            _ => number(u, 31).map(|bit| 1u32.checked_shl(bit as u32).unwrap_or(0))?,
        }))
    }
}

/// Dword 16.
#[derive(Debug, Clone, Copy)]
struct Config(u32);

impl<'a> Arbitrary<'a> for Config {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(if u.ratio(1, 4)? { u.arbitrary()? } else { *u.choose(&[0, 1 << 31 | 1, 1 << 31 | 8, 8])? }))
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let ops = all::<Op>(Unstructured::new(bytes), 60);
    with_ufs(|ufs| {
        for op in ops {
            if crate::shown() {
                println!("{op:?}");
            }
            match op {
                Op::Set(Register(register), Value(value)) => ufs.set(register, value),
                Op::Get(Register(register)) => {
                    let value = ufs.get(register);
                    assert!(value == 0 || !is_key(register), "{register:#x} is a part of a key");
                }
                Op::Read { offset, len } => {
                    let len = usize::from(len).clamp(1, BLOCK).min(usize::from(u16::MAX - offset) + 1);
                    let data = ufs.read(offset.into(), len);
                    assert_eq!(data.len(), len);
                    let mut keys = (u64::from(offset)..).zip(&data).filter(|(place, _)| is_key(*place));
                    assert!(keys.all(|(_, byte)| *byte == 0), "{offset:#x} has a part of a key");
                }
                Op::Write { offset, data, len } => {
                    let len = usize::from(len % 16) + 1;
                    ufs.write(offset.into(), &data[..len.min(usize::from(u16::MAX - offset) + 1)]);
                }
                Op::Poke { place, value } => ufs.set_memory(MEMORY + 4 * u64::from(place), &value.to_le_bytes()),
                Op::Program { slot, key, config: Config(config) } => ufs.program((slot % 4).into(), key, config),
                Op::Enable => ufs.enable(),
                Op::Reset => ufs.function_reset(),
                Op::Remap => ufs.remap(),
            }
        }
    });
}

/// Dwords 0 to 15 of a configuration.
fn is_key(offset: u64) -> bool {
    offset >= reg::CRYPTO && (offset - reg::CRYPTO) % 128 < 64
}
