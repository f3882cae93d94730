// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guest memory is missing: its file is truncated, is too small from the start, or no huge page is left for it. The
//! program says so, survives, and serves the next frontend.

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::machine::{Driver, Machine, random};
use common::ring::PATIENCE;
use common::*;
use rustix::fs::{MemfdFlags, memfd_create};
use test_driver::WRITE;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VringConfigData};
use vm_memory::{Bytes, GuestAddress};

const DISK: u64 = 8 << 20;
const HALF: u64 = MEMORY_BYTES / 2;
/// The log's message about missing memory.
const NOT_THERE: &str = "part of the guest's memory is missing";

/// The program with an image, in the sandbox. Killed when dropped.
struct Running {
    child: Child,
    directory: tempfile::TempDir,
}

impl Running {
    fn start(options: &[&str], in_memory: bool) -> Self {
        let directory = if in_memory { "/dev/shm" } else { env!("CARGO_TARGET_TMPDIR") };
        let directory = tempfile::tempdir_in(directory).expect("directory");
        let path = |name: &str| directory.path().join(name);
        File::create(path("image")).expect("image").set_len(DISK).expect("image");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").stdin(Stdio::null());
        command.args(["--num-queues", "2", "--keyslots", "4", "--workers", "2"]).args(options);
        // The sandbox would stop a sanitizer from reporting what it has found.
        command.args(std::env::var("TEST_SANDBOX").iter().flat_map(|mode| ["--sandbox", mode]));
        command.arg("--socket-path").arg(path("socket")).arg("--blk-file").arg(path("image"));
        let child = command.stderr(File::create(path("log")).expect("log")).spawn().expect("program");
        let mut program = Self { child, directory };
        program.wait_for("serving ");
        program
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("log")
    }

    fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("wait");
        assert!(ended.is_none(), "the program has ended: {ended:?}\n{}", self.log());
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            self.assert_running();
            assert!(Instant::now() < deadline, "{text:?} is not in the log: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A frontend with its queues started, and a key in slot 0.
    fn guest(&self) -> Guest {
        let mut guest = Guest::with(Options {
            socket: Some(self.path("socket")),
            disk: DiskKind::Memory,
            protocol: VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS | VhostUserProtocolFeatures::REPLY_ACK,
            ..Options::default()
        });
        guest.frontend().set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let control = guest.control();
        guest.request(control, &Program::new(0, &key(0), 12).bytes(), 1).assert_only_status(OK);
        guest
    }

    fn image(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let image = File::open(self.path("image")).expect("image");
        std::os::unix::fs::FileExt::read_exact_at(&image, &mut bytes, offset).expect("image");
        bytes
    }

    /// The next frontend finds all data, and both queues work.
    fn assert_serves_the_next(&mut self, encrypted: &[u8], plain: &[u8]) {
        self.assert_running();
        let mut guest = self.guest();
        let answer = guest.request(0, &crypto_header(CRYPTO_IN, ENCRYPTED, 0, [0; 4]), encrypted.len() + 1);
        assert!(answer.status == OK && answer.data == encrypted);
        assert!(self.image(ENCRYPTED * 512, encrypted.len()) == openssl_xts(&key(0), 0, 4096, encrypted));
        let answer = guest.request(1, &header(IN, PLAIN), plain.len() + 1);
        assert!(answer.status == OK && answer.data == plain);
        guest.request(0, &crypto_write(SPARE, 0, [9, 0, 0, 0], &pattern(3, 4096)), 1).assert_only_status(OK);
        assert!(self.image(SPARE * 512, 4096) == openssl_xts(&key(0), 9, 4096, &pattern(3, 4096)));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sectors: of data that must stay, and where requests fail.
const ENCRYPTED: u64 = 0;
const PLAIN: u64 = 2048;
const SPARE: u64 = 3072;
const VICTIM: u64 = 4096;

/// Writes the data that must stay. Where requests will fail, writes often enough for later writes to be in place.
fn fill(program: &Running) -> (Vec<u8>, Vec<u8>) {
    let (encrypted, plain) = (pattern(1, 64 << 10), pattern(2, 64 << 10));
    let mut guest = program.guest();
    guest.request(0, &crypto_write(ENCRYPTED, 0, [0; 4], &encrypted), 1).assert_only_status(OK);
    guest.request(0, &write_request(PLAIN, &plain), 1).assert_only_status(OK);
    for _ in 0..3 {
        guest.request(0, &write_request(VICTIM, &plain), 1).assert_only_status(OK);
    }
    guest.disconnect();
    (encrypted, plain)
}

/// The other side has closed the connection.
fn assert_hung_up(guest: &Guest, program: &Running) {
    let mut connection = guest.connection.as_ref().expect("connected");
    connection.set_read_timeout(Some(PATIENCE)).expect("socket");
    match connection.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the session has not ended: {other:?}\n{}", program.log()),
    }
}

/// Missing data buffers: each kind of request fails, on every way to the disk.
fn lost_buffers(options: &[&str], in_memory: bool) {
    let mut program = Running::start(options, in_memory);
    let (encrypted, plain) = fill(&program);
    let before = program.image(VICTIM * 512, plain.len());
    for (crypto, write) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut guest = program.guest();
        let mut head = match (crypto, write) {
            (false, false) => header(IN, VICTIM),
            (false, true) => header(OUT, VICTIM),
            (true, false) => crypto_header(CRYPTO_IN, VICTIM, 0, [0; 4]),
            (true, true) => crypto_header(CRYPTO_OUT, VICTIM, 0, [0; 4]),
        };
        // The last page that stays, and pages that go.
        let data = MEMORY_START + HALF - 4096;
        let (at, status) = (guest.rings[0].allocate(head.len()), guest.rings[0].allocate(1));
        guest.memory.write_slice(&std::mem::take(&mut head), GuestAddress(at)).expect("header");
        guest.memory.write_slice(&pattern(7, 4096), GuestAddress(data)).expect("data");
        guest.memory.write_slice(&[FILL], GuestAddress(status)).expect("status");
        guest.memory_file.set_len(HALF).expect("cut off");
        let len = if crypto { 48 } else { 16 };
        let pieces = [(at, len, 0), (data, 64 << 10, if write { 0 } else { WRITE }), (status, 1, WRITE)];
        let ring = &mut guest.rings[0];
        ring.add_pieces(&pieces, false);
        ring.kick();
        ring.wait();
        let what = format!("crypto {crypto}, write {write}, {options:?}: {}", program.log());
        assert_eq!(guest.memory.read_obj::<u8>(GuestAddress(status)).expect("status"), IOERR, "{what}");
        program.wait_for(NOT_THERE);
        program.assert_running();
        if !in_memory {
            // Only the part that exists may be written.
            let after = program.image(VICTIM * 512 + 4096, plain.len() - 4096);
            assert!(after == before[4096..], "something was written: {what}");
        }
        guest.disconnect();
    }
    program.assert_serves_the_next(&encrypted, &plain);
}

/// The region with a queue's ring is gone, and its requests wait. The log says why.
#[test]
fn a_queue_whose_ring_is_gone_says_so() {
    let mut program = Running::start(&[], true);
    let mut guest = program.guest();
    let region = guest.region(0, HALF);
    guest.frontend().remove_mem_region(&region).expect("REM_MEM_REG");
    guest.rings[0].kick();
    program.wait_for("queue 0 waits: the frontend has removed the memory of its ring");
    guest.frontend().add_mem_region(&region).expect("ADD_MEM_REG");
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
}

/// The image is shorter than it was. That is another error than missing guest memory.
#[test]
fn a_truncated_image_is_named() {
    let mut program = Running::start(&["--aio", "sync"], false);
    let image = File::options().write(true).open(program.path("image")).expect("image");
    let mut guest = program.guest();
    image.set_len(1 << 20).expect("truncated");
    guest.request(0, &header(IN, VICTIM), 4097).assert_only_status(IOERR);
    program.wait_for("an access to the image failed");
    assert!(!program.log().contains(NOT_THERE), "{}", program.log());
}

#[test]
fn buffers_are_cut_off_and_data_is_moved_by_system_calls() {
    lost_buffers(&["--aio", "sync"], false);
}

#[test]
fn buffers_are_cut_off_and_data_is_moved_in_place() {
    lost_buffers(&["--aio", "sync"], true);
}

#[test]
fn buffers_are_cut_off_and_helper_threads_move_data() {
    lost_buffers(&["--aio", "threads"], false);
}

#[test]
fn buffers_are_cut_off_and_the_engine_is_portable() {
    lost_buffers(&["--aio", "sync", "--crypto-engine", "portable"], true);
}

/// The device does not take a missing key for a key of zeroes.
#[test]
fn a_key_is_cut_off() {
    let mut program = Running::start(&[], false);
    let (encrypted, plain) = fill(&program);
    let mut guest = program.guest();
    let command = Program::new(1, &key(1), 12).bytes();
    let ring = &mut guest.rings[2];
    // All of the command but the key stays.
    let (at, key) = (ring.allocate(command.len()), 20..148);
    let status = ring.allocate(1);
    guest.memory.write_slice(&command, GuestAddress(at)).expect("command");
    guest.memory.write_slice(&[FILL], GuestAddress(status)).expect("status");
    guest.memory_file.set_len(HALF).expect("cut off");
    let pieces = [
        (at, key.start as u32, 0),
        (MEMORY_START + HALF, key.len() as u32, 0),
        (at + key.end as u64, (command.len() - key.end) as u32, 0),
        (status, 1, WRITE),
    ];
    ring.add_pieces(&pieces, false);
    ring.kick();
    ring.wait();
    assert_eq!(guest.memory.read_obj::<u8>(GuestAddress(status)).expect("status"), IOERR);
    assert_hung_up(&guest, &program);
    program.wait_for(NOT_THERE);
    guest.disconnect();
    program.assert_serves_the_next(&encrypted, &plain);
}

/// Missing rings, with requests in them, one in flight, or none.
#[test]
fn rings_are_cut_off() {
    let delayed: &[&str] = &["--fault", "delay=300ms,op=read"];
    for (options, requests) in [(&[][..], 10), (&["--poll-us", "0"], 0), (delayed, 5), (&["--poll-us", "5000"], 1)] {
        let mut program = Running::start(options, false);
        let (encrypted, plain) = fill(&program);
        for bytes in [0, 4096, 8192] {
            let mut guest = program.guest();
            for _ in 0..requests {
                guest.rings[0].add(&header(IN, PLAIN), 4097);
            }
            if options == delayed {
                guest.rings[0].kick();
                std::thread::sleep(Duration::from_millis(100));
            }
            // From here on, this process must not access them either.
            guest.memory_file.set_len(bytes).expect("cut off");
            guest.rings[0].kick();
            assert_hung_up(&guest, &program);
            guest.disconnect();
            program.assert_running();
        }
        program.wait_for(NOT_THERE);
        program.assert_serves_the_next(&encrypted, &plain);
    }
}

/// The main thread reads a ring when it sets it up.
#[test]
fn a_ring_is_set_up_in_memory_that_was_cut_off() {
    let mut program = Running::start(&[], false);
    let (encrypted, plain) = fill(&program);
    let mut guest = program.guest();
    guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
    guest.memory_file.set_len(0).expect("cut off");
    let start = guest.region(0, HALF).userspace_addr;
    let config = VringConfigData {
        queue_max_size: 256,
        queue_size: 64,
        flags: 0,
        desc_table_addr: start,
        avail_ring_addr: start + 4096,
        used_ring_addr: start + 8192,
        log_addr: None,
    };
    assert!(guest.frontend().set_vring_addr(0, &config).is_err(), "SET_VRING_ADDR was confirmed");
    assert_hung_up(&guest, &program);
    program.wait_for(NOT_THERE);
    guest.disconnect();
    program.assert_serves_the_next(&encrypted, &plain);
}

/// A region of huge pages on a system that has none free: the usual case if none are reserved.
#[test]
fn no_huge_page_is_left() {
    const HUGE: u64 = 2 << 20;
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let (Ok("0"), Some(memfd)) = (free.as_deref().map(str::trim), huge_memfd()) else {
        return eprintln!("this system has free huge pages, or does not support them");
    };
    memfd.set_len(2 * HUGE).expect("size");
    for (options, in_memory) in [(&["--aio", "sync"][..], true), (&["--aio", "threads"], false)] {
        let mut program = Running::start(options, in_memory);
        let (encrypted, plain) = fill(&program);
        let mut guest = program.guest();
        // In addition to the guest's memory.
        let mut region = guest.region(1 << 30, 2 * HUGE);
        (region.mmap_offset, region.mmap_handle) = (0, memfd.as_raw_fd());
        guest.frontend().add_mem_region(&region).expect("ADD_MEM_REG");
        let ring = &mut guest.rings[0];
        let (head, status) = (ring.allocate(16), ring.allocate(1));
        guest.memory.write_slice(&header(IN, PLAIN), GuestAddress(head)).expect("header");
        let room = region.guest_phys_addr + HUGE + 12345;
        ring.add_pieces(&[(head, 16, 0), (room, 4096, WRITE), (status, 1, WRITE)], false);
        ring.kick();
        ring.wait();
        assert_eq!(guest.memory.read_obj::<u8>(GuestAddress(status)).expect("status"), IOERR);
        program.wait_for(NOT_THERE);
        guest.disconnect();
        program.assert_serves_the_next(&encrypted, &plain);
    }
}

/// Invalid regions: each ends the session with an error that says what is wrong.
#[test]
fn regions_are_refused() {
    type Attempt = fn(&mut Guest) -> bool;
    let huge_pages: (&str, Attempt) = ("huge pages of 2097152 bytes", |guest| {
        // munmap(2) could not remove it.
        let memfd = huge_memfd().expect("a kernel with huge pages");
        memfd.set_len(2 << 20).expect("size");
        let mut region = guest.region(1 << 30, 4096);
        (region.mmap_offset, region.mmap_handle) = (0, memfd.as_raw_fd());
        guest.frontend().add_mem_region(&region).is_err()
    });
    let attempts: [(&str, Attempt); 8] = [
        ("has only 67108864 bytes", |guest| {
            guest.memory_file.set_len(HALF).expect("cut off");
            let region = guest.region(1 << 30, 4096);
            guest.frontend().add_mem_region(&region).is_err()
        }),
        ("has only 67108864 bytes", |guest| {
            guest.memory_file.set_len(HALF).expect("cut off");
            let region = guest.region(4096, HALF);
            guest.frontend().set_mem_table(&[region]).is_err()
        }),
        ("intersect", |guest| {
            let mut region = guest.region(HALF - 4096, 8192);
            region.mmap_offset = 0;
            guest.frontend().add_mem_region(&region).is_err()
        }),
        ("intersect", |guest| {
            let regions = [guest.region(0, HALF), guest.region(4096, HALF)];
            guest.frontend().set_mem_table(&regions).is_err()
        }),
        ("that does not exist: 67104768 bytes at 0x100000 ", |guest| {
            let region = guest.region(0, HALF - 4096);
            guest.frontend().remove_mem_region(&region).is_err()
        }),
        ("that does not exist: 67108864 bytes at 0x101000 ", |guest| {
            let region = guest.region(4096, HALF);
            guest.frontend().remove_mem_region(&region).is_err()
        }),
        ("the frontend's 0x7000", |guest| {
            let mut region = guest.region(0, HALF);
            region.userspace_addr += 4096;
            guest.frontend().remove_mem_region(&region).is_err()
        }),
        ("has 509 regions already", |guest| {
            // Two are there.
            for number in 0..507 {
                let mut region = guest.region((1 << 30) + number * 8192, 4096);
                region.mmap_offset = number * 4096;
                guest.frontend().add_mem_region(&region).expect("ADD_MEM_REG");
            }
            let mut region = guest.region(1 << 31, 4096);
            region.mmap_offset = 0;
            guest.frontend().add_mem_region(&region).is_err()
        }),
    ];
    for (sentence, attempt) in huge_memfd().map(|_| huge_pages).into_iter().chain(attempts) {
        let mut program = Running::start(&[], false);
        let (encrypted, plain) = fill(&program);
        let mut guest = program.guest();
        assert_eq!(guest.frontend().get_max_mem_slots().expect("GET_MAX_MEM_SLOTS"), 509);
        assert!(attempt(&mut guest), "{sentence}: this was confirmed");
        assert_hung_up(&guest, &program);
        guest.disconnect();
        program.wait_for(sentence);
        program.assert_serves_the_next(&encrypted, &plain);
    }
}

/// The frontend's in-flight region is truncated under load: requests continue, without tracking.
#[test]
fn the_in_flight_region_is_cut_off() {
    let mut machine = Machine::new(&[]);
    let (wanted, theirs) = machine.inflight.take().expect("region");
    let ours = File::from(memfd_create("in-flight", MemfdFlags::CLOEXEC).expect("memfd"));
    ours.set_len(theirs.metadata().expect("region").len()).expect("size");
    let (mut random, mut driver) = (random(11), Driver::new());
    machine.frontend = None;
    machine.inflight = Some((wanted, ours.try_clone().expect("region")));
    machine.connect();
    driver.work(&mut machine, &mut random, Duration::from_millis(100));
    ours.set_len(0).expect("cut off");
    driver.work(&mut machine, &mut random, Duration::from_millis(200));
    driver.finish(&mut machine, &mut random);
    machine.assert_running();
    // The next session has a region of its own again.
    (machine.frontend, machine.inflight) = (None, None);
    machine.connect();
    driver.work(&mut machine, &mut random, Duration::from_millis(100));
    driver.finish(&mut machine, &mut random);
    machine.assert_running();
    assert!(driver.completed > 100);
    let [covered, open] = driver.covered();
    driver.check_image(&machine, &[covered, open].concat());
}
