// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Traces of the device in this process. The test parses the file as `docs/trace.md` describes it; the program reads
//! it, too.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::digested::{Digested, program};
use common::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const RECORD: usize = 64;

/// Little-endian.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Checks the header; returns the records of requests that need one record each.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).expect("trace");
    assert_eq!(&bytes[..8], b"VUBCTRAC");
    assert_eq!((number(&bytes, 8, 4), number(&bytes, 12, 4), number(&bytes, 16, 4)), (3, 64, RECORD as u64));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_nanos() as u64;
    assert!(number(&bytes, 24, 8) <= now && number(&bytes, 24, 8) > now - 600_000_000_000);
    assert_eq!((bytes.len() - 64) % RECORD, 0);
    let (workers, requests): (Vec<_>, Vec<_>) =
        bytes[64..].chunks(RECORD).map(<[u8]>::to_vec).partition(|record| record[63] == 0x20);
    assert!(!workers.is_empty() && workers.iter().all(|record| number(record, 8, 8) < 8), "a worker served them");
    requests
}

/// A reset, so that the test knows all heads and generations; then requests of all kinds.
fn some_requests(guest: &mut Guest) {
    let control = guest.control();
    guest.request(control, &Program::new(3, &key(1), 12).bytes(), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(16, 3, [u64::MAX, 0, 0, 0], &pattern(2, 4096)), 1).assert_only_status(OK);
    guest.request(1, &crypto_header(CRYPTO_IN, 16, 2, [5, 6, 7, 8]), 512 + 1).assert_only_status(NOKEY);
    guest.request(1, &header(IN, u64::MAX), 512 + 1).assert_only_status(IOERR);
    assert_eq!(guest.request(1, &header(IN, 24), 1024 + 1).status, OK);
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    guest.request(0, &[1, 2, 3], 1);
}

#[test]
fn a_record_for_each_request_with_all_that_is_promised() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("trace");
    let mut guest = Guest::new();
    some_requests(&mut guest); // before: not in the trace
    let device = std::sync::Arc::clone(&guest.device);
    device.observer().start_trace(&path).expect("trace");
    some_requests(&mut guest);
    let status = device.observer().sync_trace().expect("trace");
    assert_eq!((status.records, status.dropped, status.error), (7, 0, None));
    assert_eq!(records(&path).len(), 7, "the file has all requests");
    device.observer().stop_trace().expect("trace");
    some_requests(&mut guest); // after
    assert!(device.observer().trace_status().is_none());

    let mut records = records(&path);
    records.sort_by_key(|record| number(record, 0, 8));
    assert_eq!(records.len(), 7);
    let field = |record: usize, at, len| number(&records[record], at, len);
    // offset of type, sector, bytes, queue, status, flags
    let shape = |record| {
        (field(record, 48, 4), field(record, 8, 8), field(record, 44, 4), field(record, 56, 2), field(record, 62, 1))
    };
    assert_eq!(shape(0), (30, 0, 0, 2, 0));
    assert_eq!(shape(1), (27, 16, 4096, 0, 0));
    assert_eq!(shape(2), (28, 16, 512, 1, 0xe0));
    assert_eq!(shape(3), (0, 0, 0, 1, 1));
    assert_eq!(shape(4), (0, 24, 1024, 1, 0));
    assert_eq!(shape(5), (4, 0, 0, 0, 0));
    assert_eq!(shape(6).4, 1);
    let flags: Vec<u64> = (0..7).map(|record| field(record, 63, 1)).collect();
    assert_eq!(flags, [0, 1, 0, 2, 0, 0, 2 | 4]);
    // The key: slot, generation, DUN, data units.
    assert_eq!((field(1, 60, 2), field(1, 16, 8), field(1, 52, 4)), (3, 2, 1));
    assert_eq!(field(1, 24, 8), u64::MAX);
    assert_eq!(field(2, 60, 2), 0xffff, "found no key");
    // Times: each stage has its own, and none is longer than the total.
    let total = |record| field(record, 32, 4);
    let (disk, engine) = (|record| field(record, 36, 4), |record| field(record, 40, 4));
    assert!((0..7).all(|record| total(record) > 0 && total(record) < 4_000_000_000));
    assert!(engine(0) > 0 && engine(0) <= total(0), "program");
    assert!(engine(1) > 0 && disk(1) > 0, "crypto and disk");
    assert!(engine(1) + disk(1) <= total(1));
    assert_eq!((engine(3), disk(3)), (0, 0), "refused");
    assert!(disk(5) > 0, "flush");
    // No data, no key.
    let bytes = std::fs::read(&path).expect("trace");
    for secret in [&key(1)[..], &pattern(2, 4096), &openssl_xts(&key(1), u128::from(u64::MAX), 4096, &pattern(2, 4096))]
    {
        assert!(secret.chunks_exact(8).all(|piece| !bytes.windows(8).any(|window| window == piece)));
    }
    // The file is private.
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("trace").permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// A key that came with its request has a fingerprint: the same for the same key, another one in another run, and it
/// reveals nothing of the key.
#[test]
fn fingerprints_of_keys_in_requests() {
    let directory = TempDir::new().expect("directory");
    let runs: Vec<Vec<u64>> = ["one", "two"]
        .map(|name| {
            let path = directory.path().join(name);
            let mut options = Options::default();
            options.config.engine.keyslots = 0;
            let mut guest = Guest::with(options);
            guest.device.observer().start_trace(&path).expect("trace");
            for seed in [1, 2, 1, 3] {
                let request = KeyedRequest::new(CRYPTO_OUT_EXT, 0, seed, &key(seed)).bytes();
                guest.request(0, &[request, pattern(1, 4096)].concat(), 1).assert_only_status(OK);
            }
            guest.device.observer().stop_trace().expect("trace");
            let mut records = records(&path);
            records.sort_by_key(|record| number(record, 0, 8));
            for record in &records {
                // Type, flags, slot, data units.
                let shape = (number(record, 48, 4), record[63], number(record, 60, 2), number(record, 52, 4));
                assert_eq!(shape, (CRYPTO_OUT_EXT.into(), 1, 0xffff, 1));
            }
            records.iter().map(|record| number(record, 16, 8)).collect()
        })
        .into();
    for run in &runs {
        assert!(
            run.len() == 4 && run[0] == run[2] && run[0] != run[1] && run[0] != run[3] && run[1] != run[3],
            "{run:x?}"
        );
        let fronts = [1, 2, 3].map(|seed| number(&key(seed), 0, 8));
        assert!(run.iter().all(|fingerprint| *fingerprint != 0 && !fronts.contains(fingerprint)));
    }
    assert!(runs[0].iter().all(|fingerprint| !runs[1].contains(fingerprint)));
    let output = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"))
        .args(["ctl", "trace", "dump"])
        .arg(directory.path().join("one"))
        .output()
        .expect("program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("key {:016x} dun 0x1 units 1", runs[0][0])), "{text}");
}

/// The highest byte of the type, and a flag.
#[test]
fn algorithms_of_digests() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("trace");
    let mut guest = Guest::new();
    program(&mut guest, 0, &key(1), 12);
    guest.device.observer().start_trace(&path).expect("trace");
    for (algorithm, size) in DIGESTS {
        let request = Digested { sector: 0, slot: 0, algorithm, dun: 0 };
        assert_eq!(request.write(&mut guest, 0, &pattern(1, 4096), size).status, OK);
    }
    guest.device.observer().stop_trace().expect("trace");
    let mut records = records(&path);
    records.sort_by_key(|record| number(record, 0, 8));
    for (record, (algorithm, _)) in records.iter().zip(DIGESTS) {
        let shape = (number(record, 48, 3), record[51], record[63], number(record, 44, 4));
        assert_eq!(shape, (CRYPTO_OUT_EXT.into(), algorithm, 1 | 0x10, 4096));
    }
    let (code, text) = dump(&path, "text");
    let names = ["crc32c", "xxhash64", "sha256", "blake2b-256"];
    assert!(code == Some(0) && text.lines().count() == 4, "{text}");
    assert!(
        text.lines()
            .zip(names)
            .all(|(line, name)| line.contains(" crypto_out_ext ")
                && line.contains(&format!(" units 1 digest {name} OK"))),
        "{text}"
    );
    let (_, text) = dump(&path, "jsonl");
    for (line, name) in text.lines().zip(names) {
        let json: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&json["digest"], &json["type_number"]), (&json!(name), &json!(CRYPTO_OUT_EXT)));
    }
}

#[test]
fn a_file_that_is_no_trace_is_not_overwritten() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("file");
    std::fs::write(&path, "precious").expect("file");
    let mut guest = Guest::new();
    let device = std::sync::Arc::clone(&guest.device);
    assert!(device.observer().start_trace(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).expect("file"), "precious");
    // The program overwrites old traces. A second trace ends the first.
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    for trace in [&old, &new, &old] {
        device.observer().start_trace(trace).expect("trace");
        // One that is refused ends none.
        assert!(device.observer().start_trace(&path).is_err());
        some_requests(&mut guest);
    }
    device.observer().stop_trace().expect("trace");
    assert_eq!((records(&old).len(), records(&new).len()), (7, 7));
}

fn dump(path: &Path, format: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
    command.args(["ctl", "trace", "dump", "--format", format]).arg(path).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("program");
    (status.code(), String::from_utf8([stdout, stderr].concat()).expect("text"))
}

/// A DUN of more than 64 bits, and a request that took more than 4.3 s: each has a second record.
#[test]
fn what_does_not_fit_in_a_record_is_in_a_second_one() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("trace");
    let mut guest = Guest::new();
    let control = guest.control();
    let program = Program { dun_bytes: 16, ..Program::new(3, &key(1), 12) };
    guest.request(control, &program.bytes(), 1).assert_only_status(OK);
    let device = std::sync::Arc::clone(&guest.device);
    device.faults().add("delay=4500ms,op=flush").expect("a fault");
    device.observer().start_trace(&path).expect("trace");
    guest.request(0, &crypto_write(16, 3, [1, 2, 0, 0], &pattern(2, 4096)), 1).assert_only_status(OK);
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    device.observer().stop_trace().expect("trace");
    let records = records(&path);
    let field = |record: usize, at, len| number(&records[record], at, len);
    assert_eq!((0..4).map(|record| field(record, 63, 1)).collect::<Vec<_>>(), [1 | 8, 0x40, 8, 0x40]);
    assert_eq!((field(0, 24, 8), [16, 24, 32].map(|at| field(1, at, 8))), (1, [2, 0, 0]));
    assert_eq!((field(0, 32, 4), field(0, 36, 4)), (field(1, 0, 8), field(1, 8, 8)));
    assert_eq!(field(2, 32, 4), 0xffff_ffff);
    assert!((4_500_000_000..60_000_000_000).contains(&field(3, 0, 8)));
    let (_, text) = dump(&path, "text");
    assert!(text.contains(" dun 0x20000000000000001 units 1 OK ") && text.lines().count() == 2, "{text}");
}

/// A trace made by hand, for which all output is known.
fn golden() -> Vec<u8> {
    let mut bytes = b"VUBCTRAC".to_vec();
    for word in [3u32, 64, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize(64, 0);
    let mut record = |words: [u64; 4], halves: [u32; 6], place: [u16; 3], end: [u8; 2]| {
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        halves.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
        place.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
        bytes.extend(end);
    };
    record([0, 1, 0, 0], [0; 6], [0; 3], [0, 0x20]);
    record([1_500, 0, 0, 0], [9_999, 0, 7_650, 0, 30, 0], [2, 1, 0xffff], [0, 0]);
    record([0, 0, 0, 0], [0; 6], [0; 3], [0, 0x20]);
    record([2_000_001_000, 2048, 5, 7], [12_345, 4_321, 1_234, 4096, 28, 1], [0, 9, 3], [0, 1 | 8]);
    record([12_345, 4_321, 0, 1], [0; 6], [0; 3], [0, 0x40]);
    record([0, 12, 0, 0], [0; 6], [0; 3], [0, 0x80]);
    record([2_000_002_000, 0, 0, 0], [600, 0, 0, 0, 999, 0], [1, 2, 0xffff], [2, 2]);
    // A record that is only partly written.
    bytes.extend([0; 50]);
    bytes
}

#[test]
fn dumps_are_text_json_lines_or_chrome() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("trace");
    std::fs::write(&path, golden()).expect("trace");
    let (code, text) = dump(&path, "text");
    let expected = "   0.000001500 q2 #1    keyslot_program  sector 0          bytes 0        OK 9.9 us, program 7.6 us\n   \
         2.000001000 q0 #9    crypto_in        sector 2048       bytes 4096     slot 3 gen 5 dun \
         0x100000000000000000000000000000007 units 1 OK 12.3 us, crypto 1.2 us, disk 4.3 us\n\
         -- worker 0: 12 records lost --\n   \
         2.000002000 q1 #2    other            sector 0          bytes 0        UNSUPP refused 0.6 us\n";
    assert_eq!((code, text.as_str()), (Some(0), expected));

    let (_, text) = dump(&path, "jsonl");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        lines[1],
        json!({"time_ns": 2_000_001_000u64, "queue": 0, "head": 9, "lane": 0, "type": "crypto_in", "type_number": 28,
            "sector": 2048, "bytes": 4096, "slot": 3, "generation": 5, "dun": "0x100000000000000000000000000000007",
            "data_units": 1, "status": "OK", "refused": false, "total_ns": 12_345, "program_ns": 0,
            "crypto_ns": 1_234, "disk_ns": 4_321})
    );
    assert_eq!(lines[2], json!({"lost": 12, "lane": 0}));
    assert_eq!((lines.len(), &lines[3]["type"], &lines[3]["type_number"]), (4, &json!("other"), &json!(999)));

    let (_, text) = dump(&path, "chrome");
    let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
    assert_eq!(of("M").len(), 3, "a name for each queue");
    let (begin, end) = (of("b"), of("e"));
    assert_eq!((begin.len(), end.len()), (3, 3));
    for (begin, end) in begin.iter().zip(&end) {
        assert!(
            ["cat", "name", "id", "pid", "tid"].iter().all(|name| begin[name] == end[name] && !begin[name].is_null())
        );
    }
    assert_eq!((&begin[1]["ts"], &end[1]["ts"]), (&json!(2_000_001.0), &json!(2_000_013.345)));
    assert_eq!(begin[1]["args"]["slot"], 3);

    std::fs::write(&path, &golden()[..64]).expect("trace");
    assert_eq!((dump(&path, "text").1, dump(&path, "jsonl").1), (String::new(), String::new()));
    assert_eq!(serde_json::from_str::<Value>(&dump(&path, "chrome").1).expect("JSON"), json!([]));
    std::fs::write(&path, "something else that is long enough to hold a header of sixty-four bytes").expect("file");
    let (code, text) = dump(&path, "text");
    assert!(code == Some(2) && text.contains("not a trace"), "{text}");
}
