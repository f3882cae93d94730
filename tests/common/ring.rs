// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A virtqueue with eventfds, free descriptors and room for buffers.

use std::ops::{Deref, DerefMut, Range};
use std::time::{Duration, Instant};

use test_driver::data::FILL;
use test_driver::{Piece, Virtqueue, WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::answer::Answer;

/// Guest memory for each queue: the rings, an indirect table, then buffers.
const QUEUE_AREA: u64 = 16 << 20;
const INDIRECT_AT: u64 = 64 << 10;
const BUFFERS_AT: u64 = 128 << 10;
/// How long a request may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a request is cut into descriptors: the lengths of the first ones of each side. The last one has the rest.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    pub readable: Vec<usize>,
    pub writable: Vec<usize>,
    pub indirect: bool,
}

/// The addresses of a request.
#[derive(Debug, Clone)]
pub struct Buffers {
    pub head: u16,
    pub writable: Vec<(u64, usize)>,
    taken: Vec<u16>,
}

pub struct Ring {
    queue: Virtqueue<GuestMemoryMmap>,
    memory: GuestMemoryMmap,
    pub kick: EventFd,
    pub call: EventFd,
    pub err: EventFd,
    event_idx: bool,
    free: Vec<u16>,
    area: u64,
    /// The part of guest memory for buffers.
    buffers: Range<u64>,
    next_buffer: u64,
}

/// Indices, addresses, and methods that break the rules.
impl Deref for Ring {
    type Target = Virtqueue<GuestMemoryMmap>;

    fn deref(&self) -> &Self::Target {
        &self.queue
    }
}

impl DerefMut for Ring {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.queue
    }
}

impl Ring {
    pub fn new(memory: &GuestMemoryMmap, start: u64, index: usize, size: u16, event_idx: bool) -> Self {
        let area = start + index as u64 * QUEUE_AREA;
        // In the specification's order, aligned, and each part on a page of its own.
        let page = |bytes: u64| bytes.next_multiple_of(4096);
        let (descriptors, avail) = (area, area + page(16 * u64::from(size)));
        let used = avail + page(6 + 2 * u64::from(size));
        memory.write_slice(&vec![0; INDIRECT_AT as usize], GuestAddress(area)).expect("rings");
        let event = || EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            queue: Virtqueue::new(memory.clone(), size, [descriptors, avail, used]),
            memory: memory.clone(),
            kick: event(),
            call: event(),
            err: event(),
            event_idx,
            free: (0..size).rev().collect(),
            area,
            buffers: area + BUFFERS_AT..area + QUEUE_AREA,
            next_buffer: area + BUFFERS_AT,
        }
    }

    /// From now on, allocates buffers in this range, which nothing else uses.
    pub fn use_buffers(&mut self, buffers: Range<u64>) {
        self.next_buffer = buffers.start;
        self.buffers = buffers;
    }

    /// Allocates a buffer. Later ones reuse the memory of old ones.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        // Far apart and at odd addresses, to find a device that writes past an end or needs alignment.
        let step = bytes as u64 + 37;
        if self.next_buffer + step > self.buffers.end {
            self.next_buffer = self.buffers.start;
        }
        let at = self.next_buffer;
        self.next_buffer += step;
        assert!(self.next_buffer <= self.buffers.end, "too large for the test's guest memory");
        at
    }

    /// Puts a request into memory and makes it available, one descriptor for each side, without notifying.
    pub fn add(&mut self, readable: &[u8], writable: usize) -> Buffers {
        self.add_cut(readable, writable, &Cut::default())
    }

    pub fn add_cut(&mut self, readable: &[u8], writable: usize, cut: &Cut) -> Buffers {
        let mut pieces = Vec::new();
        let mut rest = readable;
        for &len in cut.readable.iter().chain([&usize::MAX]) {
            let (piece, after) = rest.split_at(len.min(rest.len()));
            if !piece.is_empty() {
                let at = self.allocate(piece.len());
                self.memory.write_slice(piece, GuestAddress(at)).expect("buffer");
                pieces.push((at, piece.len() as u32, 0));
            }
            rest = after;
        }
        let mut rest = writable;
        for &len in cut.writable.iter().chain([&usize::MAX]) {
            let len = len.min(rest);
            if len > 0 {
                let at = self.allocate(len);
                // Bytes that the device does not write keep this value.
                self.memory.write_slice(&vec![FILL; len], GuestAddress(at)).expect("buffer");
                pieces.push((at, len as u32, WRITE));
            }
            rest -= len;
        }
        self.add_pieces(&pieces, cut.indirect)
    }

    /// Makes available a request that is in memory already.
    pub fn add_pieces(&mut self, pieces: &[Piece], indirect: bool) -> Buffers {
        let needed = if indirect { 1 } else { pieces.len() };
        let taken = self.free.split_off(self.free.len() - needed);
        let head = taken[0];
        if indirect {
            self.write_indirect(head, self.area + INDIRECT_AT, pieces);
        } else {
            self.write_chain(self.descriptors, |number| taken[usize::from(number)], pieces);
        }
        self.publish(head);
        let writable = pieces.iter().filter(|(.., flags)| *flags == WRITE).map(|&(at, len, _)| (at, len as usize));
        Buffers { head, writable: writable.collect(), taken }
    }

    pub fn kick(&self) {
        self.kick.write(1).expect("kick");
    }

    /// Whether the device wants a notification for what was just added.
    pub fn device_wants_kick(&self, old: u16) -> bool {
        self.wants_kick(old, self.event_idx)
    }

    /// Takes a returned head, if there is one.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.next_used {
            return None;
        }
        let (head, len) = self.used_entry(self.next_used);
        self.next_used = self.next_used.wrapping_add(1);
        // Request an interrupt for the next one.
        self.set_used_event(self.next_used);
        Some((u16::try_from(head).expect("a head"), len))
    }

    /// Waits for the next returned head.
    pub fn wait(&mut self) -> (u16, u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.take_used() {
                return used;
            }
            assert!(Instant::now() < deadline, "the device has not answered");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Asserts that the device does not serve the queue for a while.
    pub fn assert_silent(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(self.take_used(), None, "the device served a queue that it must not serve");
    }

    /// Asserts that the device returns nothing after the used index `used`.
    pub fn assert_silent_from(&self, used: u16) {
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(self.used_index(), used, "the device served a queue that it must not serve");
    }

    /// One request, one descriptor for each side; waits for it.
    pub fn request(&mut self, readable: &[u8], writable: usize) -> Answer {
        self.request_cut(readable, writable, &Cut::default())
    }

    pub fn request_cut(&mut self, readable: &[u8], writable: usize, cut: &Cut) -> Answer {
        let buffers = self.add_cut(readable, writable, cut);
        self.kick();
        let (head, used) = self.wait();
        assert_eq!(head, buffers.head, "the device returns the head that it was given");
        self.answer(used, &buffers)
    }

    /// The answer to a completed request. Frees its descriptors.
    pub fn answer(&mut self, used: u32, buffers: &Buffers) -> Answer {
        self.free(buffers);
        Answer::new(used, self.read_writable(buffers))
    }

    pub fn read_writable(&self, buffers: &Buffers) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(at, len) in &buffers.writable {
            let mut piece = vec![0; len];
            self.memory.read_slice(&mut piece, GuestAddress(at)).expect("buffer");
            bytes.extend(piece);
        }
        bytes
    }

    pub fn free(&mut self, buffers: &Buffers) {
        self.free.extend(buffers.taken.iter().rev());
    }
}
