// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands of the control virtqueue, as the driver sent them. What the device offers is checked where it is known.

use zerocopy::{FromZeros, IntoBytes};

use super::{Refused, read_front};
use crate::protocol::{KeyDescriptor, Status, request_type};
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
}

pub(super) fn parse(request_type: u32, mut payload: Segments<'_>) -> Result<ControlCommand, Refused> {
    match request_type {
        request_type::GET_CRYPTO_MODES => Ok(ControlCommand::GetCryptoModes),
        request_type::KEYSLOT_PROGRAM => Ok(ControlCommand::Program(descriptor(&mut payload)?)),
        request_type::KEYSLOT_EVICT => Ok(ControlCommand::Evict { slot: descriptor(&mut payload)?.slot.get() }),
        // The commands of hardware-wrapped keys (32 to 35) belong here once the device offers that key type.
        _ => Err(Status::Unsupp.into()),
    }
}

fn descriptor(payload: &mut Segments<'_>) -> Result<Box<KeyDescriptor>, Refused> {
    // On the heap from the start, so that no copy of the key stays behind on the stack.
    let mut descriptor = KeyDescriptor::new_box_zeroed().map_err(|_| Status::IoErr)?;
    if read_front(payload, descriptor.as_mut_bytes()) { Ok(descriptor) } else { Err(Refused::TooShort) }
}
