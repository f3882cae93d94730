// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device without keyslots: requests that carry their keys and may ask for digests, several at a time, compared with
//! a small model that encrypts with OpenSSL.

use std::ops::Range;
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use test_driver::data::{FILL, digests, inline_encryption_key};
use test_driver::wire::{self, *};

use crate::disks::DiskKind;
use crate::guest::{CONTROL, Cut, Demand, Guest, REQUEST_QUEUES, Setting, driver_features, with_guest};
use crate::model::{Key, edge, extent, refusals, transfer};
use crate::wire::{Program, Request, all, key, number};

/// Of the smallest disk.
const SECTORS: u64 = 128;
/// Of the longest request.
const MOST_SECTORS: u64 = 24;
/// The maximum of descriptors of a request: those of its cut, and the rest of either side.
const DESCRIPTORS: u16 = 8;
/// The maximum of requests at a time on one queue.
const DEPTH: u16 = 8;
/// Raw keys that the device has wrapped.
const WRAPPED: [[u8; 32]; 2] = [[3; 32], [4; 32]];
/// The keys derived from them.
static DERIVED: LazyLock<[[u8; 64]; 2]> = LazyLock::new(|| WRAPPED.map(|raw| inline_encryption_key(&raw)));
/// Bytes that commands about wrapped keys return before the status.
const REPLY: u32 = 4 + 128;

#[derive(Debug, Arbitrary)]
struct Input {
    disk: DiskKind,
    /// Commands go to the request queues.
    in_band: bool,
    /// When the disk's completions arrive.
    looks: [u8; 8],
}

#[derive(Debug)]
enum Op {
    Transfer(Transfer, u8),
    /// An operation that needs keyslots: a command of this type, or a transfer with the key of a slot.
    Program(Program, bool),
    Slot(Transfer, [u64; 4], u32),
    GetExtensions,
    /// Until the next one.
    Fault(Fault),
    /// A queue is stopped and started while requests are in flight.
    Restart(usize),
    /// The driver is removed and loaded again, perhaps while requests are in flight.
    Reset(bool),
    /// Waits for all requests.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Fault {
    None,
    PreviousKey,
    HalvesSwapped,
}

#[derive(Debug)]
struct Transfer {
    write: bool,
    sector: u64,
    len: u32,
    seed: u8,
    key: Option<Keyed>,
}

/// What comes with a key.
#[derive(Debug)]
struct Keyed {
    program: Program,
    wrapped: Option<Wrapped>,
    slots: [u32; 2],
    extensions: [u8; 4],
    dun: [u64; 4],
    /// The array of digests is too long by this many bytes.
    excess: i8,
}

#[derive(Debug, Arbitrary)]
struct Wrapped {
    second: bool,
    kind: Blob,
}

#[derive(Debug, PartialEq, Eq, Arbitrary)]
enum Blob {
    Good,
    AsGood,
    /// This bit of it is changed.
    Forged(u16),
    LongTerm,
}

impl<'a> Arbitrary<'a> for Keyed {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut program = Program::arbitrary(u)?;
        if u.ratio(7, 8)? {
            // Small, so that many requests have the same one.
            program.key %= 4;
        }
        let mut slots = [NO_SLOT; 2];
        if u.ratio(1, 20)? {
            slots[usize::from(u.arbitrary::<bool>()?)] = u.arbitrary()?;
        }
        let algorithm = if u.arbitrary()? { u.int_in_range(0..=4)? } else { 0 };
        let extensions = match u.int_in_range(0..=20)? {
            0 => u.arbitrary()?,
            1 => [algorithm, 0, 0, 0],
            _ => [algorithm, 1, 0, 0],
        };
        let excess = if u.ratio(1, 8)? { u.arbitrary()? } else { 0 };
        let dun = if u.arbitrary()? { edge(u)? } else { [number(u, 9)?, number(u, 2)?, 0, number(u, 1)?] };
        let wrapped = if u.ratio(1, 4)? { Some(u.arbitrary()?) } else { None };
        Ok(Self { program, wrapped, slots, extensions, dun, excess })
    }
}

impl Transfer {
    fn arbitrary(u: &mut Unstructured<'_>, plain: bool) -> Result<Self> {
        Ok(Self {
            write: u.arbitrary()?,
            sector: number(u, SECTORS)?,
            len: if u.ratio(1, 10)? {
                u.int_in_range(0..=9000)?
            } else {
                512 * u.int_in_range(0..=MOST_SECTORS as u32)?
            },
            seed: u.arbitrary()?,
            key: if plain { None } else { Some(u.arbitrary()?) },
        })
    }

    fn data(&self) -> Vec<u8> {
        (0..self.len).map(|i| (i as u8).wrapping_mul(self.seed) ^ (i >> 8) as u8).collect()
    }

    /// The algorithm and size of its digests, and the data unit size.
    fn digest(&self) -> Option<(u8, usize, usize)> {
        let Keyed { extensions: [algorithm, ..], program, .. } = self.key.as_ref()?;
        let (_, size) = DIGESTS.iter().find(|(known, _)| known == algorithm)?;
        Some((*algorithm, *size, 1 << program.unit_bits.min(31)))
    }

    /// Bytes of room for digests.
    fn array(&self) -> u32 {
        let Some((_, size, unit)) = self.digest() else { return 0 };
        // Smaller data units are refused.
        let right = self.len as usize / unit.max(512) * size;
        (right as u32).saturating_add_signed(self.key.as_ref().map_or(0, |keyed| keyed.excess.into()))
    }

    /// Bytes of its data. `None`: the room for digests is wrong, and that matters.
    fn data_len(&self) -> Option<usize> {
        let (len, array) = (self.len as usize, self.array() as usize);
        match self.digest() {
            None => Some(len),
            Some((_, size, unit)) if self.write => (array == len / unit * size).then_some(len),
            Some((_, size, unit)) => {
                (0..=len + array).step_by(unit).find(|data| data + data / unit * size == len + array)
            }
        }
    }

    /// The request with this in front of its data.
    fn request(&self, mut readable: Vec<u8>) -> Request {
        if self.write {
            readable.extend(self.data());
        }
        Request { readable, room: self.array() + if self.write { 1 } else { self.len + 1 } }
    }
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=31)? {
            0 => Self::Reset(u.arbitrary()?),
            1 => Self::Restart(u.int_in_range(0..=REQUEST_QUEUES - 1)?),
            2 | 3 => Self::Fault(u.arbitrary()?),
            4 => Self::Program(u.arbitrary()?, u.arbitrary()?),
            5 => {
                let mut transfer = Transfer::arbitrary(u, true)?;
                transfer.sector %= SECTORS;
                Self::Slot(transfer, [number(u, 9)?, 0, 0, 0], number(u, 4)? as u32)
            }
            6 => Self::GetExtensions,
            7 | 8 => Self::Wait,
            9..=12 => Self::Transfer(Transfer::arbitrary(u, true)?, u.arbitrary()?),
            _ => Self::Transfer(Transfer::arbitrary(u, false)?, u.arbitrary()?),
        })
    }
}

/// The expected result of a request.
#[derive(Debug)]
struct Expected {
    statuses: Vec<u8>,
    /// The expected bytes before the status. `None`: those that the driver left there.
    data: Option<Vec<u8>>,
}

impl Expected {
    fn only(statuses: Vec<u8>) -> Self {
        Self { statuses, data: None }
    }
}

/// Wrapped keys, long-term and ephemeral.
type Blobs = Vec<[Vec<u8>; 2]>;

struct Model {
    disk: Vec<u8>,
    fault: Fault,
    /// While there is a fault: the key of the last request, and the last key that differs from it.
    last: Option<[u8; 64]>,
    previous: Option<[u8; 64]>,
}

impl Model {
    fn transfer(&mut self, request: &Transfer) -> Expected {
        let Some(keyed) = &request.key else {
            let Some(at) = extent(request.sector, request.len as usize, self.disk.len()) else {
                return Expected::only(vec![IOERR]);
            };
            return self.done(request, at, None);
        };
        let mut refused = refusals(&keyed.program_with_type());
        let [algorithm, flags @ ..] = keyed.extensions;
        let is_key = algorithm <= BLAKE2B_256 && flags == [1, 0, 0];
        if !is_key {
            refused.push(UNSUPP);
        }
        // Without the flag the key descriptor of a write is data.
        let descriptor = if flags == [0; 3] && request.write { 152 } else { 0 };
        // The device needs the key to know where the data of a read with digests ends.
        let known = if request.digest().is_some() && !request.write { 0 } else { request.len as usize + descriptor };
        let at = extent(request.sector, known, self.disk.len());
        if at.is_none() || (is_key && keyed.slots != [NO_SLOT; 2]) {
            refused.push(IOERR);
        }
        let raw = match &keyed.wrapped {
            None if keyed.program.key_type == 1 && keyed.program.key_size == 64 => Some(key(keyed.program.key)),
            None => None,
            Some(Wrapped { second, kind: Blob::Good | Blob::AsGood }) if keyed.program.key_size == 64 => {
                Some(DERIVED[usize::from(*second)])
            }
            Some(_) => None,
        };
        let (Some(raw), Some(_), []) = (raw, at, &refused[..]) else {
            return Expected::only([refused, vec![IOERR]].concat());
        };
        let used = self.faulty(raw);
        let key = Key::new(used, &keyed.program);
        let at = request.data_len().and_then(|len| extent(request.sector, len, self.disk.len()));
        match at.filter(|at| key.fits(keyed.dun, at.len())) {
            Some(at) => self.done(request, at, Some((&key, keyed.dun))),
            None => Expected::only(vec![IOERR]),
        }
    }

    fn done(&mut self, request: &Transfer, at: Range<usize>, key: Option<(&Key, [u64; 4])>) -> Expected {
        let mut data = transfer(&mut self.disk[at.clone()], request.write, &request.data(), key);
        if let Some((algorithm, _, unit)) = request.digest() {
            data.extend(digests(algorithm, unit, &self.disk[at]));
        }
        Expected { statuses: vec![OK], data: Some(data) }
    }

    /// The key that is used in place of this one.
    fn faulty(&mut self, raw: [u8; 64]) -> [u8; 64] {
        if self.fault != Fault::None && self.last != Some(raw) {
            self.previous = self.last.replace(raw);
        }
        match self.fault {
            Fault::None => raw,
            Fault::PreviousKey => self.previous.unwrap_or(raw),
            Fault::HalvesSwapped => {
                let mut swapped = raw;
                swapped.rotate_left(32);
                swapped
            }
        }
    }

    fn forget_keys(&mut self) {
        (self.last, self.previous) = (None, None);
    }
}

impl Keyed {
    fn program_with_type(&self) -> Program {
        let key_type = if self.wrapped.is_some() { 2 } else { self.program.key_type };
        Program { key_type, ..self.program.clone() }
    }

    fn bytes(&self, write: bool, sector: u64, blobs: &Blobs) -> Vec<u8> {
        let program = self.program_with_type();
        let mut bytes = KeyedRequest::new(if write { CRYPTO_OUT_EXT } else { CRYPTO_IN_EXT }, sector, 0, &[]);
        (bytes.slots, bytes.extensions, bytes.dun) = (self.slots, self.extensions, self.dun);
        let Program { key_size, mode, key_type, unit_bits, dun_bytes, .. } = program;
        bytes.key = wire::Program::new(NO_SLOT, &key(program.key), unit_bits);
        bytes.key = wire::Program { key_size, mode, key_type, dun_bytes, ..bytes.key };
        if let Some(Wrapped { second, kind }) = &self.wrapped {
            let blob = &blobs[usize::from(*second)][usize::from(*kind != Blob::LongTerm)];
            bytes.key.key[..blob.len()].copy_from_slice(blob);
            if program.key_size == 64 {
                bytes.key.key_size = blob.len() as u32;
            }
            if let Blob::Forged(bit) = kind {
                let bit = usize::from(*bit) % (8 * blob.len());
                bytes.key.key[bit / 8] ^= 1 << (bit % 8);
            }
        }
        bytes.bytes()
    }
}

/// A request in flight.
struct Pending {
    /// For messages.
    what: String,
    at: u64,
    room: u32,
    expected: Expected,
}

struct Run<'g> {
    guest: &'g mut Guest,
    model: Model,
    in_band: bool,
    looks: [u8; 8],
    blobs: Blobs,
    pending: Vec<Pending>,
    /// By queue.
    added: [u16; REQUEST_QUEUES + 1],
    /// The bytes of the disk that requests in flight access, and whether they write.
    busy: Vec<(Range<usize>, bool)>,
}

impl Run<'_> {
    fn commands(&self, number: usize) -> usize {
        if self.in_band { number % REQUEST_QUEUES } else { CONTROL }
    }

    /// A command that returns a key.
    fn blob(&mut self, request_type: u32, bytes: &[u8]) -> Vec<u8> {
        let request = Request { readable: key_blob(request_type, bytes), room: REPLY + 1 };
        let (status, reply) = self.guest.request(self.commands(0), &request, &Cut::default());
        assert_eq!(status, OK, "command {request_type}");
        blob_of(&reply)
    }

    fn add(&mut self, queue: usize, request: &Request, cut: &Cut, expected: Expected, what: String) {
        let head = DESCRIPTORS * self.added[queue];
        self.added[queue] += 1;
        let at = self.guest.add(queue, head, request, cut);
        self.pending.push(Pending { what, at, room: request.room, expected });
    }

    /// Completes all requests; meanwhile the frontend does one thing.
    fn finish(&mut self, mut demand: Option<Demand>) {
        self.guest.device.schedule(&self.looks);
        self.guest.work_while(|_| demand.take().map(Some));
        for Pending { what, at, room, expected } in self.pending.drain(..) {
            let (status, bytes) = self.guest.answer(at, room);
            assert!(expected.statuses.contains(&status), "{what}: {status}, not {:?}", expected.statuses);
            match expected.data.filter(|data| !data.is_empty()) {
                Some(data) => assert!(bytes == data, "{what}: wrong data"),
                None => assert!(bytes.iter().all(|&byte| byte == FILL), "{what}: the device has written"),
            }
        }
        self.added = [0; REQUEST_QUEUES + 1];
        self.busy.clear();
    }

    fn do_op(&mut self, number: usize, op: &Op, cut: &Cut) {
        // With a fault it matters which key is the last one.
        if self.model.fault != Fault::None || self.added.contains(&DEPTH) {
            self.finish(None);
        }
        let commands = self.commands(number);
        let what = format!("{op:?}");
        match op {
            Op::Transfer(request, queue) => {
                let len = request.data_len().unwrap_or(request.len as usize);
                if let Some(at) = extent(request.sector, len, self.model.disk.len()) {
                    let overlaps = |(busy, writes): &(Range<usize>, bool)| {
                        busy.start < at.end && at.start < busy.end && (*writes || request.write)
                    };
                    if self.busy.iter().any(overlaps) {
                        self.finish(None);
                    }
                    self.busy.push((at, request.write));
                }
                let expected = self.model.transfer(request);
                let bytes = match &request.key {
                    Some(keyed) => keyed.bytes(request.write, request.sector, &self.blobs),
                    None => header(if request.write { OUT } else { IN }, request.sector),
                };
                let queue = usize::from(*queue) % REQUEST_QUEUES;
                self.add(queue, &request.request(bytes), cut, expected, what);
            }
            Op::Program(program, evicts) => {
                let readable = program.command(if *evicts { EVICT } else { PROGRAM });
                let expected = Expected::only(vec![UNSUPP]);
                self.add(commands, &Request { readable, room: 1 }, cut, expected, what);
            }
            Op::Slot(request, dun, slot) => {
                let request_type = if request.write { CRYPTO_OUT } else { CRYPTO_IN };
                let bytes = crypto_header(request_type, request.sector, *slot, *dun);
                let fits = extent(request.sector, request.len as usize, self.model.disk.len()).is_some();
                let expected = Expected::only(vec![if fits { UNSUPP } else { IOERR }]);
                self.add(number % REQUEST_QUEUES, &request.request(bytes), cut, expected, what);
            }
            Op::GetExtensions => {
                let data = Some([vec![0x1e, 0, 0, 0], vec![1], vec![0; 11]].concat());
                let request = Request { readable: header(GET_CRYPTO_EXTENSIONS, 0), room: 17 };
                self.add(commands, &request, cut, Expected { statuses: vec![OK], data }, what);
            }
            Op::Fault(fault) => {
                self.finish(None);
                let faults = self.guest.device.device.faults();
                faults.clear(None).expect("faults");
                self.model.forget_keys();
                self.model.fault = *fault;
                match fault {
                    Fault::None => {}
                    Fault::PreviousKey => drop(faults.add("previous-key").expect("fault")),
                    Fault::HalvesSwapped => drop(faults.add("key-halves-swapped").expect("fault")),
                }
            }
            Op::Restart(queue) => self.finish(Some(Demand::Restart(*queue))),
            Op::Reset(in_flight) => {
                if *in_flight {
                    self.finish(Some(Demand::Features(driver_features(self.in_band))));
                } else {
                    self.finish(None);
                    self.guest.set_features(driver_features(self.in_band));
                }
                self.model.forget_keys();
            }
            Op::Wait => self.finish(None),
        }
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(Input { disk, in_band, looks }) = Input::arbitrary(&mut u) else { return };
    let ops = all::<(Op, Cut)>(u, 60);
    let setting = Setting { features: driver_features(in_band), disk, keys_in_requests: true, ..Setting::plain(64) };
    with_guest(setting, |guest| {
        guest.clear_disk();
        let disk = vec![0; guest.disk as usize];
        let model = Model { disk, fault: Fault::None, last: None, previous: None };
        let mut run = Run {
            guest,
            model,
            in_band,
            looks,
            blobs: Vec::new(),
            pending: Vec::new(),
            added: [0; REQUEST_QUEUES + 1],
            busy: Vec::new(),
        };
        for raw in WRAPPED {
            let long_term = run.blob(IMPORT_KEY, &raw);
            let ephemeral = run.blob(PREPARE_KEY, &long_term);
            run.blobs.push([long_term, ephemeral]);
        }
        for (number, (op, cut)) in ops.iter().enumerate() {
            if crate::shown() {
                println!("{op:?}, {cut:?}");
            }
            run.do_op(number, op, cut);
        }
        run.finish(None);
        // The final content of the disk, read without a key.
        let sectors = (SECTORS + MOST_SECTORS).min(run.model.disk.len() as u64 / 512);
        for sector in (0..sectors).step_by(16) {
            let len = 512 * (sectors - sector).min(16) as u32;
            let request = Transfer { write: false, sector, len, seed: 0, key: None };
            run.do_op(0, &Op::Transfer(request, 0), &Cut::default());
        }
        run.finish(None);
    });
}
