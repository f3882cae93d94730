// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands of the control virtqueue, as the driver sent them. The engine checks whether it supports them.

use std::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{DIGESTS, Refused};
use crate::digest::DigestAlgorithm;
use crate::protocol::{
    AES_256_XTS_KEY_BYTES, CryptoCharacteristics, CryptoExtensions, KeyBlob, KeyDescriptor, KeyUse, MAX_KEY_BYTES,
    Status, crypto_mode, extension_flag, key_type, request_type,
};
use crate::secret::SecretBox;
use crate::segments::{Room, Segments};

/// A type of key that can be programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// The guest programs raw keys
    Raw,
    /// The guest programs keys that only this device can unwrap
    Wrapped,
}

/// What a key is, and what it is for. Not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDescription {
    /// Bytes of the key.
    pub key_size: u32,
    /// `None` for an unknown type.
    pub key_type: Option<KeyType>,
    /// Whether it is for AES-256-XTS, the only mode.
    pub is_aes_256_xts: bool,
    /// Binary logarithm of the data unit size.
    pub data_unit_bits: u32,
    /// Bytes that a DUN may have.
    pub dun_bytes: u32,
}

impl KeyDescription {
    fn of(usage: &KeyUse) -> Self {
        let key_type = match usage.key_type.get() {
            key_type::RAW => Some(KeyType::Raw),
            key_type::HW_WRAPPED => Some(KeyType::Wrapped),
            _ => None,
        };
        Self {
            key_size: usage.key_size.get(),
            key_type,
            is_aes_256_xts: usage.crypto_mode.get() == crypto_mode::AES_256_XTS,
            data_unit_bits: usage.data_unit_size_bits.get(),
            dun_bytes: usage.dun_bytes.get(),
        }
    }
}

/// The payload of KEYSLOT_PROGRAM. The key itself stays in guest memory.
#[derive(Debug)]
pub struct Programming<'m> {
    /// Keyslot, which may not exist.
    pub slot: u32,
    /// What the key is.
    pub key: KeyDescription,
    bytes: KeyBytes<'m>,
}

/// Where a key is.
#[derive(Debug)]
enum KeyBytes<'m> {
    /// In a key descriptor, which is as long as it has to be.
    Descriptor(Segments<'m>),
    /// In registers of the device's own.
    Registers(KeyRegisters),
}

/// A raw key that was written into registers, in locked memory.
pub struct KeyRegisters(SecretBox<[u8; AES_256_XTS_KEY_BYTES]>);

impl KeyRegisters {
    /// What is in the registers.
    pub fn new(key: SecretBox<[u8; AES_256_XTS_KEY_BYTES]>) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for KeyRegisters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Programming<'_> {
    /// A key that was written into registers.
    pub fn from_registers(slot: u32, key: KeyDescription, registers: KeyRegisters) -> Self {
        Self { slot, key, bytes: KeyBytes::Registers(registers) }
    }

    /// Copies the key from where it is. To be called once, where the copy is wiped.
    pub fn read_key(&self) -> Zeroizing<[u8; MAX_KEY_BYTES]> {
        let mut key = Zeroizing::new([0; MAX_KEY_BYTES]);
        match &self.bytes {
            KeyBytes::Descriptor(descriptor) => read_key(descriptor, &mut *key),
            KeyBytes::Registers(KeyRegisters(bytes)) => {
                key.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
            }
        }
        key
    }
}

/// The payload of IMPORT_KEY. The raw key stays in guest memory.
#[derive(Debug)]
pub struct Importing<'m> {
    /// Of sufficient length.
    blob: Segments<'m>,
}

impl Importing<'_> {
    /// Copies the key from guest memory. Call it once, where the copy is wiped.
    pub fn read_key(&self) -> KeyBlob {
        let mut blob = KeyBlob::new_zeroed();
        self.blob.copy_to(0, blob.as_mut_bytes());
        blob
    }
}

/// A command. It has no copy of a raw key, which stays in guest memory until it is used.
#[derive(Debug)]
pub enum ControlCommand<'m> {
    /// GET_CRYPTO_MODES.
    GetCryptoModes,
    /// KEYSLOT_PROGRAM.
    Program(Programming<'m>),
    /// KEYSLOT_EVICT: only the slot is read, and required.
    Evict {
        /// Keyslot, which may not exist.
        slot: u32,
    },
    /// DERIVE_SW_SECRET: of an ephemerally wrapped key.
    DeriveSwSecret(Box<KeyBlob>),
    /// GENERATE_KEY.
    GenerateKey,
    /// IMPORT_KEY: a raw key.
    ImportKey(Importing<'m>),
    /// PREPARE_KEY: a long-term wrapped key.
    PrepareKey(Box<KeyBlob>),
    /// GET_CRYPTO_CHARACTERISTICS.
    GetCharacteristics,
    /// GET_CRYPTO_EXTENSIONS.
    GetExtensions,
}

/// Whether this is a type of the control virtqueue.
pub(super) fn is_command(request_type: u32) -> bool {
    (request_type::GET_CRYPTO_MODES..=request_type::PREPARE_KEY).contains(&request_type)
        || request_type == request_type::GET_CRYPTO_EXTENSIONS
}

/// Parses a command on a request queue.
pub(super) fn parse_in_band(request_type: u32, payload: Segments<'_>) -> Result<ControlCommand<'_>, Refused> {
    match request_type {
        request_type::GET_CRYPTO_CHARACTERISTICS => Ok(ControlCommand::GetCharacteristics),
        _ => parse(request_type, payload),
    }
}

pub(super) fn parse(request_type: u32, mut payload: Segments<'_>) -> Result<ControlCommand<'_>, Refused> {
    match request_type {
        request_type::GET_CRYPTO_MODES => Ok(ControlCommand::GetCryptoModes),
        request_type::GET_CRYPTO_EXTENSIONS => Ok(ControlCommand::GetExtensions),
        request_type::KEYSLOT_PROGRAM => Ok(ControlCommand::Program(programming(payload)?)),
        request_type::KEYSLOT_EVICT => Ok(ControlCommand::Evict { slot: slot(&mut payload)? }),
        request_type::DERIVE_SW_SECRET => Ok(ControlCommand::DeriveSwSecret(blob(&mut payload)?)),
        request_type::GENERATE_KEY => Ok(ControlCommand::GenerateKey),
        request_type::IMPORT_KEY => Ok(ControlCommand::ImportKey(importing(payload)?)),
        request_type::PREPARE_KEY => Ok(ControlCommand::PrepareKey(blob(&mut payload)?)),
        _ => Err(Status::Unsupp.into()),
    }
}

fn importing(blob: Segments<'_>) -> Result<Importing<'_>, Refused> {
    if blob.len() < size_of::<KeyBlob>() as u64 { Err(Refused::TooShort) } else { Ok(Importing { blob }) }
}

/// Copies a wrapped key, which is no secret.
fn blob(payload: &mut Segments<'_>) -> Result<Box<KeyBlob>, Refused> {
    let mut blob = KeyBlob::new_box_zeroed().map_err(|_| Status::IoErr)?;
    if payload.read_front(blob.as_mut_bytes()) { Ok(blob) } else { Err(Refused::TooShort) }
}

/// The slot is the front of a key descriptor, and all that an evict command needs.
fn slot(payload: &mut Segments<'_>) -> Result<u32, Refused> {
    let mut slot = U32::ZERO;
    if payload.read_front(slot.as_mut_bytes()) { Ok(slot.get()) } else { Err(Refused::TooShort) }
}

/// Offsets in a [`KeyDescriptor`].
const KEY_OFFSET: u64 = offset_of!(KeyDescriptor, bytes) as u64; // 4
const USAGE_OFFSET: u64 = offset_of!(KeyDescriptor, usage) as u64; // 132

/// Copies the front of a descriptor's key field, used or not.
pub(super) fn read_key(descriptor: &Segments<'_>, key: &mut [u8]) {
    descriptor.copy_to(KEY_OFFSET, key);
}

/// The slot of a key descriptor, and what the key is for.
pub(super) fn describe_key(descriptor: &Segments<'_>) -> Result<(u32, KeyDescription), Refused> {
    if descriptor.len() < size_of::<KeyDescriptor>() as u64 {
        return Err(Refused::TooShort);
    }
    let (mut slot, mut usage) = (U32::ZERO, KeyUse::new_zeroed());
    descriptor.copy_to(0, slot.as_mut_bytes());
    descriptor.copy_to(USAGE_OFFSET, usage.as_mut_bytes());
    Ok((slot.get(), KeyDescription::of(&usage)))
}

fn programming(descriptor: Segments<'_>) -> Result<Programming<'_>, Refused> {
    let (slot, key) = describe_key(&descriptor)?;
    Ok(Programming { slot, key, bytes: KeyBytes::Descriptor(descriptor) })
}

/// What an engine offers to the driver.
pub struct Capabilities {
    /// Number of keyslots.
    pub keyslots: u16,
    /// Raw keys can be programmed.
    pub raw_keys: bool,
    /// Hardware-wrapped keys can be programmed.
    pub wrapped_keys: bool,
    /// Bit i: data units of 2^i bytes.
    pub data_unit_mask: u32,
    /// The most bytes a DUN may have.
    pub max_dun_bytes: u8,
}

impl Capabilities {
    /// For the configuration space, and for drivers that cannot read that.
    pub fn characteristics(&self) -> CryptoCharacteristics {
        let raw = if self.raw_keys { key_type::CONFIG_RAW } else { 0 };
        let wrapped = if self.wrapped_keys { key_type::CONFIG_HW_WRAPPED } else { 0 };
        CryptoCharacteristics {
            max_slots: self.keyslots.into(),
            max_dun_bytes: self.max_dun_bytes,
            key_types: raw | wrapped,
            reserved: 0.into(),
        }
    }

    /// Replies to GET_CRYPTO_CHARACTERISTICS. Returns false if the reply does not fit.
    pub fn reply_characteristics(&self, room: &mut Room<'_>) -> bool {
        reply_whole(room, self.characteristics().as_bytes())
    }

    /// Replies to GET_CRYPTO_MODES, with as many whole entries as fit.
    pub fn reply_modes(&self, room: &mut Room<'_>) {
        let mut modes = [U32::ZERO; crypto_mode::TABLE_LEN];
        if let Some(mask) = modes.get_mut(crypto_mode::AES_256_XTS as usize) {
            mask.set(self.data_unit_mask);
        }
        let fit = usize::try_from(room.len()).unwrap_or(usize::MAX) / size_of::<U32>();
        modes.iter().take(fit).enumerate().for_each(|(index, entry)| {
            room.write((index * size_of::<U32>()) as u64, entry.as_bytes()); // a few bytes
        });
    }
}

/// The answer to GET_CRYPTO_EXTENSIONS. False when it does not fit.
pub fn reply_extensions(room: &mut Room<'_>, keys_in_requests: bool, digests: &[DigestAlgorithm]) -> bool {
    let flags = if keys_in_requests { u32::from(extension_flag::KEY) } else { 0 };
    let offered = DIGESTS.iter().filter(|(_, algorithm)| digests.contains(algorithm));
    let digests = offered.fold(0u32, |mask, (number, _)| mask | 1 << number); // at most 4
    let extensions = CryptoExtensions { digests: digests.into(), flags: flags.into(), ..CryptoExtensions::default() };
    reply_whole(room, extensions.as_bytes())
}

/// Replies to a command that makes a wrapped key. Returns false if the reply does not fit.
pub fn reply_blob(room: &mut Room<'_>, blob: &[u8]) -> bool {
    let mut message = KeyBlob::new_zeroed();
    message.key_size.set(blob.len() as u32); // 68
    message.key.iter_mut().zip(blob).for_each(|(to, from)| *to = *from);
    reply_whole(room, message.as_bytes())
}

/// Writes a reply if all of it fits.
pub fn reply_whole(room: &mut Room<'_>, bytes: &[u8]) -> bool {
    let fits = room.len() >= bytes.len() as u64; // usize to u64 loses nothing
    if fits {
        room.write(0, bytes);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Chain;
    use virtio_queue::desc::split::Descriptor;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    /// A raw key is not copied before it is used, not even in a command that waits for its turn.
    #[test]
    fn raw_keys_stay_in_guest_memory_until_they_are_used() {
        let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        for (request_type, len, at) in [(request_type::IMPORT_KEY, 132, 4), (request_type::KEYSLOT_PROGRAM, 152, 4)] {
            let payload = || {
                let chain = Chain::walk(&guest, [Descriptor::new(0, len, 0, 0)].into_iter(), 16).expect("chain");
                chain.readable
            };
            guest.write_slice(&[1; 152], GuestAddress(0)).expect("guest memory");
            let Ok(command) = parse(request_type, payload()) else { panic!("{request_type} is refused") };
            guest.write_slice(&[2; 32], GuestAddress(at)).expect("guest memory");
            let used = match &command {
                ControlCommand::ImportKey(importing) => importing.read_key().key,
                ControlCommand::Program(programming) => *programming.read_key(),
                other => panic!("{other:?}"),
            };
            assert_eq!((&used[..32], used[32]), (&[2; 32][..], 1));
            let short = Chain::walk(&guest, [Descriptor::new(0, len - 1, 0, 0)].into_iter(), 16).expect("chain");
            assert!(matches!(parse(request_type, short.readable), Err(Refused::TooShort)));
        }
    }
}
