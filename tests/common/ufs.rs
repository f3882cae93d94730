// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A UFS host controller of the device's, and a driver for it, written from the standards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vhost_user_blk_crypto::device::Device;
use vhost_user_blk_crypto::disk::{Disk, OpenOptions};
use vhost_user_blk_crypto::ufs::Server;
use vhost_user_blk_crypto::vhost::{Listen, Stop, WorkerConfig};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::vfio::Vfio;
use super::{DiskKind, Options};

pub const BAR: u32 = 0;
pub const CONFIG: u32 = 7;
/// The device's address of guest memory.
pub const MEMORY: u64 = 0x10_0000;
pub const MEMORY_BYTES: u64 = 16 << 20;
/// Its layout: the two lists, then 32 command descriptors of 4 KiB, then data.
pub const LIST: u64 = MEMORY;
pub const TASKS: u64 = MEMORY + 0x1000;
const DESCRIPTORS: u64 = MEMORY + 0x10000;
pub const DATA: u64 = MEMORY + 0x100000;

/// Of the crypto configuration: enabled, data units of 4096 bytes.
pub const ENABLE: u32 = 1 << 31;

/// How a transfer request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub ocs: u8,
    pub upiu: Vec<u8>,
}

impl Answer {
    /// SCSI status, sense key and code.
    pub fn status(&self) -> (u8, u8, u8) {
        (self.upiu[7], self.upiu[36] & 0xf, self.upiu[46])
    }
}

/// What a transfer request is.
#[derive(Debug, Clone, Copy)]
pub struct Transfer<'a> {
    pub lun: u8,
    pub cdb: &'a [u8],
    /// 0: none, 1: to the device, 2: to the host.
    pub direction: u8,
    pub bytes: u32,
    /// The slot and the data unit number.
    pub crypto: Option<(u8, u64)>,
}

pub struct Ufs {
    pub device: Arc<Device>,
    pub client: Vfio,
    pub memory: File,
    pub image: File,
    /// Those of further logical units.
    pub more_images: Vec<File>,
    pub interrupt: EventFd,
    pub stop: Arc<Stop>,
    server: Option<JoinHandle<()>>,
    _paths: Vec<tempfile::TempPath>,
}

impl Ufs {
    /// A controller that is not enabled yet.
    pub fn with(options: Options) -> Self {
        let open = OpenOptions {
            read_only: options.read_only,
            discard: true,
            direct: false,
            logical_block_size: options.config.engine.logical_block_size,
        };
        let DiskKind::File(aio) = options.disk else { panic!("a file") };
        let make = |bytes: u64| {
            let (image, path) = tempfile::NamedTempFile::new().expect("image").into_parts();
            image.set_len(bytes).expect("image");
            let disk = Disk::new(open.open(&path).expect("image"), Some(aio)).expect("disk");
            (image, path, disk)
        };
        let (image, path, disk) = make(options.image_bytes);
        let (mut more_images, mut paths) = (Vec::new(), vec![path]);
        let mut device = Device::new(options.config, None, disk).expect("device");
        for bytes in options.more_images {
            let (image, path, disk) = make(bytes);
            device.add_disk(disk);
            more_images.push(image);
            paths.push(path);
        }
        let device = Arc::new(device);
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let stop = Arc::new(Stop::new().expect("eventfd"));
        let server = Server::new(Arc::clone(&device), WorkerConfig::default(), Arc::clone(&stop), true);
        let server = std::thread::spawn(move || {
            if let Err(error) = server.run(&Listen::Connected(theirs), || {}) {
                eprintln!("session: {error}");
            }
        });
        let mut ufs = Self::over(ours, device, image);
        (ufs.more_images, ufs.stop, ufs.server, ufs._paths) = (more_images, stop, Some(server), paths);
        ufs
    }

    /// A driver of a controller behind this connection.
    fn over(stream: UnixStream, device: Arc<Device>, image: File) -> Self {
        let memory = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        let memory = File::from(memory);
        memory.set_len(MEMORY_BYTES).expect("memfd");
        let mut client = Vfio::new(stream);
        client.map(Some(&memory), 0, MEMORY, MEMORY_BYTES).expect("DMA_MAP");
        let interrupt = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        // An eventfd for the trigger.
        let event = interrupt.as_fd_of();
        client.set_irqs(4 | 32, 0, 1, Some(event)).expect("SET_IRQS");
        let stop = Arc::new(Stop::new().expect("eventfd"));
        Self { device, client, memory, image, more_images: vec![], interrupt, stop, server: None, _paths: vec![] }
    }

    /// A driver of a controller that another process is, with this image. The device in this process stands idle, on memory.
    pub fn of_process(stream: UnixStream, image: File) -> Self {
        let options = OpenOptions { read_only: false, discard: true, direct: false, logical_block_size: 4096 };
        let disk = Disk::new(options.in_memory(1 << 20).expect("memory"), None).expect("disk");
        Self::over(stream, Arc::new(Device::new(ufs_options().config, None, disk).expect("device")), image)
    }

    /// A controller that is ready for requests.
    pub fn new() -> Self {
        let mut ufs = Self::with(ufs_options());
        ufs.enable();
        ufs
    }

    pub fn get(&mut self, offset: u64) -> u32 {
        let bytes = self.client.read(BAR, offset, 4).expect("REGION_READ");
        u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
    }

    pub fn set(&mut self, offset: u64, value: u32) {
        self.client.write(BAR, offset, &value.to_le_bytes()).expect("REGION_WRITE");
    }

    pub fn enable(&mut self) {
        self.set(0x34, 3);
        assert_eq!(self.get(0x34), 3);
        assert_eq!(self.uic(0x16, 0, 0), (0, 0), "link startup");
        assert_eq!(self.get(0x30) & 0xf, 0xf, "ready");
        self.set(0x20, u32::MAX);
        self.set(0x24, 0x201 | 1 << 17);
        self.set(0x50, LIST as u32);
        self.set(0x70, TASKS as u32);
        self.set(0x60, 1);
        self.set(0x80, 1);
    }

    /// A UIC command: its result and value.
    pub fn uic(&mut self, command: u32, attribute: u32, value: u32) -> (u32, u32) {
        self.set(0x94, attribute << 16);
        self.set(0x98, 0);
        self.set(0x9c, value);
        self.set(0x90, command);
        assert_ne!(self.get(0x20) & 0x400, 0, "UIC command completion");
        self.set(0x20, 0x400);
        (self.get(0x98) & 0xff, self.get(0x9c))
    }

    /// What Linux does to program a key.
    pub fn program(&mut self, slot: u64, key: &[u8; 64], config: u32) {
        let at = 0x1000 + 128 * slot;
        self.set(at + 64, 0);
        for (place, word) in key.chunks(4).enumerate() {
            self.set(at + 4 * place as u64, u32::from_le_bytes(word.try_into().expect("4 bytes")));
        }
        self.set(at + 68, 0);
        self.set(at + 64, config);
    }

    pub fn evict(&mut self, slot: u64) {
        self.program(slot, &[0; 64], 0);
    }

    pub fn memory_bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, address - MEMORY).expect("memory");
        bytes
    }

    pub fn set_memory(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address - MEMORY).expect("memory");
    }

    pub fn image_bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.image.read_exact_at(&mut bytes, offset).expect("image");
        bytes
    }

    /// Writes the descriptor of a request with this UPIU, and data in pieces of 12 KiB from [`DATA`] on.
    pub fn prepare(&self, slot: u64, upiu: &[u8], transfer: &Transfer<'_>) {
        let at = DESCRIPTORS + 0x1000 * slot;
        self.set_memory(at, &[upiu, &vec![0; 1024 - upiu.len()]].concat());
        let (mut table, mut entries, mut done) = (Vec::new(), 0u16, 0);
        while done < transfer.bytes {
            let take = (transfer.bytes - done).min(12 << 10);
            table.extend((DATA + u64::from(done)).to_le_bytes());
            table.extend(0u32.to_le_bytes());
            table.extend((take.next_multiple_of(4) - 1).to_le_bytes());
            (done, entries) = (done + take, entries + 1);
        }
        self.set_memory(at + 1024, &table);
        let (slot_of_key, dun) = transfer.crypto.unwrap_or((0, 0));
        let crypto = if transfer.crypto.is_some() { 0x80 } else { 0 };
        let mut descriptor = vec![slot_of_key, 0, crypto, 1 << 4 | transfer.direction << 1 | 1];
        descriptor.extend((dun as u32).to_le_bytes());
        descriptor.extend([0xf, 0, 0, 0]);
        descriptor.extend(((dun >> 32) as u32).to_le_bytes());
        descriptor.extend(at.to_le_bytes());
        // In units of 4 bytes, but for the number of entries.
        for word in [512u16 / 4, 512 / 4, entries, 1024 / 4] {
            descriptor.extend(word.to_le_bytes());
        }
        self.set_memory(LIST + 32 * slot, &descriptor);
    }

    /// Rings the doorbell for a request that is prepared, and waits for it.
    pub fn ring(&mut self, slot: u64) -> Answer {
        self.set(0x58, 1 << slot);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.get(0x58) & 1 << slot != 0 {
            assert!(Instant::now() < deadline, "the request is not answered");
        }
        self.answer(slot)
    }

    pub fn answer(&self, slot: u64) -> Answer {
        let ocs = self.memory_bytes(LIST + 32 * slot + 8, 1)[0];
        Answer { ocs, upiu: self.memory_bytes(DESCRIPTORS + 0x1000 * slot + 512, 300) }
    }

    pub fn command_upiu(slot: u64, transfer: &Transfer<'_>) -> Vec<u8> {
        let mut upiu = vec![0x01, [0, 0x20, 0x40][transfer.direction as usize], transfer.lun, slot as u8];
        upiu.extend([0; 8]);
        upiu.extend(transfer.bytes.to_be_bytes());
        upiu.extend(transfer.cdb);
        upiu.resize(32, 0);
        upiu
    }

    pub fn command(&mut self, transfer: &Transfer<'_>) -> Answer {
        self.prepare(0, &Self::command_upiu(0, transfer), transfer);
        self.ring(0)
    }

    /// A command that answers with data.
    pub fn ask(&mut self, lun: u8, cdb: &[u8], bytes: u32) -> (Answer, Vec<u8>) {
        let answer = self.command(&Transfer { lun, cdb, direction: 2, bytes, crypto: None });
        (answer, self.memory_bytes(DATA, bytes as usize))
    }

    /// READ(10) and WRITE(10) of blocks of 4096 bytes.
    pub fn blocks(&mut self, write: bool, first: u32, blocks: u16, crypto: Option<(u8, u64)>) -> Answer {
        let cdb = rw_10(write, first, blocks);
        let direction = if write { 1 } else { 2 };
        self.command(&Transfer { lun: 0, cdb: &cdb, direction, bytes: u32::from(blocks) * 4096, crypto })
    }

    pub fn write(&mut self, first: u32, data: &[u8], crypto: Option<(u8, u64)>) -> Answer {
        self.set_memory(DATA, data);
        self.blocks(true, first, (data.len() / 4096) as u16, crypto)
    }

    pub fn read(&mut self, first: u32, blocks: u16, crypto: Option<(u8, u64)>) -> (Answer, Vec<u8>) {
        let answer = self.blocks(false, first, blocks, crypto);
        (answer, self.memory_bytes(DATA, usize::from(blocks) * 4096))
    }

    /// A query: response code, value, data.
    pub fn query(&mut self, opcode: u8, idn: u8, index: u8, value: u32) -> (u8, u32, Vec<u8>) {
        let function = if matches!(opcode, 1 | 3 | 5) { 0x01 } else { 0x81 };
        let mut upiu = vec![0x16, 0, 0, 0, 0, function, 0, 0, 0, 0, 0, 0, opcode, idn, index, 0, 0, 0, 0, 255];
        upiu.extend(value.to_be_bytes());
        upiu.resize(32, 0);
        self.prepare(0, &upiu, &Transfer { lun: 0, cdb: &[], direction: 0, bytes: 0, crypto: None });
        let Answer { ocs, upiu } = self.ring(0);
        assert_eq!((ocs, upiu[0]), (0, 0x36));
        let len = u16::from_be_bytes([upiu[10], upiu[11]]);
        let value = u32::from_be_bytes(upiu[20..24].try_into().expect("4 bytes"));
        (upiu[6], value, upiu[32..32 + usize::from(len)].to_vec())
    }

    /// A task management request: its overall status and service response.
    pub fn manage(&mut self, function: u8, lun: u8, tag: u32) -> (u8, u8) {
        let mut descriptor = vec![0; 80];
        descriptor[16..22].copy_from_slice(&[4, 0, lun, 3, 0, function]);
        descriptor[28..32].copy_from_slice(&u32::from(lun).to_be_bytes());
        descriptor[32..36].copy_from_slice(&tag.to_be_bytes());
        self.set_memory(TASKS, &descriptor);
        self.set(0x78, 1);
        assert_eq!((self.get(0x78), self.get(0x20) & 0x200), (0, 0x200));
        self.set(0x20, 0x200);
        let answer = self.memory_bytes(TASKS, 80);
        (answer[8], answer[48 + 15])
    }

    pub fn stat(&self, path: &str) -> u64 {
        let json = serde_json::to_value(self.device.stats()).expect("counters");
        let pointer = format!("/{}", path.replace('.', "/"));
        json.pointer(&pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no counter {path}"))
    }

    /// Closes the connection, and waits until the session has ended.
    pub fn disconnect(&mut self) {
        let _ = self.client.stream.shutdown(std::net::Shutdown::Both);
        self.wait_for_the_end();
    }

    /// Waits until the device has ended the session.
    pub fn wait_for_the_end(&mut self) {
        if let Some(server) = self.server.take() {
            server.join().expect("the session ends without a panic");
        }
    }
}

impl Drop for Ufs {
    fn drop(&mut self) {
        let _ = self.client.stream.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take()
            && server.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the session has panicked");
        }
    }
}

/// An engine as UFS has it, with blocks of 4096 bytes.
pub fn ufs_options() -> Options {
    let mut options = Options::default();
    options.config.engine.logical_block_size = 4096;
    options.config.physical_block_size = 4096;
    options.config.num_queues = 1;
    options.config.ufs = true;
    options
}

pub fn rw_10(write: bool, first: u32, blocks: u16) -> Vec<u8> {
    let [high, low] = blocks.to_be_bytes();
    [&[if write { 0x2a } else { 0x28 }, 0][..], &first.to_be_bytes(), &[0, high, low, 0]].concat()
}

/// The descriptor of an eventfd.
pub trait Descriptor {
    fn as_fd_of(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl Descriptor for EventFd {
    fn as_fd_of(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as the eventfd, which is borrowed.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }
}
