// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In-flight tracking: the real program is killed at any moment and started again, and every request is completed once.

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::ring::{Buffers, PATIENCE};
use common::*;
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_user_blk_crypto::protocol::feature;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

const QUEUES: usize = 2;
const RING: u16 = 64;
const MEMORY: u64 = 48 << 20;
const USER_BASE: u64 = 0x7000_0000_0000;
const BLOCK: usize = 4096;
const BLOCKS: u64 = 512;

/// A frontend that keeps rings, guest memory and in-flight region while the device behind it comes and goes.
struct Machine {
    directory: tempfile::TempDir,
    options: Vec<String>,
    program: Option<Child>,
    frontend: Option<Frontend>,
    memory: GuestMemoryMmap,
    memory_file: File,
    rings: Vec<Ring>,
    inflight: Option<(VhostUserInflight, File)>,
}

impl Machine {
    fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        File::create(directory.path().join("image")).expect("image").set_len(BLOCKS * BLOCK as u64).expect("image");
        let memory_file: File =
            rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd").into();
        memory_file.set_len(MEMORY).expect("memfd");
        let offset = FileOffset::new(memory_file.try_clone().expect("memfd"), 0);
        let start = GuestAddress(MEMORY_START);
        let memory = GuestMemoryMmap::from_ranges_with_files([(start, MEMORY as usize, Some(offset))]).expect("memory");
        let rings = (0..QUEUES).map(|index| Ring::new(&memory, MEMORY_START, index, RING, true)).collect();
        let mut machine = Self {
            directory,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            program: None,
            frontend: None,
            memory,
            memory_file,
            rings,
            inflight: None,
        };
        machine.start_program();
        machine.connect();
        machine
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn start_program(&mut self) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        program.args(["--num-queues", "2", "--in-band", "--log-level", "warn"]);
        program.arg("--socket-path").arg(self.directory.path().join("socket"));
        program.arg("--blk-file").arg(self.image()).args(&self.options).stdin(Stdio::null());
        self.program = Some(program.spawn().expect("program"));
    }

    /// What QEMU does when it has reconnected.
    fn connect(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut frontend = loop {
            match Frontend::connect(self.directory.path().join("socket"), QUEUES as u64) {
                Ok(frontend) => break frontend,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("cannot connect: {error}"),
            }
        };
        frontend.set_owner().expect("SET_OWNER");
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let offered = frontend.get_features().expect("GET_FEATURES");
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD;
        assert!(frontend.get_protocol_features().expect("GET_PROTOCOL_FEATURES").contains(wanted));
        frontend.set_protocol_features(wanted).expect("SET_PROTOCOL_FEATURES");
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let features = offered & !(feature::CTRL_VQ | feature::INLINE_ENCRYPTION) | protocol;
        frontend.set_features(features).expect("SET_FEATURES");
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: MEMORY_START,
            memory_size: MEMORY,
            userspace_addr: USER_BASE,
            mmap_offset: 0,
            mmap_handle: self.memory_file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).expect("SET_MEM_TABLE");
        let (wanted, file) = self.inflight.get_or_insert_with(|| {
            frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, QUEUES as u16, RING)).expect("GET_INFLIGHT_FD")
        });
        frontend.set_inflight_fd(wanted, file.as_raw_fd()).expect("SET_INFLIGHT_FD");
        for (index, ring) in self.rings.iter().enumerate() {
            let config = VringConfigData {
                queue_max_size: RING,
                queue_size: RING,
                flags: 0,
                desc_table_addr: ring.descriptors - MEMORY_START + USER_BASE,
                used_ring_addr: ring.used - MEMORY_START + USER_BASE,
                avail_ring_addr: ring.avail - MEMORY_START + USER_BASE,
                log_addr: None,
            };
            frontend.set_vring_num(index, RING).expect("SET_VRING_NUM");
            // All that is known when GET_VRING_BASE was not answered.
            frontend.set_vring_base(index, ring.used_index(&self.memory)).expect("SET_VRING_BASE");
            frontend.set_vring_addr(index, &config).expect("SET_VRING_ADDR");
            frontend.set_vring_kick(index, &ring.kick).expect("SET_VRING_KICK");
            frontend.set_vring_call(index, &ring.call).expect("SET_VRING_CALL");
            frontend.set_vring_err(index, &ring.err).expect("SET_VRING_ERR");
            frontend.set_vring_enable(index, true).expect("SET_VRING_ENABLE");
        }
        self.frontend = Some(frontend);
    }

    /// SIGKILL. All that the program had started is over when this returns.
    fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill().expect("kill");
            program.wait().expect("wait");
        }
        self.frontend = None;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Requests of the test's driver.
#[derive(Debug, Clone)]
enum Ask {
    Write { block: u64, seed: u64 },
    Read { block: u64 },
    Flush,
    Program { slot: u32 },
}

/// Blocks from here on are encrypted.
const ENCRYPTED: u64 = BLOCKS / 2;

fn slot(block: u64) -> u32 {
    (block % 2) as u32
}

struct Driver {
    /// In flight, by queue and head.
    sent: HashMap<(usize, u16), (Ask, Buffers)>,
    /// What each block holds, as far as it is known.
    blocks: HashMap<u64, u64>,
    busy: Vec<u64>,
    again: Vec<Ask>,
    completed: u64,
    nokeys: u64,
}

impl Driver {
    fn bytes(ask: &Ask) -> (Vec<u8>, usize) {
        let sector = |block: u64| block * BLOCK as u64 / 512;
        match *ask {
            Ask::Write { block, seed } if block < ENCRYPTED => (write_request(sector(block), &pattern(seed, BLOCK)), 1),
            Ask::Write { block, seed } => {
                (crypto_write(sector(block), slot(block), [block, 0, 0, 0], &pattern(seed, BLOCK)), 1)
            }
            Ask::Read { block } if block < ENCRYPTED => (header(IN, sector(block)), BLOCK + 1),
            Ask::Read { block } => (crypto_header(CRYPTO_IN, sector(block), slot(block), [block, 0, 0, 0]), BLOCK + 1),
            Ask::Flush => (header(FLUSH, 0), 1),
            Ask::Program { slot } => (Program::new(slot, &key(slot.into()), 12).bytes(), 1),
        }
    }

    fn send(&mut self, machine: &mut Machine, queue: usize, ask: Ask) {
        let (readable, writable) = Self::bytes(&ask);
        let buffers = machine.rings[queue].add(&machine.memory, &readable, writable, &Cut::default());
        machine.rings[queue].kick();
        assert!(self.sent.insert((queue, buffers.head), (ask, buffers)).is_none());
    }

    /// Something that disturbs nothing that is in flight.
    fn choose(&mut self, random: &mut impl FnMut(u64) -> u64) -> Option<Ask> {
        if let Some(ask) = self.again.pop() {
            return Some(ask);
        }
        let block = random(BLOCKS);
        if self.busy.contains(&block) {
            return None;
        }
        let ask = match random(10) {
            0 => return Some(Ask::Flush),
            1 => return Some(Ask::Program { slot: random(2) as u32 }),
            2..=4 if self.blocks.contains_key(&block) => Ask::Read { block },
            _ => Ask::Write { block, seed: random(u64::MAX) },
        };
        self.busy.push(block);
        Some(ask)
    }

    fn reap(&mut self, machine: &mut Machine, queue: usize) {
        while let Some((head, used)) = machine.rings[queue].take_used(&machine.memory) {
            let (ask, buffers) = self.sent.remove(&(queue, head)).expect("a request in flight is returned, once");
            let answer = Answer::new(used, machine.rings[queue].read_writable(&machine.memory, &buffers));
            machine.rings[queue].free(&buffers);
            if answer.status == NOKEY {
                // The keys went with the program that was killed.
                self.nokeys += 1;
                let (Ask::Write { block, .. } | Ask::Read { block }) = ask else { panic!("{ask:?}") };
                self.again.extend([ask, Ask::Program { slot: slot(block) }]);
                continue;
            }
            assert_eq!(answer.status, OK, "{ask:?}");
            self.completed += 1;
            match ask {
                Ask::Write { block, seed } => {
                    self.blocks.insert(block, seed);
                    self.busy.retain(|&busy| busy != block);
                }
                Ask::Read { block } => {
                    assert!(answer.data == pattern(self.blocks[&block], BLOCK), "block {block}");
                    self.busy.retain(|&busy| busy != block);
                }
                Ask::Flush | Ask::Program { .. } => {}
            }
        }
    }
}

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    }
}

/// How the connection ends.
#[derive(Clone, Copy)]
enum End {
    Kill,
    HangUp,
}

fn survive(options: &[&str], ends: &[End], seed: u64) {
    let mut machine = Machine::new(options);
    let mut random = random(seed);
    let mut driver = Driver {
        sent: HashMap::new(),
        blocks: HashMap::new(),
        busy: Vec::new(),
        again: Vec::new(),
        completed: 0,
        nokeys: 0,
    };
    for (round, end) in ends.iter().map(Some).chain([None]).enumerate() {
        let until = Instant::now() + Duration::from_micros(500 + random(40_000));
        let deadline = Instant::now() + PATIENCE;
        // The last round ends when there is nothing more to do.
        while end.map_or(!driver.sent.is_empty() || !driver.again.is_empty(), |_| Instant::now() < until) {
            assert!(Instant::now() < deadline, "requests are not answered: {:?}", driver.sent);
            for queue in 0..QUEUES {
                let in_flight = driver.sent.keys().filter(|(of, _)| *of == queue).count();
                if in_flight < 16
                    && (end.is_some() || !driver.again.is_empty())
                    && let Some(ask) = driver.choose(&mut random)
                {
                    driver.send(&mut machine, queue, ask);
                }
                driver.reap(&mut machine, queue);
            }
        }
        match end {
            Some(End::Kill) => {
                machine.kill();
                // What the driver does while nobody is there.
                for queue in 0..QUEUES {
                    driver.reap(&mut machine, queue);
                    if let Some(ask) = driver.choose(&mut random) {
                        driver.send(&mut machine, queue, ask);
                    }
                }
                machine.start_program();
                machine.connect();
            }
            Some(End::HangUp) => {
                machine.frontend = None;
                machine.connect();
            }
            None => {}
        }
        assert!(machine.program.as_mut().expect("running").try_wait().expect("wait").is_none(), "round {round}");
    }
    println!("{} requests, {} without a key", driver.completed, driver.nokeys);
    assert!(driver.completed > 100);
    let image = File::open(machine.image()).expect("image");
    for (&block, &seed) in &driver.blocks {
        let mut found = vec![0; BLOCK];
        image.read_exact_at(&mut found, block * BLOCK as u64).expect("image");
        let plain = pattern(seed, BLOCK);
        let expected =
            if block < ENCRYPTED { plain } else { openssl_xts(&key(slot(block).into()), block.into(), BLOCK, &plain) };
        assert!(found == expected, "block {block}");
    }
}

#[test]
fn killed_again_and_again() {
    survive(&[], &[End::Kill; 25], 1);
}

#[test]
fn killed_with_helper_threads() {
    survive(&["--aio", "threads"], &[End::Kill; 15], 2);
}

#[test]
fn killed_in_write_through_mode() {
    survive(&["--cache", "writethrough", "--workers", "1"], &[End::Kill; 15], 3);
}

#[test]
fn the_frontend_hangs_up_and_comes_back() {
    survive(&[], &[End::HangUp; 20], 4);
}

#[test]
fn killed_and_hung_up_on() {
    survive(&["--poll-us", "0"], &[End::Kill, End::HangUp, End::HangUp, End::Kill, End::Kill, End::HangUp], 5);
}

/// Regions that are no regions end the session with an error, and the next frontend is served.
#[test]
fn bad_regions_are_refused() {
    let mut machine = Machine::new(&[]);
    let (good, file) = machine.inflight.take().expect("region");
    let fd = file.as_raw_fd();
    let bad = |change: fn(&mut VhostUserInflight)| {
        let mut region = good;
        change(&mut region);
        region
    };
    for region in [
        // For queues that run already.
        good,
        bad(|region| region.mmap_size -= 1),
        bad(|region| region.num_queues = 200),
        bad(|region| region.queue_size = 32768),
        bad(|region| region.mmap_offset = 1 << 20),
        bad(|region| region.mmap_offset = u64::MAX),
        bad(|region| region.mmap_size = u64::MAX),
    ] {
        let frontend = machine.frontend.as_mut().expect("connected");
        if region.mmap_size == good.mmap_size
            && region.num_queues == good.num_queues
            && region.queue_size == RING
            && region.mmap_offset == 0
        {
            assert!(frontend.set_inflight_fd(&region, fd).is_err());
        } else {
            for index in 0..QUEUES {
                frontend.get_vring_base(index).expect("GET_VRING_BASE");
            }
            assert!(frontend.set_inflight_fd(&region, fd).is_err());
        }
        machine.frontend = None;
        machine.inflight = None;
        machine.connect();
    }
    for (queues, size) in [(100, RING), (2, 512)] {
        let frontend = machine.frontend.as_mut().expect("connected");
        assert!(frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, queues, size)).is_err());
        machine.frontend = None;
        machine.connect();
    }
    let buffers = machine.rings[0].add(&machine.memory, &header(FLUSH, 0), 1, &Cut::default());
    machine.rings[0].kick();
    assert_eq!(machine.rings[0].wait(&machine.memory), (buffers.head, 1));
}
