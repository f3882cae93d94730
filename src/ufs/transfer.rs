// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A transfer request: parses its descriptor into a request for the engine, and writes its response.
//!
//! The descriptor, the UPIU and the table of data are copied from guest memory once, and the copies are checked.
#![forbid(unsafe_code)]

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::crypto::CryptoRegisters;
use super::lu::LogicalUnits;
use super::protocol::{
    OCS_OFFSET, Ocs, PrdtEntry, QueryUpiu, RequestUpiu, ResponseUpiu, SENSE_BYTES, TO_DEVICE, TO_HOST,
    TransferDescriptor, UNDERFLOW, UpiuHeader, scsi, transaction,
};
use super::query::Query;
use super::scsi::{Command, Sense, parse, ranges};
use crate::engine::{Failure, Io, Worker, check_guest_memory};
use crate::faults::ControllerFault;
use crate::protocol::{Status, request_type};
use crate::request::{CryptoTag, Extent, KeySource, Payload, Refusal, Request};
use crate::segments::{Room, Segments};

/// The maximum number of entries in a physical region description table. Linux uses at most 128.
const MOST_ENTRIES: u16 = 2048;

/// A part of guest memory that the controller needs is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusError;

/// A request for the engine.
pub struct Job<'m> {
    /// Its context.
    pub io: Io<'m>,
    /// The request.
    pub request: Request<'m>,
    /// What to do when it is done.
    pub purpose: Purpose,
}

/// What a request for the engine is for.
#[derive(Debug)]
pub enum Purpose {
    /// A transfer request.
    Transfer(Reply),
    /// A change of a keyslot.
    Key {
        /// The slot.
        slot: u32,
        /// Whether the change programs a key.
        programs: bool,
    },
}

/// The parts of the controller that a transfer request needs.
pub struct Context<'c> {
    /// The address of the list.
    pub list: u64,
    /// The number of descriptors.
    pub depth: u8,
    /// Crypto is enabled.
    pub crypto_enabled: bool,
    /// The keyslots.
    pub crypto: &'c CryptoRegisters,
    /// The logical units.
    pub units: &'c LogicalUnits,
    /// The device.
    pub query: &'c mut Query,
}

/// The response to a transfer request, and where to write it.
#[derive(Debug)]
pub struct Reply {
    /// The number of the request.
    pub slot: u8,
    descriptor: GuestAddress,
    response: GuestAddress,
    room: u64,
    header: UpiuHeader,
    expected: u32,
    moved: u32,
    writes: bool,
}

/// The answer to a transfer request.
#[derive(Debug)]
enum Answer {
    Ocs(Ocs),
    Upiu(Vec<u8>),
    Sense(Sense),
    Good,
}

impl From<Ocs> for Answer {
    fn from(ocs: Ocs) -> Self {
        Self::Ocs(ocs)
    }
}

impl From<Sense> for Answer {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// Begins a transfer request: what the engine is to do, for which logical unit. `None`: it has been answered.
///
/// # Errors
/// When the descriptor is not in guest memory, so there is nobody to tell.
pub fn begin<'m>(
    context: Context<'_>,
    slot: u8,
    memory: &'m GuestMemoryMmap,
    worker: &'m Worker,
) -> Result<Option<(Job<'m>, u8)>, BusError> {
    let at = u64::from(slot) * size_of::<TransferDescriptor>() as u64;
    let at = GuestAddress(context.list.checked_add(at).ok_or(BusError)?);
    let descriptor: TransferDescriptor = read(memory, at).ok_or(BusError)?;
    let command = descriptor.command_descriptor.get();
    let part = |offset: u16| command.checked_add(4 * u64::from(offset)).map(GuestAddress);
    let mut reply = Reply {
        slot,
        descriptor: at,
        response: part(descriptor.response_offset.get()).unwrap_or(GuestAddress(u64::MAX)),
        room: 4 * u64::from(descriptor.response_length.get()),
        header: UpiuHeader::default(),
        expected: 0,
        moved: 0,
        writes: false,
    };
    let table = part(descriptor.prdt_offset.get());
    let upiu = read::<RequestUpiu>(memory, GuestAddress(command)).filter(|_| descriptor.control >> 4 == 1);
    let prepared = match (&upiu, table) {
        (Some(upiu), Some(table)) => {
            reply.header = upiu.header;
            let data = Data { memory, descriptor: &descriptor, table };
            prepare(context, upiu, &data, &mut reply, worker)
        }
        _ => Err(Answer::Ocs(Ocs::InvalidCommandTable)),
    };
    let (io, request) = match prepared {
        Ok(prepared) => prepared,
        Err(answer) => {
            if let Some(refusal) = upiu.and_then(|upiu| answer.refusal(&upiu, &descriptor)) {
                count(refusal, slot, worker);
            }
            return reply.answer(memory, answer).map(|()| None);
        }
    };
    let unit = reply.header.lun;
    Ok(Some((Job { io, request, purpose: Purpose::Transfer(reply) }, unit)))
}

impl Answer {
    /// What to count, if this refuses to move data, before the engine has seen the request.
    fn refusal(&self, upiu: &RequestUpiu, descriptor: &TransferDescriptor) -> Option<Refusal> {
        match self {
            // The driver asks again.
            Self::Sense(Sense::CAPACITY_CHANGED) | Self::Upiu(_) | Self::Good => return None,
            Self::Sense(_) | Self::Ocs(_) => {}
        }
        if upiu.header.transaction != transaction::COMMAND {
            return None;
        }
        log::debug!("a request is refused: {self:?}");
        let encrypted = descriptor.is_encrypted();
        let request_type = match *upiu.cdb.first()? {
            scsi::READ_10 | scsi::READ_16 if encrypted => request_type::CRYPTO_IN,
            scsi::READ_10 | scsi::READ_16 => request_type::IN,
            scsi::WRITE_10 | scsi::WRITE_16 if encrypted => request_type::CRYPTO_OUT,
            scsi::WRITE_10 | scsi::WRITE_16 => request_type::OUT,
            scsi::SYNCHRONIZE_CACHE_10 | scsi::SYNCHRONIZE_CACHE_16 => request_type::FLUSH,
            scsi::UNMAP => request_type::DISCARD,
            _ => return None,
        };
        Some(Refusal { request_type: Some(request_type), status: Status::IoErr, malformed: false })
    }
}

/// Counts a refused request, as virtio's.
fn count(refusal: Refusal, slot: u8, worker: &Worker) {
    let mut io = Io::new(worker, 0, slot.into(), false, Room::default());
    io.record.describe_refusal(&refusal);
    io.finished();
}

fn prepare<'m>(
    context: Context<'_>,
    upiu: &RequestUpiu,
    data: &Data<'m, '_>,
    reply: &mut Reply,
    worker: &'m Worker,
) -> Result<(Io<'m>, Request<'m>), Answer> {
    match upiu.header.transaction {
        transaction::NOP_OUT => {
            let header = UpiuHeader { transaction: transaction::NOP_IN, tag: upiu.header.tag, ..UpiuHeader::default() };
            return Err(Answer::Upiu(RequestUpiu { header, ..RequestUpiu::default() }.as_bytes().to_vec()));
        }
        transaction::QUERY_REQUEST => {
            let request = QueryUpiu::read_from_bytes(upiu.as_bytes()).map_err(|_| Ocs::InvalidCommandTable)?;
            return Err(Answer::Upiu(context.query.answer(&request, context.units, context.depth)));
        }
        transaction::COMMAND => {}
        _ => return Err(Ocs::InvalidCommandTable.into()),
    }
    reply.expected = upiu.expected.get();
    let unit = upiu.header.lun;
    let opcode = upiu.cdb.first().copied().unwrap_or_default();
    if context.units.get(unit).is_some_and(|disk| disk.has_another_size(opcode)) {
        return Err(Sense::CAPACITY_CHANGED.into());
    }
    let command = parse(context.units, unit, &upiu.cdb)?;
    let slot = reply.slot.into();
    let io = |durable, room| Io::new(worker, 0, slot, durable, room).on_disk(unit.into()).ok_or(Sense::NO_UNIT);
    let durable = !context.units.has_write_cache();
    match command {
        Command::Good => Err(Answer::Good),
        Command::Read(Extent { len: 0, .. }) | Command::Write(Extent { len: 0, .. }, _) => Err(Answer::Good),
        Command::Read(extent) => {
            let crypto = tag(&context, data.descriptor);
            let room = Room::new(data.gather(TO_HOST, extent.len, reply)?);
            let payload = Payload::data_alone(Segments::default());
            Ok((io(false, room)?, Request::Read { extent, crypto, payload }))
        }
        Command::Write(extent, at_once) => {
            let crypto = tag(&context, data.descriptor);
            let payload = Payload::data_alone(data.gather(TO_DEVICE, extent.len, reply)?);
            reply.writes = true;
            Ok((io(durable || at_once, Room::default())?, Request::Write { extent, crypto, payload }))
        }
        Command::Flush => {
            reply.writes = true;
            Ok((io(false, Room::default())?, Request::Flush))
        }
        Command::Unmap(len) => {
            let lu = context.units.get(unit).ok_or(Sense::NO_UNIT)?;
            let extents = ranges(lu, &data.parameters(len, reply)?)?;
            if extents.is_empty() {
                return Err(Answer::Good);
            }
            reply.writes = true;
            Ok((io(durable, Room::default())?, Request::Discard(extents)))
        }
        Command::ModeSelect(len) => {
            // The write cache cannot be switched.
            let parameters = data.parameters(len, reply)?;
            let caching = parameters.get(8..).and_then(|page| Some((page.first()? & 0x3f, page.get(2)? & 4 != 0)));
            match caching {
                None => Err(Answer::Good),
                Some((0x08, cache)) if cache == context.units.has_write_cache() => Err(Answer::Good),
                Some(_) => Err(Sense::INVALID_PARAMETER.into()),
            }
        }
        Command::Data(bytes) => {
            let len = bytes.len().min(usize::try_from(reply.expected).unwrap_or(usize::MAX));
            let bytes = bytes.get(..len).unwrap_or_default();
            if !bytes.is_empty() {
                data.gather(TO_HOST, len as u64, reply)?.copy_from(0, bytes); // usize to u64 loses nothing
            }
            Err(Answer::Good)
        }
    }
}

/// The key and the data unit number of a request that wants encryption.
fn tag(context: &Context<'_>, descriptor: &TransferDescriptor) -> Option<CryptoTag> {
    if !descriptor.is_encrypted() {
        return None;
    }
    let slot = descriptor.cci.into();
    let is_enabled = context.crypto_enabled && context.crypto.is_enabled(slot);
    let key = if is_enabled { KeySource::Slot(slot) } else { KeySource::Disabled(slot) };
    let dun = u64::from(descriptor.dun_upper.get()) << 32 | u64::from(descriptor.dun_lower.get());
    Some(CryptoTag { key, dun: [dun, 0, 0, 0], digest: None })
}

/// The data of a transfer request.
struct Data<'m, 'd> {
    memory: &'m GuestMemoryMmap,
    descriptor: &'d TransferDescriptor,
    table: GuestAddress,
}

impl<'m> Data<'m, '_> {
    /// The guest memory of the first `len` bytes.
    fn gather(&self, direction: u8, len: u64, reply: &mut Reply) -> Result<Segments<'m>, Ocs> {
        if self.descriptor.control >> 1 & 3 != direction {
            return Err(Ocs::InvalidCommandTable);
        }
        if len > reply.expected.into() {
            return Err(Ocs::MismatchDataSize);
        }
        let entries = self.descriptor.prdt_length.get();
        if entries > MOST_ENTRIES {
            return Err(Ocs::InvalidPrdt);
        }
        let mut bytes = vec![0; usize::from(entries) * size_of::<PrdtEntry>()];
        self.memory.read_slice(&mut bytes, self.table).map_err(|_| Ocs::InvalidPrdt)?;
        let access = if direction == TO_HOST { Permissions::Write } else { Permissions::Read };
        let (mut segments, mut left) = (Segments::default(), len);
        for entry in bytes.chunks_exact(size_of::<PrdtEntry>()) {
            if left == 0 {
                break;
            }
            let entry = PrdtEntry::read_from_bytes(entry).map_err(|_| Ocs::InvalidPrdt)?;
            // At most 256 KiB, in units of 4 bytes.
            let count = entry.count.get();
            if count > 0x3ffff || count & 3 != 3 {
                return Err(Ocs::InvalidPrdt);
            }
            let take = left.min(u64::from(count) + 1);
            let slices = self.memory.get_slices(GuestAddress(entry.address.get()), take as usize, access); // 256 KiB
            for slice in slices.map_err(|_| Ocs::InvalidPrdt)? {
                segments.push(slice.map_err(|_| Ocs::InvalidPrdt)?);
            }
            left -= take;
        }
        if left > 0 {
            return Err(Ocs::MismatchDataSize);
        }
        reply.moved = u32::try_from(len).map_err(|_| Ocs::MismatchDataSize)?;
        Ok(segments)
    }

    /// Copies the parameters of a command from guest memory.
    fn parameters(&self, len: u16, reply: &mut Reply) -> Result<Vec<u8>, Ocs> {
        let mut bytes = vec![0; len.into()];
        if len > 0 {
            self.gather(TO_DEVICE, len.into(), reply)?.copy_to(0, &mut bytes);
        }
        Ok(bytes)
    }
}

impl Reply {
    /// Answers a request that the engine has executed.
    ///
    /// # Errors
    /// When the descriptor is not in guest memory any more.
    pub fn finish(&self, memory: &GuestMemoryMmap, result: Result<(), Failure>) -> Result<(), BusError> {
        let answer = match result {
            Ok(()) => Answer::Good,
            Err(failure) => self.failure(&failure),
        };
        self.answer(memory, answer)
    }

    /// Maps errors to OCS and sense data. No other code does.
    fn failure(&self, failure: &Failure) -> Answer {
        match failure {
            Failure::NoKey | Failure::NoSuchSlot(_) => Ocs::InvalidCryptoConfiguration.into(),
            Failure::Transfer(_) => Ocs::GeneralCryptoError.into(),
            Failure::Controller(fault) => status(*fault).into(),
            Failure::GuestMemory => Ocs::FatalError.into(),
            Failure::Unsupported | Failure::Malformed => Sense::INVALID_COMMAND.into(),
            Failure::Disk(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Sense::INVALID_COMMAND.into(),
            Failure::Disk(error) if error.raw_os_error() == Some(libc::ENOSPC) => Sense::NO_SPACE.into(),
            Failure::NoMemory | Failure::Wrap(_) | Failure::Keep(_) | Failure::Fault | Failure::Disk(_) => {
                if self.writes { Sense::WRITE_ERROR.into() } else { Sense::READ_ERROR.into() }
            }
        }
    }

    fn answer(&self, memory: &GuestMemoryMmap, answer: Answer) -> Result<(), BusError> {
        let ocs = match answer {
            Answer::Ocs(ocs) => ocs,
            Answer::Upiu(upiu) => self.put(memory, &upiu),
            Answer::Sense(sense) => self.put(memory, self.response(Some(sense)).as_bytes()),
            Answer::Good => {
                let response = self.response(None);
                // Without sense data.
                let len = size_of::<ResponseUpiu>() - SENSE_BYTES - 2;
                self.put(memory, response.as_bytes().get(..len).unwrap_or_default())
            }
        };
        // If guest memory was missing, the request must not succeed.
        let ocs = if check_guest_memory().is_ok() { ocs } else { Ocs::FatalError };
        let at = self.descriptor.0.checked_add(OCS_OFFSET).ok_or(BusError)?;
        memory.write_slice(&[ocs as u8], GuestAddress(at)).map_err(|_| BusError)
    }

    fn response(&self, sense: Option<Sense>) -> ResponseUpiu {
        let moved = if sense.is_none() { self.moved } else { 0 };
        let residual = self.expected.saturating_sub(moved);
        let mut response = ResponseUpiu::new_zeroed();
        response.header = UpiuHeader {
            transaction: transaction::RESPONSE,
            flags: if residual > 0 { UNDERFLOW } else { 0 },
            lun: self.header.lun,
            tag: self.header.tag,
            command_set: self.header.command_set,
            status: if sense.is_some() { scsi::CHECK_CONDITION } else { scsi::GOOD },
            ..UpiuHeader::default()
        };
        response.residual.set(residual);
        if let Some(sense) = sense {
            response.header.data_length.set(2 + SENSE_BYTES as u16); // 20
            response.sense_length.set(SENSE_BYTES as u16); // 18
            response.sense = sense.bytes();
        }
        response
    }

    /// Writes the response to guest memory.
    fn put(&self, memory: &GuestMemoryMmap, upiu: &[u8]) -> Ocs {
        if (upiu.len() as u64) > self.room {
            return Ocs::MismatchResponseSize;
        }
        memory.write_slice(upiu, self.response).map_or(Ocs::InvalidCommandTable, |()| Ocs::Success)
    }
}

fn status(fault: ControllerFault) -> Ocs {
    match fault {
        ControllerFault::CommunicationFailure => Ocs::CommunicationFailure,
        ControllerFault::Aborted => Ocs::Aborted,
        ControllerFault::DeviceFatalError => Ocs::DeviceFatalError,
        ControllerFault::InvalidCryptoConfiguration => Ocs::InvalidCryptoConfiguration,
        ControllerFault::GeneralCryptoError => Ocs::GeneralCryptoError,
        // After those below `FatalError` no request is answered.
        ControllerFault::FatalError
        | ControllerFault::LinkLost
        | ControllerFault::LinkError
        | ControllerFault::CryptoFatalError => Ocs::FatalError,
    }
}

/// Copies a structure from guest memory.
pub fn read<T: FromBytes + IntoBytes>(memory: &GuestMemoryMmap, address: GuestAddress) -> Option<T> {
    let mut value = T::new_zeroed();
    memory.read_slice(value.as_mut_bytes(), address).ok()?;
    check_guest_memory().ok()?;
    Some(value)
}
