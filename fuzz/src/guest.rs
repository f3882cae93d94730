// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device with its disk in memory, and queues, driven by the calling thread as a worker drives them.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use arbitrary::{Arbitrary, Result, Unstructured};
use scattered_xts::Implementation;
use test_driver::data::FILL;
use test_driver::wire::*;
use test_driver::{Piece, WRITE};
use vhost_user_blk_crypto::device::{Device, DeviceConfig};
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::engine::{EngineConfig, Timing};
use vhost_user_blk_crypto::queue::{InflightRegion, Vring, region_bytes};
use vhost_user_blk_crypto::tasks::Token;
use vhost_user_blk_crypto::vhost::{Poller, View, VirtioDevice, begin};
use vhost_user_blk_crypto::wrapped::Wrapping;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use crate::books::Books;
use crate::disks::DiskKind;
use crate::layout::{self, Ring};
use crate::meddled::{Looked, Meddled, Poke, SlowWorker};
use crate::patience::Patience;
use crate::wire::Request;

/// Request queues; the control virtqueue comes after them.
pub const REQUEST_QUEUES: usize = 2;
pub const CONTROL: usize = REQUEST_QUEUES;
pub const QUEUES: usize = REQUEST_QUEUES + 1;
pub const KEYSLOTS: u16 = 3;
/// The largest queue of the device.
pub const QUEUE_SIZE: u16 = 64;
/// Data units on offer: 512 and 4096 bytes.
pub const DATA_UNITS: u32 = 0x1200;
pub const MAX_DUN_BYTES: u8 = 16;
/// A driver without them uses keyslots in-band.
pub const CRYPTO_BITS: u64 = feature::CTRL_VQ | feature::INLINE_ENCRYPTION;

/// The features that a driver accepts: all, or all but those for inline encryption, to use it in-band.
pub fn driver_features(in_band: bool) -> u64 {
    if in_band { !CRYPTO_BITS } else { u64::MAX }
}
/// How a request is cut into descriptors.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    pub lengths: Vec<u32>,
    pub indirect: bool,
}

impl<'a> Arbitrary<'a> for Cut {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let count = if u.ratio(1, 2)? { 0 } else { u.int_in_range(1..=6)? };
        let lengths = (0..count).map(|_| u.int_in_range(1..=600)).collect::<Result<_>>()?;
        Ok(Self { lengths, indirect: u.arbitrary()? })
    }
}

/// A change by the frontend while the device works.
pub enum Demand {
    /// Stops a queue, and starts it at the same index.
    Restart(usize),
    /// New features, which is a reset.
    Features(u64),
}

/// A guest with running queues.
pub struct Guest {
    pub device: Arc<Meddled>,
    pub memory: GuestMemoryMmap,
    pub rings: Vec<Ring>,
    pub vrings: Vec<Arc<Vring>>,
    pub books: Books,
    /// Where the device continues in each available ring.
    pub bases: [u16; QUEUES],
    /// Bytes of the disk.
    pub disk: u64,
    /// The frontend's in-flight region, and whether it is used.
    inflight: (File, Arc<InflightRegion>, bool),
    worker: Option<SlowWorker>,
    next_buffer: u64,
}

thread_local! {
    /// Guests are reused: a device takes long to make, and a reset restores its first state.
    static GUESTS: RefCell<[Option<Guest>; 6]> = const { RefCell::new([const { None }; 6]) };
}

/// The settings of a guest.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub features: u64,
    /// Descriptors of each queue.
    pub size: u16,
    pub disk: DiskKind,
    /// In-flight tracking.
    pub tracked: bool,
    /// The device has no keyslots.
    pub keys_in_requests: bool,
}

impl Setting {
    /// All features, with a disk that completes requests at once.
    pub fn plain(size: u16) -> Self {
        Self { features: u64::MAX, size, disk: DiskKind::Memory, tracked: false, keys_in_requests: false }
    }
}

/// Runs `action` on a guest in its first state.
pub fn with_guest<R>(setting: Setting, action: impl FnOnce(&mut Guest) -> R) -> R {
    // Taken out, so that a guest is not used again after a panic.
    let place = 2 * setting.disk as usize + usize::from(setting.keys_in_requests);
    let mut guest = GUESTS.with_borrow_mut(|guests| guests[place].take()).unwrap_or_else(|| Guest::new(setting));
    guest.boot(setting);
    let result = action(&mut guest);
    GUESTS.with_borrow_mut(|guests| guests[place] = Some(guest));
    result
}

impl Guest {
    fn new(Setting { disk: kind, keys_in_requests, .. }: Setting) -> Self {
        let config = DeviceConfig {
            engine: EngineConfig {
                keyslots: if keys_in_requests { 0 } else { KEYSLOTS },
                cache_unwrapped: true,
                crypto_engine: Implementation::detect(),
                raw_keys: true,
                data_unit_mask: DATA_UNITS,
                max_dun_bytes: MAX_DUN_BYTES,
                digests: DigestAlgorithm::ALL.to_vec(),
                logical_block_size: 512,
                serial: "fuzz".into(),
                timing: Timing::default(),
            },
            num_queues: REQUEST_QUEUES as u16,
            queue_size: QUEUE_SIZE,
            seg_max: QUEUE_SIZE - 3,
            physical_block_size: 512,
            writeback: true,
            keep_keys_on_reset: false,
            in_band: true,
            access_platform: false,
            ufs: false,
        };
        let wrapping = Wrapping::new(None).expect("wrapping keys");
        let device = Device::new(config, Some(wrapping), kind.disk()).expect("device");
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(layout::START), layout::BYTES)]).expect("memory");
        let device = Meddled::new(device, memory.clone());
        let worker = device.worker().expect("worker");
        let vrings = (0..QUEUES).map(|index| Arc::new(Vring::new(index, QUEUE_SIZE).expect("queue"))).collect();
        let file = InflightRegion::create(QUEUES as u16, QUEUE_SIZE).expect("region");
        let bytes = region_bytes(QUEUES as u16, QUEUE_SIZE);
        let twin = file.try_clone().expect("region");
        let region = InflightRegion::map(twin, 0, bytes, QUEUES as u16, QUEUE_SIZE).expect("region");
        Self {
            device: Arc::new(device),
            memory,
            rings: Vec::new(),
            vrings,
            books: Books::default(),
            bases: [0; QUEUES],
            disk: kind.bytes(),
            inflight: (file, region, false),
            worker: Some(worker),
            next_buffer: layout::BUFFERS,
        }
    }

    fn boot(&mut self, setting: Setting) {
        self.device.forget();
        self.next_buffer = layout::BUFFERS;
        self.memory.write_slice(&[0; layout::BYTES], GuestAddress(layout::START)).expect("memory");
        self.inflight.2 = setting.tracked;
        if setting.tracked {
            let bytes = region_bytes(QUEUES as u16, QUEUE_SIZE) as usize;
            self.inflight.0.write_all_at(&vec![0; bytes], 0).expect("region");
        }
        self.set_features(setting.features);
        self.rings = (0..QUEUES).map(|index| layout::ring(&self.memory, index, setting.size)).collect();
        self.books = Books::new(QUEUES);
        self.bases = [0; QUEUES];
        for queue in 0..QUEUES {
            self.start(queue);
        }
    }

    /// Resets the device, then accepts these of the offered features.
    pub fn set_features(&mut self, features: u64) {
        self.device.set_features(features & self.device.features());
        self.vrings.iter().for_each(|vring| vring.set_event_idx(features & feature::EVENT_IDX != 0));
    }

    /// Starts a queue where it was stopped.
    pub fn start(&mut self, queue: usize) {
        let (ring, vring) = (&self.rings[queue], &self.vrings[queue]);
        vring.set_kick(None);
        assert!(vring.set_size(ring.size));
        // The driver may have left any used index. A frontend sets the queue up with that.
        assert!(vring.set_addresses(&self.memory, layout::addresses(ring)));
        vring.set_next_avail(self.bases[queue]);
        assert!(vring.set_log(self.inflight.2.then(|| self.inflight.1.queue(queue)).flatten()));
        vring.set_kick(Some(eventfd()));
        vring.set_enabled(true);
    }

    /// The frontend, or another process with its memory, changes the in-flight region.
    pub fn poke_region(&self, at: u64, bytes: &[u8]) {
        let room = region_bytes(QUEUES as u16, QUEUE_SIZE).saturating_sub(at);
        let fits = bytes.len().min(room as usize);
        self.inflight.0.write_all_at(&bytes[..fits], at).expect("region");
    }

    /// The guest changes its memory like this while the device works.
    pub fn meddle_later(&self, pokes: &[Poke]) {
        self.device.meddle_later(pokes);
    }

    /// Does a worker's work until there is none left. All heads that were taken must be returned.
    pub fn work(&mut self) {
        self.work_while(|_| None);
    }

    /// The same, with an action of driver and frontend before each step, as long as there are any.
    pub fn work_while(&mut self, mut next: impl FnMut(&mut Self) -> Option<Option<Demand>>) {
        let mut stretches = 0;
        while !self.stretch(&mut next) {
            stretches += 1;
            assert!(stretches < 1000, "the device never finishes");
        }
        self.look();
        self.books.check_complete();
    }

    /// One turn of a worker. Returns true if there is nothing left to do.
    fn stretch(&mut self, next: &mut impl FnMut(&mut Self) -> Option<Option<Demand>>) -> bool {
        let vrings = self.vrings.clone();
        let Some(turns) = begin(&vrings) else { return true };
        let device = Arc::clone(&self.device);
        let view = View::new(GuestMemoryAtomic::new(self.memory.clone()));
        device.check_idle();
        let worker = self.worker.take().expect("not in use");
        let serve = |token, request| device.serve(token, request);
        let mut poller = Poller::new(&*device, &worker, &view, &vrings, turns, serve);
        let mut steps = 0;
        let all_done = loop {
            let more = match next(self) {
                Some(Some(demand)) => {
                    if !self.demand(&mut poller, demand) {
                        break false;
                    }
                    true
                }
                Some(None) => true,
                None => false,
            };
            let found = poller.poll();
            self.look();
            if poller.is_over() {
                break false;
            }
            if !(more || found || poller.arm()) && poller.is_empty() {
                break true;
            }
            steps += 1;
            assert!(steps < 20_000, "the device never finishes");
        };
        assert!(poller.is_empty(), "requests are left");
        drop(poller);
        device.check_idle();
        self.worker = Some(worker);
        all_done
    }

    /// Makes a frontend thread do something that waits for the worker. False: the poller has ended.
    fn demand<'m, F: Future<Output = u32>>(
        &mut self,
        poller: &mut Poller<'m, Meddled, impl Fn(Token, Looked<'m>) -> F, F>,
        demand: Demand,
    ) -> bool {
        let thread = match demand {
            Demand::Restart(queue) => {
                let vring = Arc::clone(&self.vrings[queue]);
                let stopping = Arc::clone(&vring);
                let thread = thread::spawn(move || Some((queue, stopping.stop().0)));
                while vring.started() {
                    thread::yield_now();
                }
                thread
            }
            Demand::Features(features) => {
                let (vrings, device) = (self.vrings.clone(), Arc::clone(&self.device));
                thread::spawn(move || {
                    let paused: Vec<_> = vrings.iter().map(|vring| vring.pause()).collect();
                    device.set_features(features & device.features());
                    drop(paused);
                    vrings.iter().for_each(|vring| vring.set_event_idx(features & feature::EVENT_IDX != 0));
                    None
                })
            }
        };
        let mut patience = Patience::new();
        while !thread.is_finished() && !poller.is_over() {
            if !poller.poll() {
                thread::yield_now();
            }
            self.look();
            patience.wait("the thread that stops a queue waits for ever");
        }
        if let Some((queue, next_avail)) = thread.join().expect("no panic") {
            self.bases[queue] = next_avail;
            self.start(queue);
            self.device.mended(queue);
        }
        !poller.is_over()
    }

    /// The driver takes completions: later the used ring may be overwritten.
    fn look(&mut self) {
        for queue in 0..QUEUES {
            self.books.look_at(queue, &self.rings[queue], self.device.is_broken(queue));
        }
    }

    /// The frontend stops an idle queue, and starts it at the same index.
    pub fn restart(&mut self, queue: usize) {
        (self.bases[queue], _) = self.vrings[queue].stop();
        self.start(queue);
        self.device.mended(queue);
    }

    /// Allocates a buffer. Later ones reuse the memory of old ones.
    fn allocate(&mut self, bytes: u64) -> u64 {
        let end = layout::START + layout::BYTES as u64;
        if self.next_buffer + bytes > end {
            self.next_buffer = layout::BUFFERS;
        }
        let at = self.next_buffer;
        self.next_buffer += bytes + 3;
        at
    }

    /// Writes a request into memory and makes it available under `head`. Returns where its room is.
    pub fn add(&mut self, queue: usize, head: u16, request: &Request, cut: &Cut) -> u64 {
        let readable = self.allocate(request.readable.len() as u64);
        layout::poke(&self.memory, readable, &request.readable);
        let room = self.allocate(request.room.into());
        layout::poke(&self.memory, room, &vec![FILL; request.room as usize]);
        let mut pieces = Vec::new();
        let mut lengths = cut.lengths.iter().copied();
        for (mut at, mut left, flags) in [(readable, request.readable.len() as u32, 0), (room, request.room, WRITE)] {
            while left > 0 {
                let len = lengths.next().unwrap_or(left).min(left);
                pieces.push((at, len, flags));
                at += u64::from(len);
                left -= len;
            }
        }
        self.add_chain(queue, head, &pieces, cut.indirect);
        room
    }

    /// A plain request with `count` times the same piece of memory: long, with little memory.
    pub fn add_long(&mut self, queue: usize, head: u16, write: bool, count: u16, piece: u32) {
        let at = self.allocate(16);
        layout::poke(&self.memory, at, &header(if write { OUT } else { IN }, 0));
        let data = self.allocate(piece.into());
        let status = self.allocate(1);
        let flags = if write { 0 } else { WRITE };
        let pieces = [&[(at, 16, 0)][..], &vec![(data, piece, flags); count.into()], &[(status, 1, WRITE)]].concat();
        self.add_chain(queue, head, &pieces, true);
    }

    /// Writes descriptors, linked in this order, and makes them available.
    fn add_chain(&mut self, queue: usize, head: u16, pieces: &[Piece], indirect: bool) {
        let ring = &mut self.rings[queue];
        if indirect {
            ring.write_indirect(head, layout::indirect(ring, head), pieces);
        } else {
            ring.write_chain(ring.descriptors, |number| (head + number) % ring.size, pieces);
        }
        self.books.sent(queue, head);
        ring.publish(head);
    }

    /// Zeroes the disk, which the previous run may have written.
    pub fn clear_disk(&mut self) {
        let sectors = self.disk as u32 / 512;
        let request = Request { readable: [header(WRITE_ZEROES, 0), range(0, sectors, 0)].concat(), room: 1 };
        assert_eq!(self.request(0, &request, &Cut::default()).0, OK);
    }

    /// Makes one request, on a valid ring, and waits for it. Returns the status and the data before it, and
    /// checks the used ring. The request has room for a status and is not empty.
    pub fn request(&mut self, queue: usize, request: &Request, cut: &Cut) -> (u8, Vec<u8>) {
        let before = self.rings[queue].used_index();
        let room = self.add(queue, 0, request, cut);
        self.work();
        let ring = &self.rings[queue];
        assert_eq!(ring.used_index(), before.wrapping_add(1), "one head is completed");
        let (head, len) = ring.used_entry(before);
        assert_eq!(head, 0);
        assert!(len <= request.room);
        self.answer(room, request.room)
    }

    /// The status in a request's room, and the data before it.
    pub fn answer(&self, at: u64, room: u32) -> (u8, Vec<u8>) {
        let mut bytes = vec![0; room as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).expect("room");
        let status = bytes.pop().expect("room for a status");
        (status, bytes)
    }
}

pub fn eventfd() -> File {
    use std::os::fd::OwnedFd;
    let fd: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd");
    fd.into()
}
