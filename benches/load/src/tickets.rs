// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests and commands in memory: written once for each ticket, later only the fields that change.

use anyhow::{Context, Result, ensure};
use test_driver::WRITE;
use test_driver::wire::{
    CRYPTO_IN, CRYPTO_IN_EXT, CRYPTO_OUT, CRYPTO_OUT_EXT, IN, KeyedRequest, NO_SLOT, OK, OUT, PROGRAM, Program, SECTOR,
    crypto_header, header,
};

use crate::memory::Memory;
use crate::ring::Ring;

/// Number of the request ring in [`Memory`].
const REQUESTS: usize = 0;
/// Number of the control ring.
const CONTROL: usize = 1;
/// No status of the protocol: the byte's value before the device has written it.
const NO_STATUS: u8 = 0x7f;
/// Offset of the sector in the header.
const SECTOR_AT: u64 = 8;
/// Offset of the DUN's first word behind the header and the keyslot.
const DUN_AT: u64 = 24;
/// Offset of the key in a request: behind the header, the crypto message and the descriptor's slot.
const KEY_AT: u64 = 16 + 40 + 4;

/// The bytes of an AES-256-XTS key.
pub type Key = [u8; KEY_BYTES];
const KEY_BYTES: usize = 64;

/// How requests are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crypto {
    /// Keyslot; [`NO_SLOT`] for requests that carry their keys.
    pub slot: u32,
    /// Binary logarithm of the data unit size.
    pub unit_bits: u32,
}

impl Crypto {
    /// Whether each request carries its key.
    pub fn is_keyed(self) -> bool {
        self.slot == NO_SLOT
    }
}

/// Lays out ticket `ticket` of the request queue as a read or write of `block` bytes. [`bring_key`] writes
/// the key, if the request carries one.
pub fn describe(
    memory: &Memory,
    ring: &Ring<'_>,
    ticket: u16,
    write: bool,
    block: u32,
    crypto: Option<Crypto>,
) -> Result<()> {
    let bytes = match crypto {
        None => header(if write { OUT } else { IN }, 0),
        Some(crypto) if crypto.is_keyed() => {
            let mut request =
                KeyedRequest::new(if write { CRYPTO_OUT_EXT } else { CRYPTO_IN_EXT }, 0, 0, &[0; KEY_BYTES]);
            request.key.unit_bits = crypto.unit_bits;
            request.bytes()
        }
        Some(crypto) => crypto_header(if write { CRYPTO_OUT } else { CRYPTO_IN }, 0, crypto.slot, [0; 4]),
    };
    let (at, status) = (Memory::header(REQUESTS, ticket), Memory::status(REQUESTS, ticket));
    memory.write(at, &bytes)?;
    let data = (memory.data(ticket), block, if write { 0 } else { WRITE });
    ring.describe(ticket, &[(at, bytes.len() as u32, 0), data, (status, 1, WRITE)])
}

/// Puts the key into a request that carries it.
pub fn bring_key(memory: &Memory, ticket: u16, key: &Key) -> Result<()> {
    memory.write(Memory::header(REQUESTS, ticket) + KEY_AT, key)
}

/// Queues a described request at byte `offset` of the disk. The DUN is the number of the data unit on the disk.
pub fn submit(memory: &Memory, ring: &mut Ring<'_>, ticket: u16, offset: u64, crypto: Option<Crypto>) -> Result<()> {
    let at = Memory::header(REQUESTS, ticket);
    memory.at(at + SECTOR_AT)?.store((offset / SECTOR as u64).to_le());
    if let Some(crypto) = crypto {
        memory.at(at + DUN_AT)?.store((offset >> crypto.unit_bits).to_le());
    }
    memory.at(Memory::status(REQUESTS, ticket))?.store(NO_STATUS);
    ring.add(ticket);
    Ok(())
}

/// Lays out a KEYSLOT_PROGRAM command and queues it.
pub fn program(memory: &Memory, ring: &mut Ring<'_>, ticket: u16, crypto: Crypto, key: &Key) -> Result<()> {
    let command = Program::new(crypto.slot, key, crypto.unit_bits).command(PROGRAM);
    let (at, status) = (Memory::header(CONTROL, ticket), Memory::status(CONTROL, ticket));
    memory.write(at, &command)?;
    memory.at(status)?.store(NO_STATUS);
    ring.describe(ticket, &[(at, command.len() as u32, 0), (status, 1, WRITE)])?;
    ring.add(ticket);
    Ok(())
}

/// Fails unless the device has reported success of a request.
pub fn check(memory: &Memory, ticket: u16) -> Result<()> {
    check_status(memory, Memory::status(REQUESTS, ticket)).context("a request failed")
}

/// Fails unless the device has reported success of a command.
pub fn check_command(memory: &Memory, ticket: u16) -> Result<()> {
    check_status(memory, Memory::status(CONTROL, ticket)).context("programming a keyslot failed")
}

fn check_status(memory: &Memory, at: u64) -> Result<()> {
    let status: u8 = memory.at(at)?.load();
    ensure!(status != NO_STATUS, "the device returned it without a status");
    ensure!(status == OK, "status {status:#x}");
    Ok(())
}
