// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From a chain of bytes to a validated request: the wire layout, the disk's size and the limits.
//!
//! All checks that need neither keys nor the disk are here, so what [`parse`] returns needs no more of them. Every byte
//! of a header or payload is copied from guest memory once. No files, no keys of slots, no crypto.

#![forbid(unsafe_code)]

mod control;
mod limits;
mod ranges;
mod reply;

use zerocopy::{FromZeros, IntoBytes};

use crate::digest::DigestAlgorithm;
use crate::protocol::{
    CryptoMessage, Extensions, KeyDescriptor, RequestHeader, Status, digest, extension_flag, feature, request_type,
};
use crate::queue::Chain;
use crate::segments::{Pieces, Room, Segments};

pub use crate::protocol::{MAX_KEY_BYTES, NO_SLOT};
pub use control::{
    Capabilities, ControlCommand, Importing, KeyDescription, KeyRegisters, KeyType, Programming, reply_blob,
    reply_extensions, reply_whole,
};
use limits::MOST_ENCRYPTED_BYTES;
pub use limits::{CryptoAccess, Extent, Limits};
pub use ranges::{DISCARD_LIMITS, ERASE_LIMITS, RangeLimits, ZeroRange};
pub use reply::StatusByte;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueRole {
    /// Reads, writes and so on.
    Request,
    /// Keyslots.
    Control,
    /// Either: the driver has not shown which.
    Either,
}

/// Where an encrypted request gets its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// From a keyslot, which may not exist.
    Slot(u32),
    /// From a keyslot that the driver has not enabled, so there is none.
    Disabled(u32),
    /// From the request itself. Not checked yet.
    Request(KeyDescription),
}

/// What an encrypted request says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CryptoTag {
    /// Where the key is.
    pub key: KeySource,
    /// Data unit number of the first data unit, least significant word first.
    pub dun: [u64; 4],
    /// The digests that it asks for; not known to be on offer.
    pub digest: Option<DigestAlgorithm>,
}

impl CryptoTag {
    /// Whether it needs more than the draft has.
    pub fn is_extended(&self) -> bool {
        self.slot().is_none() || self.digest.is_some()
    }

    /// The keyslot, if it is one.
    pub fn slot(&self) -> Option<u32> {
        match self.key {
            KeySource::Slot(slot) | KeySource::Disabled(slot) => Some(slot),
            KeySource::Request(_) => None,
        }
    }
}

/// A request's payload in guest memory: the key descriptor, if the request brings its key along, and the data of a
/// write.
#[derive(Debug)]
pub struct Payload<'m> {
    segments: Segments<'m>,
    /// Bytes of the key descriptor.
    descriptor: u64,
}

impl<'m> Payload<'m> {
    /// Data alone, and no key.
    pub fn data_alone(segments: Segments<'m>) -> Self {
        Self { segments, descriptor: 0 }
    }

    /// The `len` bytes of data from `offset` on, without copying them.
    pub fn data(&self, offset: u64, len: usize) -> Pieces<'m> {
        self.segments.pieces(self.descriptor + offset, len) // inside the chain's 2^32 bytes
    }

    /// Copies the front of the key from guest memory. Call it once.
    pub fn read_key(&self, key: &mut [u8]) {
        control::read_key(&self.segments, key);
    }
}

/// A request that passed all checks.
#[derive(Debug)]
pub enum Request<'m> {
    /// IN and CRYPTO_IN: there is room for `extent.len` bytes. If the request asks for digests, this includes them: the
    /// key's data unit size decides where they begin, so the data's end is not checked yet.
    Read {
        /// What to read.
        extent: Extent,
        /// Decrypt it.
        crypto: Option<CryptoTag>,
        /// The key.
        payload: Payload<'m>,
    },
    /// OUT and CRYPTO_OUT.
    Write {
        /// Where to write.
        extent: Extent,
        /// Encrypt it.
        crypto: Option<CryptoTag>,
        /// The key, and `extent.len` bytes of data.
        payload: Payload<'m>,
    },
    /// FLUSH.
    Flush,
    /// GET_ID.
    GetId,
    /// DISCARD.
    Discard(Vec<Extent>),
    /// WRITE_ZEROES.
    WriteZeroes(Vec<ZeroRange>),
    /// SECURE_ERASE.
    SecureErase(Vec<Extent>),
    /// A command of the control virtqueue, or one in-band.
    Control(ControlCommand<'m>),
}

impl Request<'_> {
    /// Bytes of the disk that it reads, writes or erases.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { extent, .. } | Self::Write { extent, .. } => extent.len,
            Self::WriteZeroes(ranges) => ranges.iter().map(|range| range.extent.len).sum(), // of limited ranges
            Self::SecureErase(ranges) => ranges.iter().map(|range| range.len).sum(),
            Self::Flush | Self::GetId | Self::Discard(_) | Self::Control(_) => 0,
        }
    }
}

/// Why a chain is not a request. `request_type` is for the statistics: `None` without a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the driver asked for.
    pub request_type: Option<u32>,
    /// The status it gets.
    pub status: Status,
    /// The chain is too short for a request: it is returned with length 0, with or without a status.
    pub malformed: bool,
}

/// A parsed chain.
#[derive(Debug)]
pub struct ParsedChain<'m> {
    /// The request, or why there is none.
    pub request: Result<Request<'m>, Refusal>,
    /// Where its data goes.
    pub room: Room<'m>,
    /// Where its status goes.
    pub status: StatusByte<'m>,
}

/// Parses and validates a request.
pub fn parse<'m>(chain: Chain<'m>, role: QueueRole, limits: &Limits) -> ParsedChain<'m> {
    let Chain { readable, writable } = chain;
    let (status, room) = StatusByte::split(writable);
    let request = parse_request(readable, &status, &room, role, limits);
    ParsedChain { request, room, status }
}

fn parse_request<'m>(
    mut readable: Segments<'m>,
    status: &StatusByte<'m>,
    room: &Room<'m>,
    role: QueueRole,
    limits: &Limits,
) -> Result<Request<'m>, Refusal> {
    let mut header = RequestHeader::new_zeroed();
    if !readable.read_front(header.as_mut_bytes()) {
        return Err(Refusal { request_type: None, status: Status::IoErr, malformed: true });
    }
    let request_type = header.request_type.get();
    let refusal = |status, malformed| Refusal { request_type: Some(request_type), status, malformed };
    if !status.exists() {
        return Err(refusal(Status::IoErr, true));
    }
    let role = match role {
        QueueRole::Either if control::is_command(request_type) => QueueRole::Control,
        role => role,
    };
    let parsed = match role {
        QueueRole::Request | QueueRole::Either => parse_body(&header, readable, room, limits),
        QueueRole::Control if limits.crypto == CryptoAccess::ControlQueue => {
            control::parse(request_type, readable).map(Request::Control)
        }
        QueueRole::Control => Err(Status::Unsupp.into()),
    };
    parsed.map_err(|refused| match refused {
        Refused::Status(status) => refusal(status, false),
        Refused::TooShort => refusal(Status::IoErr, true),
    })
}

/// Why the rest of a request was refused.
enum Refused {
    Status(Status),
    TooShort,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn parse_body<'m>(
    header: &RequestHeader,
    mut data: Segments<'m>,
    room: &Room<'m>,
    limits: &Limits,
) -> Result<Request<'m>, Refused> {
    let (crypto, descriptor) = match header.request_type.get() {
        request_type::CRYPTO_IN | request_type::CRYPTO_OUT => (Some(parse_crypto(&mut data, limits, false)?), 0),
        request_type::CRYPTO_IN_EXT | request_type::CRYPTO_OUT_EXT => {
            let tag = parse_crypto(&mut data, limits, true)?;
            (Some(tag), if tag.slot().is_none() { size_of::<KeyDescriptor>() as u64 } else { 0 })
        }
        _ => (None, 0),
    };
    match header.request_type.get() {
        request_type::IN | request_type::CRYPTO_IN | request_type::CRYPTO_IN_EXT => {
            let extent = match crypto.and_then(|tag| tag.digest) {
                None => limits.data(header.sector.get(), room.len(), crypto.is_some())?,
                Some(_) if room.len() > MOST_ENCRYPTED_BYTES => return Err(Status::IoErr.into()),
                Some(_) => Extent { len: room.len(), ..limits.transfer(header.sector.get(), 0)? },
            };
            Ok(Request::Read { extent, crypto, payload: Payload { segments: data, descriptor } })
        }
        request_type::OUT | request_type::CRYPTO_OUT | request_type::CRYPTO_OUT_EXT => {
            let len = data.len().checked_sub(descriptor).ok_or(Refused::TooShort)?;
            let extent = limits.data(header.sector.get(), len, crypto.is_some())?;
            limits.check_writable()?;
            Ok(Request::Write { extent, crypto, payload: Payload { segments: data, descriptor } })
        }
        request_type::FLUSH => Ok(Request::Flush),
        request_type::GET_ID => Ok(Request::GetId),
        request_type::DISCARD if limits.has(feature::DISCARD) => {
            Ok(Request::Discard(ranges::plain(data, limits, DISCARD_LIMITS)?))
        }
        request_type::WRITE_ZEROES if limits.has(feature::WRITE_ZEROES) => {
            Ok(Request::WriteZeroes(ranges::zeroes(data, limits)?))
        }
        request_type::SECURE_ERASE if limits.has(feature::SECURE_ERASE) => {
            Ok(Request::SecureErase(ranges::plain(data, limits, ERASE_LIMITS)?))
        }
        other if limits.crypto == CryptoAccess::InBand => control::parse_in_band(other, data).map(Request::Control),
        _ => Err(Status::Unsupp.into()),
    }
}

/// Parses the crypto message, and a key descriptor if one follows. The descriptor stays in guest memory.
fn parse_crypto(data: &mut Segments<'_>, limits: &Limits, extended: bool) -> Result<CryptoTag, Refused> {
    if limits.crypto == CryptoAccess::None {
        return Err(Status::Unsupp.into());
    }
    let mut message = CryptoMessage::new_zeroed();
    if !data.read_front(message.as_mut_bytes()) {
        return Err(Refused::TooShort);
    }
    let dun = message.dun.map(|word| word.get());
    let slot = message.slot.get();
    let (key, digest) = match message.extensions {
        _ if !extended => (KeySource::Slot(slot), None),
        Extensions { digest, flags: 0, reserved: [0, 0] } => (KeySource::Slot(slot), digest_algorithm(digest)?),
        Extensions { digest, flags: extension_flag::KEY, reserved: [0, 0] } => {
            let digest = digest_algorithm(digest)?;
            let (again, key) = control::describe_key(data)?;
            if slot != NO_SLOT || again != NO_SLOT {
                return Err(Status::IoErr.into());
            }
            (KeySource::Request(key), digest)
        }
        _ => return Err(Status::Unsupp.into()),
    };
    Ok(CryptoTag { key, dun, digest })
}

/// Digest algorithms with their numbers.
const DIGESTS: [(u8, DigestAlgorithm); 4] = [
    (digest::CRC32C, DigestAlgorithm::Crc32c),
    (digest::XXHASH64, DigestAlgorithm::Xxhash64),
    (digest::SHA256, DigestAlgorithm::Sha256),
    (digest::BLAKE2B_256, DigestAlgorithm::Blake2b256),
];

fn digest_algorithm(number: u8) -> Result<Option<DigestAlgorithm>, Status> {
    if number == 0 {
        return Ok(None);
    }
    let found = DIGESTS.iter().find(|(known, _)| *known == number);
    found.map(|(_, algorithm)| Some(*algorithm)).ok_or(Status::Unsupp)
}

#[cfg(test)]
mod tests;
