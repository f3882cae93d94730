// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A frontend whose machine survives when the real program behind it is killed and restarted, and a driver that keeps
//! track of all requests.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use test_driver::data::Random;
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::GuestMemoryMmap;

use super::ring::{Buffers, PATIENCE};
use super::*;

pub const QUEUES: usize = 2;
pub const RING: u16 = 64;
const MEMORY: u64 = 48 << 20;
pub const BLOCK: usize = 4096;
pub const BLOCKS: u64 = 512;

/// A frontend that keeps rings, guest memory and in-flight region across restarts of the device.
pub struct Machine {
    directory: tempfile::TempDir,
    options: Vec<String>,
    pub program: Option<Child>,
    pub frontend: Option<Frontend>,
    pub memory: GuestMemoryMmap,
    memory_file: File,
    pub rings: Vec<Ring>,
    pub inflight: Option<(VhostUserInflight, File)>,
}

impl Machine {
    pub fn new(options: &[&str]) -> Self {
        // On a disk, not in memory: there a flush matters.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
        File::create(directory.path().join("image")).expect("image").set_len(BLOCKS * BLOCK as u64).expect("image");
        let (memory, memory_file) = guest_memory(MEMORY);
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

    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub fn start_program(&mut self) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        program.args(["--num-queues", "2", "--in-band", "--log-level", "warn"]);
        // The sandbox would stop a sanitizer from reporting what it has found.
        program.args(std::env::var("TEST_SANDBOX").iter().flat_map(|mode| ["--sandbox", mode]));
        program.arg("--socket-path").arg(self.directory.path().join("socket"));
        program.arg("--blk-file").arg(self.image()).args(&self.options).stdin(Stdio::null());
        self.program = Some(program.spawn().expect("program"));
    }

    /// Does what QEMU does after it has reconnected.
    pub fn connect(&mut self) {
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
            let config = ring.addresses(RING, USER_BASE - MEMORY_START);
            frontend.set_vring_num(index, RING).expect("SET_VRING_NUM");
            // The killed device has not answered GET_VRING_BASE, so the used index is all that is known.
            frontend.set_vring_base(index, ring.used_index()).expect("SET_VRING_BASE");
            frontend.set_vring_addr(index, &config).expect("SET_VRING_ADDR");
            frontend.set_vring_kick(index, &ring.kick).expect("SET_VRING_KICK");
            frontend.set_vring_call(index, &ring.call).expect("SET_VRING_CALL");
            frontend.set_vring_err(index, &ring.err).expect("SET_VRING_ERR");
            frontend.set_vring_enable(index, true).expect("SET_VRING_ENABLE");
        }
        self.frontend = Some(frontend);
    }

    /// Asserts that the program has not ended by itself.
    pub fn assert_running(&mut self) {
        let ended = self.program.as_mut().and_then(|program| program.try_wait().expect("wait"));
        assert!(ended.is_none(), "the program has ended by itself: {ended:?}");
    }

    /// SIGKILL. When this returns, all of the program's I/O has ended.
    pub fn kill(&mut self) {
        if !std::thread::panicking() {
            self.assert_running();
        }
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
pub enum Ask {
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

pub struct Driver {
    /// In flight, by queue and head, with the time when it was sent.
    pub sent: HashMap<(usize, u16), (Ask, Buffers, u64)>,
    /// The known content of each block, and when its write was completed.
    pub blocks: HashMap<u64, (u64, u64)>,
    /// Blocks with a request in flight.
    pub busy: Vec<u64>,
    /// Requests to send again.
    pub again: Vec<Ask>,
    pub completed: u64,
    pub nokeys: u64,
    /// Requests carry their keys: a device without keyslots.
    keys_in_requests: bool,
    /// Encrypted requests ask for digests.
    digests: bool,
    /// Counts requests, both when sent and when completed.
    time: u64,
    /// When the latest completed flush was sent: it covers all writes that were completed before.
    flushed: u64,
}

impl Driver {
    /// With keyslots.
    pub fn new() -> Self {
        Self {
            keys_in_requests: false,
            digests: false,
            sent: HashMap::new(),
            blocks: HashMap::new(),
            busy: Vec::new(),
            again: Vec::new(),
            completed: 0,
            nokeys: 0,
            time: 0,
            flushed: 0,
        }
    }

    /// Without keyslots.
    pub fn with_keys_in_requests() -> Self {
        Self { keys_in_requests: true, ..Self::new() }
    }

    /// The same, but encrypted requests ask for digests.
    pub fn and_digests(self) -> Self {
        Self { digests: true, ..self }
    }

    /// Blocks without a request in flight, and their content: those that a completed flush covers, and the others.
    pub fn covered(&self) -> [Vec<(u64, u64)>; 2] {
        let idle = self.blocks.iter().filter(|(block, _)| !self.busy.contains(block));
        let (covered, open): (Vec<_>, Vec<_>) = idle.partition(|(_, (_, completed))| *completed < self.flushed);
        [covered, open].map(|blocks| blocks.into_iter().map(|(&block, &(seed, _))| (block, seed)).collect())
    }

    /// Sends random requests and takes completions, for this long.
    pub fn work(&mut self, machine: &mut Machine, random: &mut impl FnMut(u64) -> u64, how_long: Duration) {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            self.step(machine, random, true);
        }
    }

    /// Takes completions until nothing is in flight, and nothing is left to send again.
    pub fn finish(&mut self, machine: &mut Machine, random: &mut impl FnMut(u64) -> u64) {
        let deadline = Instant::now() + PATIENCE;
        while !self.sent.is_empty() || !self.again.is_empty() {
            assert!(Instant::now() < deadline, "requests are not answered: {:?}", self.sent);
            self.step(machine, random, false);
        }
    }

    /// Takes the completions of all queues.
    pub fn reap_all(&mut self, machine: &mut Machine) {
        (0..QUEUES).for_each(|queue| self.reap(machine, queue));
    }

    fn step(&mut self, machine: &mut Machine, random: &mut impl FnMut(u64) -> u64, new: bool) {
        for queue in 0..QUEUES {
            let in_flight = self.sent.keys().filter(|(of, _)| *of == queue).count();
            if in_flight < 16
                && (new || !self.again.is_empty())
                && let Some(ask) = self.choose(random)
            {
                self.send(machine, queue, ask);
            }
            self.reap(machine, queue);
        }
    }

    /// The expected content of a block on the image.
    fn expected(&self, block: u64, seed: u64) -> Vec<u8> {
        let plain = pattern(seed, BLOCK);
        if block < ENCRYPTED { plain } else { openssl_xts(&self.key(block), block.into(), BLOCK, &plain) }
    }

    /// The key of a block: its slot's, or its own.
    fn key(&self, block: u64) -> [u8; 64] {
        key(if self.keys_in_requests { block } else { slot(block).into() })
    }

    /// The digest algorithm for a block, and the bytes of a digest.
    fn algorithm(&self, block: u64) -> (u8, usize) {
        if self.digests && block >= ENCRYPTED { DIGESTS[block as usize % DIGESTS.len()] } else { (0, 0) }
    }

    /// The digests of a block's ciphertext.
    fn digests(&self, block: u64, seed: u64) -> Vec<u8> {
        match self.algorithm(block) {
            (0, _) => Vec::new(),
            (algorithm, _) => digests(algorithm, BLOCK, &self.expected(block, seed)),
        }
    }

    /// All of an encrypted request but the data of a write.
    fn crypto_header(&self, write: bool, sector: u64, block: u64) -> Vec<u8> {
        let (request_type, (algorithm, _)) =
            (if write { CRYPTO_OUT_EXT } else { CRYPTO_IN_EXT }, self.algorithm(block));
        if self.keys_in_requests {
            let request = KeyedRequest::new(request_type, sector, block, &self.key(block));
            return KeyedRequest { extensions: [algorithm, 1, 0, 0], ..request }.bytes();
        }
        if algorithm != 0 {
            return extended_header(request_type, sector, slot(block), [algorithm, 0, 0, 0], [block, 0, 0, 0]);
        }
        crypto_header(if write { CRYPTO_OUT } else { CRYPTO_IN }, sector, slot(block), [block, 0, 0, 0])
    }

    /// Asserts that the image has the expected content.
    pub fn check_image(&self, machine: &Machine, blocks: &[(u64, u64)]) {
        let image = File::open(machine.image()).expect("image");
        for &(block, seed) in blocks {
            let mut found = vec![0; BLOCK];
            image.read_exact_at(&mut found, block * BLOCK as u64).expect("image");
            assert!(found == self.expected(block, seed), "block {block}");
        }
    }

    fn bytes(&self, ask: &Ask) -> (Vec<u8>, usize) {
        let sector = |block: u64| block * BLOCK as u64 / 512;
        match *ask {
            Ask::Write { block, seed } if block < ENCRYPTED => (write_request(sector(block), &pattern(seed, BLOCK)), 1),
            Ask::Write { block, seed } => {
                let bytes = [self.crypto_header(true, sector(block), block), pattern(seed, BLOCK)].concat();
                (bytes, self.algorithm(block).1 + 1)
            }
            Ask::Read { block } if block < ENCRYPTED => (header(IN, sector(block)), BLOCK + 1),
            Ask::Read { block } => {
                (self.crypto_header(false, sector(block), block), BLOCK + self.algorithm(block).1 + 1)
            }
            Ask::Flush => (header(FLUSH, 0), 1),
            Ask::Program { slot } => (Program::new(slot, &key(slot.into()), 12).bytes(), 1),
        }
    }

    pub fn send(&mut self, machine: &mut Machine, queue: usize, ask: Ask) {
        let (readable, writable) = self.bytes(&ask);
        let buffers = machine.rings[queue].add(&readable, writable);
        machine.rings[queue].kick();
        self.time += 1;
        assert!(self.sent.insert((queue, buffers.head), (ask, buffers, self.time)).is_none());
    }

    /// A random request that conflicts with none in flight.
    pub fn choose(&mut self, random: &mut impl FnMut(u64) -> u64) -> Option<Ask> {
        if let Some(ask) = self.again.pop() {
            return Some(ask);
        }
        let block = random(BLOCKS);
        if self.busy.contains(&block) {
            return None;
        }
        let ask = match random(10) {
            0 => return Some(Ask::Flush),
            1 if !self.keys_in_requests => return Some(Ask::Program { slot: random(2) as u32 }),
            2..=4 if self.blocks.contains_key(&block) => Ask::Read { block },
            _ => Ask::Write { block, seed: random(u64::MAX) },
        };
        self.busy.push(block);
        Some(ask)
    }

    pub fn reap(&mut self, machine: &mut Machine, queue: usize) {
        while let Some((head, used)) = machine.rings[queue].take_used() {
            let (ask, buffers, sent) = self.sent.remove(&(queue, head)).expect("a request in flight is returned, once");
            let answer = machine.rings[queue].answer(used, &buffers);
            if answer.status == NOKEY {
                // The killed program's keys are lost.
                self.nokeys += 1;
                let (Ask::Write { block, .. } | Ask::Read { block }) = ask else { panic!("{ask:?}") };
                self.again.extend([ask, Ask::Program { slot: slot(block) }]);
                continue;
            }
            assert_eq!(answer.status, OK, "{ask:?}");
            self.completed += 1;
            self.time += 1;
            match ask {
                Ask::Write { block, seed } => {
                    assert!(answer.data == self.digests(block, seed), "digests of block {block}");
                    self.blocks.insert(block, (seed, self.time));
                    self.busy.retain(|&busy| busy != block);
                }
                Ask::Read { block } => {
                    let (seed, _) = self.blocks[&block];
                    assert!(answer.data == [pattern(seed, BLOCK), self.digests(block, seed)].concat(), "block {block}");
                    self.busy.retain(|&busy| busy != block);
                }
                Ask::Flush => self.flushed = self.flushed.max(sent),
                Ask::Program { .. } => {}
            }
        }
    }
}

/// Random numbers below a bound.
pub fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut random = Random::new(seed);
    move |below| (random.next() >> 11) % below
}
