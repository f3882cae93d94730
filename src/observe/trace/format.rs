// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The trace file: a header, then records. All numbers are little-endian. `docs/trace.md` says the same in words.

use std::io::{self, Read};

use crate::observe::clock::{self, Stage, Times};
use crate::observe::record::{CryptoUse, Record};

/// First bytes of a file.
pub const MAGIC: [u8; 8] = *b"VUBCTRAC";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// 64-bit words of a record.
pub const RECORD_WORDS: usize = 13;
/// Bytes of a record.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;

/// The request found a key: slot, generation, DUN and data units count.
const CRYPTO: u64 = 1 << 0;
/// The request was refused for its form.
const REFUSED: u64 = 1 << 1;
/// There was no header: the type means nothing.
const NO_HEADER: u64 = 1 << 2;
/// No request: the second word says how many records were lost here.
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

/// The words of a record. `epoch` is when the trace began, in ticks.
pub fn encode(record: &Record, times: &Times, lane: u16, epoch: u64) -> [u64; RECORD_WORDS] {
    let short = |number: u64| number.min(u64::from(u32::MAX));
    let started = if times.started > epoch { clock::nanos(epoch, times.started) } else { 0 };
    let nothing = CryptoUse { slot: u32::MAX, generation: 0, dun: [0; 4], units: 0 };
    let CryptoUse { slot, generation, dun: [a, b, c, d], units } = record.crypto.unwrap_or(nothing);
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    let flags = flag(record.crypto.is_some(), CRYPTO)
        | flag(record.refused, REFUSED)
        | flag(record.request_type.is_none(), NO_HEADER);
    [
        started,
        times.total,
        times.of(Stage::Disk),
        record.sector,
        generation,
        a,
        b,
        c,
        d,
        short(times.of(Stage::Crypto)) | short(record.bytes) << 32,
        u64::from(record.request_type.unwrap_or(0)) | u64::from(slot) << 32,
        short(units) | u64::from(record.queue) << 32 | u64::from(record.head) << 48,
        record.status as u64 | flags << 8 | u64::from(lane) << 16 | short(times.of(Stage::Program)) << 32,
    ]
}

/// As the file has it.
pub fn to_bytes(record: &[u64; RECORD_WORDS]) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes.chunks_exact_mut(8).zip(record).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
    bytes
}

/// Stands for records that were lost.
pub fn lost(lane: u16, count: u64) -> [u64; RECORD_WORDS] {
    let mut words = [0; RECORD_WORDS];
    let [_, lost, .., last] = &mut words;
    (*lost, *last) = (count, LOST << 8 | u64::from(lane) << 16);
    words
}

/// A request, as it stands in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // those of `Record`
pub struct TraceRecord {
    /// When it was taken from its queue, nanoseconds since the trace began.
    pub started: u64,
    /// Nanoseconds from then to its end.
    pub total: u64,
    /// Nanoseconds in this stage, 0 when it was not passed.
    pub disk: u64,
    /// As `disk`, 4.29 s at the most.
    pub crypto: u32,
    /// As `crypto`.
    pub program: u32,
    pub queue: u16,
    pub head: u16,
    /// The worker, numbered from 0.
    pub lane: u16,
    pub request_type: Option<u32>,
    pub sector: u64,
    /// 2^32 - 1 when it is more.
    pub bytes: u32,
    pub key: Option<CryptoUse>,
    /// The status byte that the driver got.
    pub status: u8,
    pub refused: bool,
}

/// What a trace consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A request.
    Request(TraceRecord),
    /// Records that a worker could not hand over in time.
    Lost {
        /// The worker.
        lane: u16,
        /// How many.
        count: u64,
    },
}

/// `words` of a record to what they mean. The casts take the low bits on purpose.
fn decode(words: [u64; RECORD_WORDS]) -> Entry {
    let [started, total, disk, sector, generation, a, b, c, d, sizes, kind, place, end] = words;
    let flags = end >> 8 & 0xff;
    let lane = (end >> 16) as u16;
    if flags & LOST != 0 {
        return Entry::Lost { lane, count: total };
    }
    let slot = (kind >> 32) as u32;
    let key = CryptoUse { slot, generation, dun: [a, b, c, d], units: place & 0xffff_ffff };
    Entry::Request(TraceRecord {
        started,
        total,
        disk,
        crypto: sizes as u32,
        program: (end >> 32) as u32,
        queue: (place >> 32) as u16,
        head: (place >> 48) as u16,
        lane,
        request_type: (flags & NO_HEADER == 0).then_some(kind as u32),
        sector,
        bytes: (sizes >> 32) as u32,
        key: (flags & CRYPTO != 0).then_some(key),
        status: end as u8,
        refused: flags & REFUSED != 0,
    })
}

/// Reads a trace.
pub struct Reader<R> {
    input: R,
    /// When it began, nanoseconds since 1970.
    pub realtime: u64,
    record_bytes: usize,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is no trace, or one of another version.
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
        // A later program may write more than this one knows.
        io::copy(&mut input.by_ref().take(header_bytes - HEADER_BYTES as u64), &mut io::sink())?;
        let record_bytes = usize::try_from(record_bytes.min(1 << 16)).unwrap_or(RECORD_BYTES);
        Ok(Self { input, realtime, record_bytes })
    }

    /// The next entry, or `None` at the end. A last record that is not whole is left out: the trace may go on.
    ///
    /// # Errors
    /// The system's.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut bytes = [0; RECORD_BYTES];
        match self.input.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let more = (self.record_bytes - RECORD_BYTES) as u64; // checked by `new`
        io::copy(&mut self.input.by_ref().take(more), &mut io::sink())?;
        Ok(Some(decode(words(&bytes))))
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

    #[test]
    fn what_is_written_is_read() {
        let watch = Stopwatch::running_since(clock::ticks());
        let times = watch.stop().expect("running");
        let key = CryptoUse { slot: 7, generation: 1 << 40, dun: [1, 2, 3, 4], units: 9 };
        let mut record = Record::new(300, 0xabcd, watch);
        record.request_type = Some(28);
        (record.sector, record.bytes, record.crypto) = (1 << 50, 1 << 40, Some(key));
        record.status = Status::NoKey;
        let Entry::Request(read) = decode(encode(&record, &times, 5, times.started)) else { panic!("a request") };
        assert_eq!((read.queue, read.head, read.lane, read.request_type), (300, 0xabcd, 5, Some(28)));
        assert_eq!((read.sector, read.bytes, read.key, read.status), (1 << 50, u32::MAX, Some(key), 0xe0));
        assert_eq!((read.started, read.total, read.refused), (0, times.total, false));
        record = Record::new(0, 0, watch);
        record.refused = true;
        let Entry::Request(read) = decode(encode(&record, &times, 0, 0)) else { panic!("a request") };
        assert_eq!((read.request_type, read.key, read.refused, read.status), (None, None, true, 1));
        assert_eq!(decode(lost(3, 77)), Entry::Lost { lane: 3, count: 77 });
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"VUBCTRAC", &[0; 200]] {
            assert!(Reader::new(bytes).is_err());
        }
        let mut other = header(0);
        other[8] = 2;
        assert!(Reader::new(&other[..]).is_err_and(|error| error.to_string().contains("version 2")));
        assert!(Reader::new(&header(5)[..]).is_ok_and(|reader| reader.realtime == 5));
    }
}
