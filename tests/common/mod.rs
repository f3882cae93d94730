// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vhost-user frontend in this process: the `vhost` crate's, with rings and guest memory of our own.
//!
//! The device behind it is the real one, on a temporary image, served over a socket pair.

#![allow(dead_code)] // each test binary uses its part

pub mod answer;
pub mod digested;
pub mod machine;
mod options;
pub mod process;
pub mod ring;
pub mod ufs;
pub mod vfio;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vhost_user_blk_crypto::device::Device;
use vhost_user_blk_crypto::disk::{Disk, OpenOptions};
use vhost_user_blk_crypto::vhost::{Listen, Server, Stop};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use answer::Answer;
pub use options::*;
pub use ring::{Cut, Ring};
pub use test_driver::data::*;
pub use test_driver::wire::*;

/// Bytes of guest memory. It starts at [`MEMORY_START`], so that low addresses are outside.
pub const MEMORY_BYTES: u64 = 128 << 20;
pub const MEMORY_START: u64 = 1 << 20;
/// The frontend's address of it, as the device is told.
const USER_BASE: u64 = 0x7000_0000_0000;

/// A device, a connected frontend, and a guest with running queues.
pub struct Guest {
    pub device: Arc<Device>,
    pub frontend: Option<Frontend>,
    pub memory: GuestMemoryMmap,
    pub rings: Vec<Ring>,
    /// The features that the driver has accepted.
    pub features: u64,
    /// The image on the host.
    pub image: File,
    image_path: std::path::PathBuf,
    /// Removes the image when dropped, if the test has made it.
    _temporary: Option<tempfile::TempPath>,
    /// The file of the guest's memory.
    pub memory_file: File,
    server: Option<JoinHandle<()>>,
    /// Our end of the connection, beside the frontend's.
    pub connection: Option<UnixStream>,
    /// Ends the device's session.
    pub stop: Arc<Stop>,
    options: Options,
}

impl Guest {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let (path, temporary) = match &options.block_device {
            Some(device) => (device.clone(), None),
            None => {
                let directory = if options.disk == DiskKind::Tmpfs { "/dev/shm".into() } else { std::env::temp_dir() };
                let (file, path) = tempfile::NamedTempFile::new_in(directory).expect("image").into_parts();
                file.set_len(options.image_bytes).expect("image");
                (path.to_path_buf(), Some(path))
            }
        };
        let image = File::open(&path).expect("image");
        let open = OpenOptions {
            read_only: options.read_only,
            discard: true,
            direct: matches!(options.disk, DiskKind::Direct(_)),
            logical_block_size: options.config.engine.logical_block_size,
        };
        let disk = match options.disk {
            DiskKind::File(aio) | DiskKind::Direct(aio) => Disk::new(open.open(&path).expect("image"), Some(aio)),
            DiskKind::Tmpfs => Disk::new(open.open(&path).expect("image"), None),
            DiskKind::Memory => Disk::new(open.in_memory(options.image_bytes).expect("memory"), None),
        }
        .expect("disk");
        let device = Arc::new(Device::new(options.config.clone(), options.wrapping(), disk).expect("device"));
        let (memory, memory_file) = guest_memory(MEMORY_BYTES);
        let mut guest = Self {
            device,
            frontend: None,
            memory,
            rings: Vec::new(),
            features: 0,
            image,
            image_path: path,
            _temporary: temporary,
            memory_file,
            server: None,
            connection: None,
            stop: Arc::new(Stop::new().expect("eventfd")),
            options,
        };
        guest.connect();
        guest.start();
        guest
    }

    /// Connects a frontend that has done nothing yet.
    pub fn connect(&mut self) {
        if let Some(socket) = &self.options.socket {
            let ours = UnixStream::connect(socket).expect("device");
            self.connection = Some(ours.try_clone().expect("socket"));
            self.frontend = Some(Frontend::from_stream(ours, self.device_queues() as u64));
            return;
        }
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let device = Arc::clone(&self.device);
        let stop = Arc::clone(&self.stop);
        let workers = self.options.workers.clone();
        self.connection = Some(ours.try_clone().expect("socket"));
        self.server = Some(std::thread::spawn(move || {
            let server = Server::new(device, workers, stop, true);
            if let Err(error) = server.run(&Listen::Connected(theirs), || {}) {
                eprintln!("session: {error}");
            }
        }));
        self.frontend = Some(Frontend::from_stream(ours, self.device_queues() as u64));
    }

    fn device_queues(&self) -> usize {
        usize::from(self.options.config.num_queues) + 1
    }

    /// Bytes of the disk, as the driver sees them.
    pub fn capacity(&mut self) -> u64 {
        u64::from_le_bytes(self.get_config(0, 8).try_into().expect("8 bytes")) * 512
    }

    pub fn frontend(&mut self) -> &mut Frontend {
        self.frontend.as_mut().expect("connected")
    }

    /// Does what a frontend does when the driver sets DRIVER_OK.
    pub fn start(&mut self) {
        self.negotiate();
        self.start_rings();
    }

    pub fn negotiate(&mut self) {
        let accept = self.options.accept;
        let frontend = self.frontend.as_mut().expect("connected");
        frontend.set_owner().expect("SET_OWNER");
        let offered = frontend.get_features().expect("GET_FEATURES");
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert!(offered & protocol != 0);
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE
            | self.options.protocol;
        assert!(frontend.get_protocol_features().expect("GET_PROTOCOL_FEATURES").contains(wanted));
        frontend.set_protocol_features(wanted).expect("SET_PROTOCOL_FEATURES");
        assert_eq!(frontend.get_queue_num().expect("GET_QUEUE_NUM"), self.options.config.num_queues as u64 + 1);
        self.features = offered & accept & !protocol;
        frontend.set_features(self.features | protocol).expect("SET_FEATURES");
        self.set_memory();
    }

    /// SET_MEM_TABLE: two regions, not in order.
    pub fn set_memory(&mut self) {
        let half = MEMORY_BYTES / 2;
        let regions = [half, 0].map(|offset| self.region(offset, half));
        self.frontend().set_mem_table(&regions).expect("SET_MEM_TABLE");
    }

    /// A part of the guest's memory.
    pub fn region(&self, offset: u64, bytes: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: MEMORY_START + offset,
            memory_size: bytes,
            userspace_addr: USER_BASE + offset,
            mmap_offset: offset,
            mmap_handle: self.memory_file.as_raw_fd(),
        }
    }

    pub fn start_rings(&mut self) {
        let crypto = self.features & feature::INLINE_ENCRYPTION != 0;
        let count = self.options.queues + usize::from(crypto);
        let event_idx = self.features & feature::EVENT_IDX != 0;
        self.rings = (0..count)
            .map(|index| Ring::new(&self.memory, MEMORY_START, index, self.options.ring_size, event_idx))
            .collect();
        for index in 0..count {
            self.start_ring(index);
        }
    }

    pub fn start_ring(&mut self, index: usize) {
        let ring = &mut self.rings[index];
        let config = ring.addresses(self.options.config.queue_size, USER_BASE - MEMORY_START);
        ring.kick = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        ring.call = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        ring.err = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let frontend = self.frontend.as_mut().expect("connected");
        frontend.set_vring_num(index, ring.size).expect("SET_VRING_NUM");
        frontend.set_vring_addr(index, &config).expect("SET_VRING_ADDR");
        frontend.set_vring_base(index, ring.next_avail).expect("SET_VRING_BASE");
        frontend.set_vring_call(index, &ring.call).expect("SET_VRING_CALL");
        frontend.set_vring_err(index, &ring.err).expect("SET_VRING_ERR");
        frontend.set_vring_kick(index, &ring.kick).expect("SET_VRING_KICK");
        frontend.set_vring_enable(index, true).expect("SET_VRING_ENABLE");
    }

    /// Index of the control virtqueue.
    pub fn control(&self) -> usize {
        if self.features & feature::MQ != 0 { self.options.config.num_queues.into() } else { 1 }
    }

    pub fn get_config(&mut self, offset: u32, len: u32) -> Vec<u8> {
        let blank = vec![0; len as usize];
        let (_, bytes) =
            self.frontend().get_config(offset, len, VhostUserConfigFlags::empty(), &blank).expect("GET_CONFIG");
        bytes
    }

    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) {
        self.frontend().set_config(offset, VhostUserConfigFlags::WRITABLE, bytes).expect("SET_CONFIG");
    }

    /// One request, cut into one descriptor for each side; waits for it.
    pub fn request(&mut self, queue: usize, readable: &[u8], writable: usize) -> Answer {
        self.rings[queue].request(readable, writable)
    }

    pub fn request_cut(&mut self, queue: usize, readable: &[u8], writable: usize, cut: &Cut) -> Answer {
        self.rings[queue].request_cut(readable, writable, cut)
    }

    /// RESET_DEVICE. The device is reset when this returns.
    pub fn reset(&mut self) {
        self.frontend().reset_device().expect("RESET_DEVICE");
        // That message has no reply. The next one has, so its reply shows that both are done.
        self.frontend().get_features().expect("GET_FEATURES");
    }

    /// RESET_DEVICE, then the queues run again with the same features.
    pub fn restart(&mut self) {
        self.reset();
        self.set_features_again();
        self.start_rings();
    }

    pub fn set_features_again(&mut self) {
        let features = self.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.frontend().set_features(features).expect("SET_FEATURES");
        self.frontend().get_features().expect("GET_FEATURES");
    }

    /// The path of the image.
    pub fn image_path(&self) -> &std::path::Path {
        &self.image_path
    }

    /// Bytes of the image on the host.
    pub fn image_bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.image.read_exact_at(&mut bytes, offset).expect("image");
        bytes
    }

    /// A counter of the device, by path.
    pub fn stat(&self, path: &str) -> u64 {
        let json = serde_json::to_value(self.device.stats()).expect("counters");
        let pointer = format!("/{}", path.replace('.', "/"));
        json.pointer(&pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no counter {path}"))
    }

    /// For holders of the frontend, too.
    fn hang_up(&mut self) {
        self.frontend = None;
        if let Some(connection) = self.connection.take() {
            // It may be closed already.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Closes the connection as a frontend that dies, and waits until the session has ended.
    pub fn disconnect(&mut self) {
        self.hang_up();
        if let Some(server) = self.server.take() {
            server.join().expect("the session ends without a panic");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hang_up();
        if let Some(server) = self.server.take()
            && server.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the session has panicked");
        }
    }
}

/// A file of huge pages of 2 MiB, if the kernel has them.
pub fn huge_memfd() -> Option<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    memfd_create("huge", flags).ok().map(File::from)
}

/// Guest memory from [`MEMORY_START`] on, and its file.
fn guest_memory(bytes: u64) -> (GuestMemoryMmap, File) {
    let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let file = File::from(file);
    file.set_len(bytes).expect("memfd");
    let offset = FileOffset::new(file.try_clone().expect("memfd"), 0);
    let range = (GuestAddress(MEMORY_START), bytes as usize, Some(offset));
    (GuestMemoryMmap::from_ranges_with_files([range]).expect("guest memory"), file)
}
