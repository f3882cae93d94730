// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The trace file: a header, then records. All numbers are little-endian. `docs/trace.md` describes it in words.

use std::io::{self, Read};

use crate::observe::clock::{self, Stage, Times};
use crate::observe::record::{CryptoUse, Kind, Record};

/// First bytes of a file.
pub const MAGIC: [u8; 8] = *b"VUBCTRAC";
/// Version of the format.
pub const VERSION: u32 = 2;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// 64-bit words of a record.
pub const RECORD_WORDS: usize = 8;
/// Bytes of a record.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;

/// Words of a record.
pub type Words = [u64; RECORD_WORDS];

/// The request found a key: slot, generation, DUN and data units are valid.
const CRYPTO: u64 = 1 << 0;
/// The request was refused for its form.
const REFUSED: u64 = 1 << 1;
/// There was no header: the type is not valid.
const NO_HEADER: u64 = 1 << 2;
/// The next record has the rest of this request.
const MORE: u64 = 1 << 3;
/// No request: the second word is the worker whose records follow.
const WORKER: u64 = 1 << 5;
/// Not a request: the rest of the previous one.
const REST: u64 = 1 << 6;
/// Not a request: the second word is how many records were lost here.
const LOST: u64 = 1 << 7;

/// The header of a trace that began at a time of day, in nanoseconds since 1970.
pub fn header(realtime: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let fields = [
        &MAGIC[..],
        &VERSION.to_le_bytes(),
        &(HEADER_BYTES as u32).to_le_bytes(),
        &(RECORD_BYTES as u32).to_le_bytes(),
        &[0; 4],
        &realtime.to_le_bytes(),
    ];
    bytes.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
    bytes
}

/// A request as one record, or as two if it does not fit in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    pub record: Words,
    pub more: Option<Words>,
}

/// The slot of a key that came with its request.
const NO_SLOT: u16 = u16::MAX;

/// Encodes a request. `epoch` is when the trace began, in ticks.
#[inline]
pub fn encode(record: &Record, times: &Times, epoch: u64) -> Encoded {
    let short = |number: u64| number.min(u64::from(u32::MAX));
    let started = if times.started > epoch { clock::nanos(epoch, times.started) } else { 0 };
    let nothing = CryptoUse { slot: None, generation: 0, dun: [0; 4], units: 0 };
    let CryptoUse { slot, generation, dun: [a, b, c, d], units } = record.crypto.unwrap_or(nothing);
    let (total, disk) = (times.total, times.of(Stage::Disk));
    let needs_more = b | c | d != 0 || (total | disk) >> 32 != 0;
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    let flags = flag(record.crypto.is_some(), CRYPTO)
        | flag(record.refused, REFUSED)
        | flag(record.request_type.is_none(), NO_HEADER)
        | flag(needs_more, MORE);
    // No request passes both.
    let engine = times.of(Stage::Crypto) | times.of(Stage::Program);
    let place = u64::from(record.queue)
        | u64::from(record.head) << 16
        | u64::from(slot.map_or(NO_SLOT, |slot| slot as u16)) << 32; // at most 4096
    Encoded {
        record: [
            started,
            record.sector,
            generation,
            a,
            short(total) | short(disk) << 32,
            short(engine) | short(record.bytes) << 32,
            u64::from(record.request_type.unwrap_or(0)) | short(units) << 32,
            place | (record.status as u64) << 48 | flags << 56,
        ],
        more: needs_more.then_some([total, disk, b, c, d, 0, 0, REST << 56]),
    }
}

/// The record as bytes of the file.
pub fn to_bytes(record: &Words) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes.chunks_exact_mut(8).zip(record).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
    bytes
}

/// Whether a record begins a request.
pub fn is_request(record: &Words) -> bool {
    flags_of(record) & (WORKER | REST | LOST) == 0
}

fn flags_of([.., last]: &Words) -> u64 {
    last >> 56
}

/// Precedes the records of a worker.
pub fn worker_entry(number: u16) -> Words {
    [0, number.into(), 0, 0, 0, 0, 0, WORKER << 56]
}

/// Replaces records that were lost.
pub fn lost(count: u64) -> Words {
    [0, count, 0, 0, 0, 0, 0, LOST << 56]
}

/// A request in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // those of `Record`
pub struct TraceRecord {
    /// When it was taken from its queue, nanoseconds since the trace began.
    pub started: u64,
    /// Nanoseconds from then to its end.
    pub total: u64,
    /// Nanoseconds in this stage; 0 if the request did not pass it.
    pub disk: u64,
    /// As `disk`, at most 4.29 s.
    pub crypto: u32,
    /// As `crypto`.
    pub program: u32,
    pub queue: u16,
    pub head: u16,
    /// The worker, numbered from 0.
    pub worker: u16,
    pub request_type: Option<u32>,
    pub sector: u64,
    /// 2^32 - 1 if there are more.
    pub bytes: u32,
    pub key: Option<CryptoUse>,
    /// The status byte that the driver got.
    pub status: u8,
    pub refused: bool,
}

/// An entry of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceEntry {
    /// A request.
    Request(TraceRecord),
    /// Records that a worker lost because its ring was full.
    Lost {
        /// The worker.
        worker: u16,
        /// How many.
        count: u64,
    },
}

/// Decodes a request from its record, and the next one if there is a rest. The casts take the low bits on purpose.
fn decode(record: &Words, more: Option<&Words>, worker: u16) -> TraceRecord {
    let [started, sector, generation, a, times, sizes, kind, place] = *record;
    let flags = flags_of(record);
    let (mut total, mut disk, mut dun) = (times & 0xffff_ffff, times >> 32, [a, 0, 0, 0]);
    if let Some(&[long_total, long_disk, b, c, d, ..]) = more {
        (total, disk, dun) = (long_total, long_disk, [a, b, c, d]);
    }
    let request_type = (flags & NO_HEADER == 0).then_some(kind as u32);
    let engine = sizes as u32;
    let (crypto, program) = if Kind::of(request_type) == Kind::Program { (0, engine) } else { (engine, 0) };
    let slot = Some((place >> 32) as u16).filter(|&slot| slot != NO_SLOT).map(u32::from);
    let key = CryptoUse { slot, generation, dun, units: kind >> 32 };
    TraceRecord {
        started,
        total,
        disk,
        crypto,
        program,
        queue: place as u16,
        head: (place >> 16) as u16,
        worker,
        request_type,
        sector,
        bytes: (sizes >> 32) as u32,
        key: (flags & CRYPTO != 0).then_some(key),
        status: (place >> 48) as u8,
        refused: flags & REFUSED != 0,
    }
}

/// Reads a trace.
pub struct Reader<R> {
    input: R,
    /// When it began, nanoseconds since 1970.
    pub realtime: u64,
    record_bytes: usize,
    /// The worker of the current records.
    worker: u16,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is not a trace, or one of another version.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let no_trace = || bad("this is not a trace".into());
        input.read_exact(&mut header).map_err(|_| no_trace())?;
        let [magic, sizes, rest, realtime, ..] = words::<{ HEADER_BYTES / 8 }>(&header);
        if magic.to_le_bytes() != MAGIC {
            return Err(no_trace());
        }
        let (version, header_bytes, record_bytes) = (sizes as u32, sizes >> 32, rest & 0xffff_ffff);
        if version != VERSION || header_bytes < HEADER_BYTES as u64 || record_bytes < RECORD_BYTES as u64 {
            return Err(bad(format!("this trace has version {version}; this program reads version {VERSION}")));
        }
        // A later version may have a longer header.
        io::copy(&mut input.by_ref().take(header_bytes - HEADER_BYTES as u64), &mut io::sink())?;
        let record_bytes = usize::try_from(record_bytes.min(1 << 16)).unwrap_or(RECORD_BYTES);
        Ok(Self { input, realtime, record_bytes, worker: 0 })
    }

    /// The next entry, or `None` at the end. An incomplete last record counts as the end: the trace may still grow.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn next_entry(&mut self) -> io::Result<Option<TraceEntry>> {
        while let Some(record) = self.next_record()? {
            let [_, number, ..] = record;
            match flags_of(&record) {
                flags if flags & WORKER != 0 => self.worker = number as u16, // as it was written
                flags if flags & LOST != 0 => return Ok(Some(TraceEntry::Lost { worker: self.worker, count: number })),
                flags if flags & REST != 0 => {} // without its first record
                flags if flags & MORE != 0 => {
                    let Some(more) = self.next_record()? else { return Ok(None) };
                    if flags_of(&more) & REST == 0 {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record of the trace is missing"));
                    }
                    return Ok(Some(TraceEntry::Request(decode(&record, Some(&more), self.worker))));
                }
                _ => return Ok(Some(TraceEntry::Request(decode(&record, None, self.worker)))),
            }
        }
        Ok(None)
    }

    fn next_record(&mut self) -> io::Result<Option<Words>> {
        let mut bytes = [0; RECORD_BYTES];
        match self.input.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let more = (self.record_bytes - RECORD_BYTES) as u64; // checked by `new`
        io::copy(&mut self.input.by_ref().take(more), &mut io::sink())?;
        Ok(Some(words(&bytes)))
    }
}

/// Little-endian words.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Stopwatch;
    use crate::protocol::Status;

    /// Writes a request to a file as worker 5, and reads it again.
    fn read_again(Encoded { record, more }: Encoded) -> TraceRecord {
        let mut file = header(0).to_vec();
        [Some(worker_entry(5)), Some(record), more].iter().flatten().for_each(|record| file.extend(to_bytes(record)));
        let mut reader = Reader::new(&file[..]).expect("a trace");
        let Ok(Some(TraceEntry::Request(read))) = reader.next_entry() else { panic!("a request") };
        assert_eq!(reader.next_entry().expect("a file"), None);
        read
    }

    #[test]
    fn what_is_written_is_read() {
        let watch = Stopwatch::running_since(clock::ticks());
        let times = watch.stop().expect("running");
        let mut record = Record::new(300, 0xabcd, watch);
        for dun in [[1, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, u64::MAX]] {
            let key = CryptoUse { slot: Some(4095), generation: 1 << 40, dun, units: 9 };
            record.request_type = Some(28);
            (record.sector, record.bytes, record.crypto) = (1 << 50, 1 << 40, Some(key));
            record.status = Status::NoKey;
            let encoded = encode(&record, &times, times.started);
            assert_eq!(encoded.more.is_some(), dun[1] | dun[2] | dun[3] != 0);
            let read = read_again(encoded);
            assert_eq!((read.queue, read.head, read.worker, read.request_type), (300, 0xabcd, 5, Some(28)));
            assert_eq!((read.sector, read.bytes, read.key, read.status), (1 << 50, u32::MAX, Some(key), 0xe0));
            assert_eq!((read.started, read.total, read.refused), (0, times.total, false));
        }
        record = Record::new(0, 0, watch);
        record.refused = true;
        let mut long = times;
        long.total = 1 << 33;
        for (times, total) in [(times, times.total), (long, 1 << 33)] {
            let read = read_again(encode(&record, &times, 0));
            assert_eq!((read.request_type, read.key, read.refused, read.status), (None, None, true, 1));
            assert_eq!(read.total, total);
        }
    }

    #[test]
    fn records_that_are_no_requests() {
        let watch = Stopwatch::running_since(clock::ticks());
        let request = encode(&Record::new(1, 2, watch), &watch.stop().expect("running"), 0);
        let records = [lost(77), worker_entry(3), lost(4), [0, 0, 0, 0, 0, 0, 0, REST << 56], request.record];
        let file: Vec<u8> = header(0).into_iter().chain(records.iter().flat_map(to_bytes)).collect();
        let mut reader = Reader::new(&file[..]).expect("a trace");
        assert_eq!(reader.next_entry().expect("a file"), Some(TraceEntry::Lost { worker: 0, count: 77 }));
        assert_eq!(reader.next_entry().expect("a file"), Some(TraceEntry::Lost { worker: 3, count: 4 }));
        let Ok(Some(TraceEntry::Request(read))) = reader.next_entry() else { panic!("a request") };
        assert_eq!((read.worker, read.queue, read.head), (3, 1, 2));
        assert_eq!(reader.next_entry().expect("a file"), None);
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"VUBCTRAC", &[0; 200]] {
            assert!(Reader::new(bytes).is_err());
        }
        let mut other = header(0);
        other[8] = 1;
        assert!(Reader::new(&other[..]).is_err_and(|error| error.to_string().contains("version 1")));
        assert!(Reader::new(&header(5)[..]).is_ok_and(|reader| reader.realtime == 5));
    }
}
