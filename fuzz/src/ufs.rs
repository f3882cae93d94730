// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A UFS host controller with its disk in memory, and a driver that does not wait for replies to its writes.

use std::cell::RefCell;
use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use scattered_xts::Implementation;
use vhost_user_blk_crypto::device::{Device, DeviceConfig};
use vhost_user_blk_crypto::disk::{Aio, Disk, OpenOptions};
use vhost_user_blk_crypto::engine::{EngineConfig, Timing};
use vhost_user_blk_crypto::ufs::Server;
use vhost_user_blk_crypto::vhost::{Listen, Stop, WorkerConfig};

use crate::patience::Patience;

pub const KEYSLOTS: u16 = 3;
/// Logical blocks.
pub const BLOCK: usize = 512;
pub const IMAGE_BYTES: usize = 64 << 10;
/// Where guest memory is.
pub const MEMORY: u64 = 0x10_0000;
pub const MEMORY_BYTES: u64 = 512 << 10;
/// The lists, 32 command descriptors of 4 KiB, and data.
pub const LIST: u64 = MEMORY;
pub const TASKS: u64 = MEMORY + 0x400;
pub const DESCRIPTORS: u64 = MEMORY + 0x1000;
pub const DATA: u64 = MEMORY + 0x21000;
pub const DATA_BYTES: u64 = MEMORY_BYTES - 0x21000;

/// Registers.
pub mod reg {
    pub const IS: u64 = 0x20;
    pub const IE: u64 = 0x24;
    pub const HCE: u64 = 0x34;
    pub const UTRLBA: u64 = 0x50;
    pub const UTRLDBR: u64 = 0x58;
    pub const UTRLCLR: u64 = 0x5c;
    pub const UTRLRSR: u64 = 0x60;
    pub const UTMRLBA: u64 = 0x70;
    pub const UTMRLDBR: u64 = 0x78;
    pub const UTMRLRSR: u64 = 0x80;
    pub const UICCMD: u64 = 0x90;
    pub const CRYPTO: u64 = 0x1000;
}

/// Of a crypto configuration: enabled, data units of 512 bytes.
pub const ENABLE: u32 = 1 << 31 | 1;
/// IS: a list or a descriptor is not in guest memory.
const BUS_ERROR: u32 = 1 << 17;

const READ: u16 = 9;
const WRITE: u16 = 10;
const RESET: u16 = 13;

/// The controller and its driver.
pub struct Ufs {
    stream: UnixStream,
    pub memory: File,
    pub image: File,
}

thread_local! {
    /// A reset makes it as good as new.
    static UFS: RefCell<Option<Ufs>> = const { RefCell::new(None) };
}

/// Gives `action` a controller that is enabled, with empty memory.
pub fn with_ufs(action: impl FnOnce(&mut Ufs)) {
    // Taken out, so that one that has panicked is not used again.
    let mut ufs = UFS.take().unwrap_or_else(Ufs::new);
    ufs.reset();
    action(&mut ufs);
    ufs.check();
    UFS.set(Some(ufs));
}

impl Ufs {
    fn new() -> Self {
        let config = DeviceConfig {
            engine: EngineConfig {
                keyslots: KEYSLOTS,
                cache_unwrapped: false,
                crypto_engine: Implementation::detect(),
                raw_keys: true,
                data_unit_mask: 0x1200,
                max_dun_bytes: 8,
                digests: vec![],
                logical_block_size: BLOCK as u32,
                serial: "fuzz".into(),
                timing: Timing::default(),
            },
            num_queues: 1,
            queue_size: 32,
            seg_max: 128,
            physical_block_size: BLOCK as u32,
            writeback: true,
            keep_keys_on_reset: false,
            in_band: false,
            access_platform: false,
            ufs: true,
        };
        let memory_file = |bytes| {
            let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd"));
            file.set_len(bytes).expect("memory");
            file
        };
        let (image, memory) = (memory_file(IMAGE_BYTES as u64), memory_file(MEMORY_BYTES));
        let path = PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd()));
        let options = OpenOptions { read_only: false, discard: true, direct: false, logical_block_size: BLOCK as u32 };
        let disk = Disk::new(options.open(&path).expect("image"), Some(Aio::Sync)).expect("disk");
        let device = Arc::new(Device::new(config, None, disk).expect("device"));
        let (stream, theirs) = UnixStream::pair().expect("socket pair");
        stream.set_read_timeout(Some(Duration::from_secs(100))).expect("socket");
        let stop = Arc::new(Stop::new().expect("eventfd"));
        thread::spawn(move || {
            let served =
                Server::new(device, WorkerConfig::default(), stop, true).run(&Listen::Connected(theirs), || ());
            served.expect("nothing that a guest does ends the session");
        });
        let mut ufs = Self { stream, memory, image };
        ufs.ask(1, &[0; 4], false);
        ufs.map();
        ufs
    }

    fn map(&mut self) {
        let numbers = [32 | 3 << 32, 0, MEMORY, MEMORY_BYTES].map(u64::to_le_bytes).concat();
        self.ask(2, &numbers, true);
    }

    /// Guest memory goes away, and comes back.
    pub fn remap(&mut self) {
        let numbers = [24, MEMORY, MEMORY_BYTES].map(u64::to_le_bytes).concat();
        self.ask(3, &numbers, false);
        self.map();
    }

    /// A reset of the function, memory as after power-on, and what a driver does then.
    fn reset(&mut self) {
        self.ask(RESET, &[], false);
        self.set_memory(MEMORY, &[0; MEMORY_BYTES as usize]);
        self.image.write_all_at(&[0; IMAGE_BYTES], 0).expect("image");
        self.enable();
    }

    pub fn enable(&mut self) {
        for (register, value) in [
            (reg::HCE, 3),
            (reg::UICCMD, 0x16),
            (reg::IS, u32::MAX),
            (reg::IE, 0x201 | BUS_ERROR),
            (reg::UTRLBA, LIST as u32),
            (reg::UTRLBA + 4, 0),
            (reg::UTMRLBA, TASKS as u32),
            (reg::UTMRLBA + 4, 0),
            (reg::UTRLRSR, 1),
            (reg::UTMRLRSR, 1),
        ] {
            self.set(register, value);
        }
    }

    /// A driver that resets the controller finds it as new, and its keys work.
    fn check(&mut self) {
        self.set(reg::UTRLCLR, 0);
        // It may be disabled: then this is no reset.
        self.set(reg::HCE, 1);
        self.set(reg::HCE, 0);
        for register in [reg::HCE, reg::IS, reg::IE, reg::UTRLDBR, reg::UTMRLDBR, reg::UTRLBA] {
            assert_eq!(self.get(register), 0, "{register:#x} after a reset");
        }
        for register in (reg::CRYPTO..reg::CRYPTO + 128 * u64::from(KEYSLOTS)).step_by(64) {
            assert_eq!(self.get(register), 0, "{register:#x} after a reset");
        }
        self.enable();
        self.program(1, 0x5a, ENABLE);
        self.set_memory(DATA, &[0xee; BLOCK]);
        let mut transfer = Plain { slot: 4, cdb: block_cdb(0x2a), direction: 1, crypto: Some((1, 7)) };
        assert_eq!(transfer.run(self), 0, "a request after a reset");
        let mut image = [0; BLOCK];
        self.image.read_exact_at(&mut image, 0).expect("image");
        assert!(image.windows(4).all(|bytes| bytes != [0xee; 4]), "plaintext on the image");
        self.set_memory(DATA, &[0; BLOCK]);
        transfer = Plain { cdb: block_cdb(0x28), direction: 2, ..transfer };
        assert_eq!(transfer.run(self), 0, "a request after a reset");
        assert!(self.memory_bytes(DATA, BLOCK) == [0xee; BLOCK], "what was written is not what was read");
    }

    pub fn set(&mut self, register: u64, value: u32) {
        self.write(register, &value.to_le_bytes());
    }

    /// Any bytes into registers.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.send(WRITE, 0x10, &[&access(offset, data.len())[..], data].concat(), false);
    }

    pub fn get(&mut self, register: u64) -> u32 {
        u32::from_le_bytes(self.read(register, 4).try_into().expect("4 bytes"))
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        self.ask(READ, &access(offset, len), false).split_off(16)
    }

    pub fn function_reset(&mut self) {
        self.ask(RESET, &[], false);
    }

    /// What Linux does to program a key of one byte.
    pub fn program(&mut self, slot: u64, key: u8, config: u32) {
        let place = reg::CRYPTO + 128 * slot;
        self.set(place + 64, 0);
        (0..16u32).for_each(|dword| self.set(place + 4 * u64::from(dword), u32::from_le_bytes([key; 4]) ^ dword));
        self.set(place + 64, config);
    }

    /// Rings the doorbell for these requests and waits for them, unless they cannot be answered.
    pub fn ring(&mut self, requests: u32) {
        self.set(reg::UTRLDBR, requests);
        let mut patience = Patience::new();
        while self.get(reg::UTRLDBR) & requests != 0 {
            if self.get(reg::IS) & BUS_ERROR != 0 {
                return;
            }
            patience.wait("a request is not answered");
        }
    }

    pub fn set_memory(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address - MEMORY).expect("memory");
    }

    pub fn memory_bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, address - MEMORY).expect("memory");
        bytes
    }

    fn send(&mut self, command: u16, flags: u32, body: &[u8], with_memory: bool) {
        let size = 16 + body.len() as u32;
        let header = [&[1, 0][..], &command.to_le_bytes(), &size.to_le_bytes(), &flags.to_le_bytes(), &[0; 4]].concat();
        let message = [&header[..], body].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [self.memory.as_fd()];
        assert!(!with_memory || ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        let sent = sendmsg(&self.stream, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(message.len()));
    }

    fn ask(&mut self, command: u16, body: &[u8], with_memory: bool) -> Vec<u8> {
        self.send(command, 0, body, with_memory);
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).expect("a reply");
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!((header[2], word(8), word(12)), (command as u8, 1, 0), "the reply to {command}");
        let mut reply = vec![0; word(4) as usize - 16];
        self.stream.read_exact(&mut reply).expect("the rest of a reply");
        reply
    }
}

/// A request for the first block.
struct Plain {
    slot: u8,
    cdb: [u8; 16],
    direction: u8,
    crypto: Option<(u8, u64)>,
}

impl Plain {
    /// Its OCS.
    fn run(&self, ufs: &mut Ufs) -> u8 {
        let slot = u64::from(self.slot);
        let at = DESCRIPTORS + 0x1000 * slot;
        let expected = BLOCK as u32;
        let upiu = [&[1, 0, 0, self.slot][..], &[0; 8], &expected.to_be_bytes(), &self.cdb].concat();
        ufs.set_memory(at, &upiu);
        ufs.set_memory(at + 0x800, &[&DATA.to_le_bytes()[..], &[0; 4], &(expected - 1).to_le_bytes()].concat());
        ufs.set_memory(LIST + 32 * slot, &descriptor(at, self.direction, 1, self.crypto));
        ufs.ring(1 << slot);
        ufs.memory_bytes(LIST + 32 * slot + 8, 1)[0]
    }
}

/// READ(10) or WRITE(10) of the first block.
fn block_cdb(opcode: u8) -> [u8; 16] {
    [opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
}

/// A transfer request's descriptor, with its command descriptor at `at`: the UPIU, the response at byte 512, the table at 2048.
pub fn descriptor(at: u64, direction: u8, entries: u16, crypto: Option<(u8, u64)>) -> Vec<u8> {
    let (slot, dun) = crypto.unwrap_or_default();
    let mut bytes = vec![slot, 0, if crypto.is_some() { 0x80 } else { 0 }, 1 << 4 | direction << 1 | 1];
    bytes.extend([dun as u32, 0xf, (dun >> 32) as u32].map(u32::to_le_bytes).concat());
    bytes.extend(at.to_le_bytes());
    bytes.extend([512 / 4, 512 / 4, entries, 2048 / 4].map(u16::to_le_bytes).concat());
    bytes
}

fn access(offset: u64, count: usize) -> Vec<u8> {
    [&offset.to_le_bytes()[..], &[0; 4], &(count as u32).to_le_bytes()].concat()
}
