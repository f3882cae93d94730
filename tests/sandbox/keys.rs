// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Searches the device's memory for keys that came with requests. The search runs outside of the program, as root, and
//! the program runs without its sandbox.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use libtest_mimic::Trial;
use vhost::vhost_user::VhostUserFrontend;
use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::engine::EngineConfig;
use vm_memory::{Bytes, GuestAddress};

use crate::common::ring::Buffers;
use crate::common::*;
use crate::device::{DISK, Device, ctl};
use test_driver::WRITE;

/// Requests in flight on each queue.
const DEPTH: usize = 16;
/// Different raw keys.
const RAW: u64 = 100;
/// Different wrapped keys, more than the device keeps unwrapped.
const WRAPPED: u64 = 40;
/// Size of the pieces to search for: pieces of this size are the first round keys, too.
const PIECE: usize = 16;

type Pieces = HashSet<[u8; PIECE]>;

fn pieces(keys: impl IntoIterator<Item = Vec<u8>>) -> Pieces {
    let pieces = keys.into_iter().flat_map(|key| {
        key.chunks_exact(PIECE).map(|piece| piece.try_into().expect("a piece")).collect::<Vec<[u8; PIECE]>>()
    });
    pieces.collect()
}

/// Where a program's memory has these pieces. Guest memory, which the driver must wipe, is left out.
fn search(pid: u32, pieces: &Pieces) -> Vec<String> {
    let mappings = || std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("mappings");
    let maps = mappings();
    let memory = File::open(format!("/proc/{pid}/mem")).expect("memory");
    let starts: HashSet<u16> = pieces.iter().map(|piece| u16::from_ne_bytes([piece[0], piece[1]])).collect();
    let mut starts_with = vec![false; 1 << 16];
    starts.iter().for_each(|&start| starts_with[usize::from(start)] = true);
    let (mut found, mut readable) = (Vec::new(), 0);
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        // The mapped image is not the device's own memory.
        if !rest.starts_with('r') || line.contains("/memfd:guest") || line.ends_with("/image") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (address(from), address(to));
        let mut bytes = vec![0; (to - from) as usize];
        if memory.read_exact_at(&mut bytes, from).is_err() {
            // Mappings of the kernel, such as [vvar], and those that are unmapped meanwhile.
            let kernels = line.ends_with(']') && !line.ends_with("[heap]") && !line.ends_with("[stack]");
            assert!(kernels || !mappings().lines().any(|now| now == line), "{line}");
            continue;
        }
        readable += bytes.len();
        for (at, window) in bytes.windows(PIECE).enumerate() {
            if starts_with[usize::from(u16::from_ne_bytes([window[0], window[1]]))] && pieces.contains(window) {
                found.push(format!("{:x} in {line}", from + at as u64));
            }
        }
    }
    assert!(readable > 1 << 20, "{readable} bytes of the program's memory can be read");
    found
}

fn assert_nothing_left(device: &Device, pieces: &Pieces, when: &str) {
    let found = search(device.child.id(), pieces);
    assert!(found.is_empty(), "{when}: {found:#?}");
}

fn raw_key(n: u64) -> [u8; 64] {
    key(5000 + n)
}

fn wrapped_key(n: u64) -> Vec<u8> {
    pattern(9000 + n, 32)
}

/// Requests in flight on a queue, and the addresses of their keys in guest memory.
struct Flight {
    queue: usize,
    sent: Vec<(Buffers, u64, usize)>,
}

impl Flight {
    /// Puts a request into guest memory, remembers its address, and makes it available.
    fn add(&mut self, guest: &mut Guest, request: &[u8], room: usize) {
        let ring = &mut guest.rings[self.queue];
        let (at, answer) = (ring.allocate(request.len()), ring.allocate(room));
        guest.memory.write_slice(request, GuestAddress(at)).expect("request");
        let pieces = [(at, request.len() as u32, 0), (answer, room as u32, WRITE)];
        self.sent.push((ring.add_pieces(&pieces, false), at, request.len()));
        ring.kick();
    }

    /// Waits for all answers, and wipes the requests as a driver does.
    fn land(&mut self, guest: &mut Guest) {
        for _ in 0..self.sent.len() {
            guest.rings[self.queue].wait();
        }
        for (buffers, at, len) in self.sent.drain(..) {
            let status = guest.rings[self.queue].read_writable(&buffers).pop();
            assert_eq!(status, Some(OK));
            guest.memory.write_slice(&vec![0; len], GuestAddress(at)).expect("request");
            guest.rings[self.queue].free(&buffers);
        }
    }
}

fn started(options: &[&str]) -> (Device, Guest) {
    let directory = tempfile::TempDir::new().expect("directory");
    let control = directory.path().join("control").display().to_string();
    let all = [&["--sandbox", "none", "--keyslots", "0", "--control", &control], options].concat();
    let device = Device::start_in(directory, &all, |_| {});
    let config = Options::default().config;
    let engine = EngineConfig { keyslots: 0, ..config.engine };
    let guest = Guest::with(Options {
        socket: Some(device.path("socket")),
        block_device: Some(device.path("image")),
        disk: DiskKind::Memory,
        image_bytes: DISK,
        ring_size: 256,
        config: DeviceConfig { engine, ..config },
        ..Options::default()
    });
    (device, guest)
}

/// Sends a command about a wrapped key, and wipes it afterwards.
fn blob(guest: &mut Guest, request_type: u32, bytes: &[u8]) -> Vec<u8> {
    let control = guest.control();
    let mut flight = Flight { queue: control, sent: Vec::new() };
    flight.add(guest, &key_blob(request_type, bytes), 133);
    let buffers = flight.sent[0].0.clone();
    flight.land(guest);
    let mut reply = guest.rings[control].read_writable(&buffers);
    reply.pop();
    blob_of(&reply)
}

/// Writes and reads back, with all keys at a time.
fn serve_all(guest: &mut Guest, blobs: &[Vec<u8>]) {
    for request_type in [CRYPTO_OUT_EXT, CRYPTO_IN_EXT] {
        let mut flights = [0, 1].map(|queue| Flight { queue, sent: Vec::new() });
        let mut send = |n: u64, key: &[u8], key_type: u32| {
            let mut request = KeyedRequest::new(request_type, n * 8, n, key);
            request.key.key_type = key_type;
            let flight = &mut flights[(n % 2) as usize];
            if request_type == CRYPTO_OUT_EXT {
                flight.add(guest, &[request.bytes(), pattern(n, 4096)].concat(), 1);
            } else {
                flight.add(guest, &request.bytes(), 4097);
            }
            if flight.sent.len() == DEPTH {
                flight.land(guest);
            }
        };
        for n in 0..RAW {
            send(n, &raw_key(n), 1);
            if let Some(blob) = blobs.get(n as usize) {
                send(RAW + n, blob, 2);
            }
        }
        flights.iter_mut().for_each(|flight| flight.land(guest));
    }
}

fn no_key_stays_in_memory(options: &[&str]) {
    let (device, mut guest) = started(options);
    let pid = device.child.id();
    let long_term: Vec<_> = (0..WRAPPED).map(|n| blob(&mut guest, IMPORT_KEY, &wrapped_key(n))).collect();
    let blobs: Vec<_> = long_term.iter().map(|blob_of| blob(&mut guest, PREPARE_KEY, blob_of)).collect();
    let raw = pieces((0..RAW).map(|n| raw_key(n).to_vec()));
    let derived = pieces((0..WRAPPED).map(|n| inline_encryption_key(&wrapped_key(n)).to_vec()));
    let imported = pieces((0..WRAPPED).map(wrapped_key));
    assert_nothing_left(&device, &imported, "after keys were imported");

    serve_all(&mut guest, &blobs);
    for n in 0..RAW {
        let expected = openssl_xts(&raw_key(n), n.into(), 4096, &pattern(n, 4096));
        assert!(guest.image_bytes(n * 4096, 4096) == expected, "request {n}");
    }
    for n in 0..WRAPPED {
        let expected =
            openssl_xts(&inline_encryption_key(&wrapped_key(n)), (RAW + n).into(), 4096, &pattern(RAW + n, 4096));
        assert!(guest.image_bytes((RAW + n) * 4096, 4096) == expected, "wrapped key {n}");
    }
    assert_nothing_left(&device, &raw, "at once");
    // The device caches unwrapped keys for a second, and not all at the same time. It is idle meanwhile.
    let request = |n: usize| {
        let mut request = KeyedRequest::new(CRYPTO_IN_EXT, 0, 0, &blobs[n]);
        request.key.key_type = 2;
        request.bytes()
    };
    let mut flight = Flight { queue: 0, sent: Vec::new() };
    for n in 0..5 {
        flight.add(&mut guest, &request(n), 4097);
        flight.land(&mut guest);
        std::thread::sleep(Duration::from_millis(150));
    }
    let cached = search(pid, &derived);
    std::thread::sleep(Duration::from_millis(1200));
    let all = &(&(&raw | &derived) | &imported);
    assert_nothing_left(&device, all, "a second later");
    assert!(!cached.is_empty(), "the device caches keys for a second, but the search does not find them");

    // A stopped queue keeps nothing either.
    flight.add(&mut guest, &request(7), 4097);
    flight.land(&mut guest);
    guest.frontend().set_vring_enable(0, false).expect("SET_VRING_ENABLE");
    std::thread::sleep(Duration::from_millis(1200));
    assert_nothing_left(&device, all, "a second after a queue was disabled");
    guest.frontend().set_vring_enable(0, true).expect("SET_VRING_ENABLE");

    // To show that the search works: it finds the key of a request in execution. The program is stopped meanwhile.
    let signal = |signal| {
        rustix::process::kill_process(rustix::process::Pid::from_child(&device.child), signal).expect("kill");
    };
    let in_use = raw_key(1_000_000);
    let in_use_pieces = pieces([in_use.to_vec()]);
    let seen = (0..20).any(|_| {
        let ring = &mut guest.rings[0];
        let request = KeyedRequest::new(CRYPTO_OUT_EXT, 0, 0, &in_use).bytes();
        let (at, data, status) = (ring.allocate(request.len()), ring.allocate(28 << 10), ring.allocate(1));
        guest.memory.write_slice(&request, GuestAddress(at)).expect("request");
        let data = [(data, 28 << 10, 0); 240];
        let chain = [&[(at, request.len() as u32, 0)][..], &data, &[(status, 1, WRITE)]].concat();
        let buffers = ring.add_pieces(&chain, false);
        ring.kick();
        std::thread::sleep(Duration::from_micros(500));
        signal(rustix::process::Signal::STOP);
        while !device.status("State").iter().all(|state| state.starts_with('T')) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let found = search(pid, &in_use_pieces);
        signal(rustix::process::Signal::CONT);
        ring.wait();
        ring.free(&buffers);
        guest.memory.write_slice(&vec![0; request.len()], GuestAddress(at)).expect("request");
        // The key itself, and its round keys.
        found.len() >= 2 * in_use_pieces.len()
    });
    assert!(seen, "the key of a request that is being served is not found");
    assert_nothing_left(&device, &in_use_pieces, "after the program was stopped in the middle of a request");

    // A request whose completion a fault delays does not need its key any more.
    let held = pieces([raw_key(2_000_000).to_vec()]);
    let (code, text) = ctl(&device, &["fault", "add", "delay=1s,op=read"]);
    assert_eq!(code, Some(0), "{text}");
    let request = KeyedRequest::new(CRYPTO_IN_EXT, 0, 0, &raw_key(2_000_000));
    flight.add(&mut guest, &request.bytes(), 4097);
    std::thread::sleep(Duration::from_millis(100));
    assert_nothing_left(&device, &held, "while the answer is held back");
    flight.land(&mut guest);

    // Faults that use another key keep the last one as long as they exist.
    let (code, text) = ctl(&device, &["fault", "clear"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = ctl(&device, &["fault", "add", "previous-key"]);
    assert_eq!(code, Some(0), "{text}");
    let request = KeyedRequest::new(CRYPTO_IN_EXT, 0, 0, &raw_key(2_000_000));
    flight.add(&mut guest, &request.bytes(), 4097);
    flight.land(&mut guest);
    assert!(!search(pid, &held).is_empty(), "a key that a fault keeps is not found");
    guest.restart();
    assert_nothing_left(&device, &held, "after a reset");
    drop(guest);
    assert_nothing_left(&device, &(all | &held), "when the frontend is gone");
    device.finish();
}

pub fn trials() -> Vec<Trial> {
    let ways: [(&str, &[&str]); 3] = [
        ("sync", &["--aio", "sync"]),
        ("threads", &["--aio", "threads", "--cache", "none"]),
        ("io_uring", &["--aio", "io_uring", "--cache", "none"]),
    ];
    let obstacle = if cfg!(debug_assertions) {
        Some("code that is not optimised leaves round keys on the stack; xtask runs this with --release")
    } else {
        (!rustix::process::geteuid().is_root()).then_some("only root can read a program's memory")
    };
    ways.map(|(name, options)| {
        let obstacle = obstacle.or_else(|| crate::device::obstacle(options));
        super::trial(format!("keys::no_key_stays_in_memory_{name}"), obstacle, || no_key_stays_in_memory(options))
    })
    .into()
}
