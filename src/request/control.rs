// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands of the control virtqueue, as the driver sent them. What the device offers is checked where it is known.

use zerocopy::{FromZeros, IntoBytes};

use super::{Refused, read_front};
use crate::protocol::{KeyBlob, KeyDescriptor, Status, request_type};
use crate::queue::Segments;

/// A command. The key material in it is wiped when it is dropped.
#[derive(Debug)]
pub enum ControlCommand {
    /// GET_CRYPTO_MODES.
    GetCryptoModes,
    /// KEYSLOT_PROGRAM.
    Program(Box<KeyDescriptor>),
    /// KEYSLOT_EVICT: only the slot counts.
    Evict {
        /// Keyslot; not known to exist.
        slot: u32,
    },
    /// DERIVE_SW_SECRET: of an ephemerally wrapped key.
    DeriveSwSecret(Box<KeyBlob>),
    /// GENERATE_KEY.
    GenerateKey,
    /// IMPORT_KEY: a raw key.
    ImportKey(Box<KeyBlob>),
    /// PREPARE_KEY: a long-term wrapped key.
    PrepareKey(Box<KeyBlob>),
    /// GET_CRYPTO_CHARACTERISTICS.
    GetCharacteristics,
}

/// A command on a request queue.
pub(super) fn parse_in_band(request_type: u32, payload: Segments<'_>) -> Result<ControlCommand, Refused> {
    match request_type {
        request_type::GET_CRYPTO_CHARACTERISTICS => Ok(ControlCommand::GetCharacteristics),
        _ => parse(request_type, payload),
    }
}

pub(super) fn parse(request_type: u32, mut payload: Segments<'_>) -> Result<ControlCommand, Refused> {
    match request_type {
        request_type::GET_CRYPTO_MODES => Ok(ControlCommand::GetCryptoModes),
        request_type::KEYSLOT_PROGRAM => Ok(ControlCommand::Program(descriptor(&mut payload)?)),
        request_type::KEYSLOT_EVICT => Ok(ControlCommand::Evict { slot: descriptor(&mut payload)?.slot.get() }),
        request_type::DERIVE_SW_SECRET => Ok(ControlCommand::DeriveSwSecret(blob(&mut payload)?)),
        request_type::GENERATE_KEY => Ok(ControlCommand::GenerateKey),
        request_type::IMPORT_KEY => Ok(ControlCommand::ImportKey(blob(&mut payload)?)),
        request_type::PREPARE_KEY => Ok(ControlCommand::PrepareKey(blob(&mut payload)?)),
        _ => Err(Status::Unsupp.into()),
    }
}

fn blob(payload: &mut Segments<'_>) -> Result<Box<KeyBlob>, Refused> {
    let mut blob = KeyBlob::new_box_zeroed().map_err(|_| Status::IoErr)?;
    if read_front(payload, blob.as_mut_bytes()) { Ok(blob) } else { Err(Refused::TooShort) }
}

fn descriptor(payload: &mut Segments<'_>) -> Result<Box<KeyDescriptor>, Refused> {
    // On the heap from the start, so that no copy of the key stays behind on the stack.
    let mut descriptor = KeyDescriptor::new_box_zeroed().map_err(|_| Status::IoErr)?;
    if read_front(payload, descriptor.as_mut_bytes()) { Ok(descriptor) } else { Err(Refused::TooShort) }
}
