// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests and commands in memory: laid out once for each ticket, then only what differs is written.

use anyhow::{Context, Result, ensure};
use vhost_user_blk_crypto::protocol::{
    AES_256_XTS_KEY_BYTES, CryptoMessage, KeyDescriptor, KeyUse, MAX_KEY_BYTES, RequestHeader, SECTOR_SHIFT,
    crypto_mode, key_type, request_type,
};
use vm_memory::VolatileMemory;
use zerocopy::IntoBytes;

use crate::memory::Memory;
use crate::ring::Ring;

/// Number of the request ring in [`Memory`].
const REQUESTS: usize = 0;
/// Number of the control ring.
const CONTROL: usize = 1;
/// No status of the protocol: what the byte holds before the device has written it.
const NO_STATUS: u8 = 0x7f;
/// Offset of the sector in the header.
const SECTOR_AT: u64 = 8;
/// Offset of the DUN's first word in the crypto message.
const DUN_AT: u64 = 8;

/// The bytes of an AES-256-XTS key.
pub type Key = [u8; AES_256_XTS_KEY_BYTES];

/// How requests are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crypto {
    /// Keyslot.
    pub slot: u32,
    /// Binary logarithm of the data unit size.
    pub unit_bits: u32,
}

/// Lays out ticket `ticket` of the request queue as a read or write of `block` bytes.
pub fn describe(
    memory: &Memory,
    ring: &Ring<'_>,
    ticket: u16,
    write: bool,
    block: u32,
    crypto: Option<Crypto>,
) -> Result<()> {
    let request_type = match (write, crypto.is_some()) {
        (false, false) => request_type::IN,
        (true, false) => request_type::OUT,
        (false, true) => request_type::CRYPTO_IN,
        (true, true) => request_type::CRYPTO_OUT,
    };
    let header = RequestHeader { request_type: request_type.into(), ..Default::default() };
    let mut bytes = header.as_bytes().to_vec();
    if let Some(crypto) = crypto {
        bytes.extend(CryptoMessage { slot: crypto.slot.into(), ..Default::default() }.as_bytes());
    }
    let at = Memory::header(REQUESTS, ticket);
    store(memory, at, &bytes)?;
    let status = Memory::status(REQUESTS, ticket);
    ring.describe(ticket, &[(at, bytes.len() as u32, false), (memory.data(ticket), block, !write), (status, 1, true)])
}

/// Queues a described request at byte `offset` of the disk. The DUN is the number of the data unit on the disk.
pub fn submit(memory: &Memory, ring: &mut Ring<'_>, ticket: u16, offset: u64, crypto: Option<Crypto>) -> Result<()> {
    let region = memory.region();
    let at = Memory::header(REQUESTS, ticket);
    region.get_ref::<u64>((at + SECTOR_AT) as usize)?.store((offset >> SECTOR_SHIFT).to_le());
    if let Some(crypto) = crypto {
        let dun = at + size_of::<RequestHeader>() as u64 + DUN_AT;
        region.get_ref::<u64>(dun as usize)?.store((offset >> crypto.unit_bits).to_le());
    }
    region.get_ref::<u8>(Memory::status(REQUESTS, ticket) as usize)?.store(NO_STATUS);
    ring.add(ticket)
}

/// Lays out a KEYSLOT_PROGRAM command and queues it.
pub fn program(memory: &Memory, ring: &mut Ring<'_>, ticket: u16, crypto: Crypto, key: &Key) -> Result<()> {
    let mut bytes = [0; MAX_KEY_BYTES];
    bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let descriptor = KeyDescriptor {
        slot: crypto.slot.into(),
        bytes,
        usage: KeyUse {
            key_size: (key.len() as u32).into(),
            crypto_mode: crypto_mode::AES_256_XTS.into(),
            key_type: key_type::RAW.into(),
            data_unit_size_bits: crypto.unit_bits.into(),
            dun_bytes: 8.into(),
        },
    };
    let header = RequestHeader { request_type: request_type::KEYSLOT_PROGRAM.into(), ..Default::default() };
    let at = Memory::header(CONTROL, ticket);
    store(memory, at, header.as_bytes())?;
    store(memory, at + size_of::<RequestHeader>() as u64, descriptor.as_bytes())?;
    let status = Memory::status(CONTROL, ticket);
    memory.region().get_ref::<u8>(status as usize)?.store(NO_STATUS);
    let len = size_of::<RequestHeader>() + size_of::<KeyDescriptor>();
    ring.describe(ticket, &[(at, len as u32, false), (status, 1, true)])?;
    ring.add(ticket)
}

/// An error unless the device has reported success of a request.
pub fn check(memory: &Memory, ticket: u16) -> Result<()> {
    check_status(memory, Memory::status(REQUESTS, ticket)).context("a request failed")
}

/// An error unless the device has reported success of a command.
pub fn check_command(memory: &Memory, ticket: u16) -> Result<()> {
    check_status(memory, Memory::status(CONTROL, ticket)).context("programming a keyslot failed")
}

fn check_status(memory: &Memory, at: u64) -> Result<()> {
    let status = memory.region().get_ref::<u8>(at as usize)?.load();
    ensure!(status != NO_STATUS, "the device returned it without a status");
    ensure!(status == 0, "status {status:#x}");
    Ok(())
}

/// Writes bytes into memory.
pub fn store(memory: &Memory, at: u64, bytes: &[u8]) -> Result<()> {
    memory.region().get_slice(at as usize, bytes.len())?.copy_from(bytes);
    Ok(())
}
