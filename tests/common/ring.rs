// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The driver's side of a split virtqueue (virtio 1.4, 2.7), with the means to break every rule of it.

use std::ops::Range;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Guest memory for each queue: the rings, an indirect table, then buffers.
const QUEUE_AREA: u64 = 16 << 20;
const INDIRECT_AT: u64 = 64 << 10;
const BUFFERS_AT: u64 = 128 << 10;
/// How long a request may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a request is cut into descriptors: the lengths of the first ones of each side; the last one has the rest.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    pub readable: Vec<usize>,
    pub writable: Vec<usize>,
    pub indirect: bool,
}

/// A descriptor as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// Where a request lies.
#[derive(Debug, Clone)]
pub struct Buffers {
    pub head: u16,
    pub writable: Vec<(u64, usize)>,
    taken: Vec<u16>,
}

pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub avail: u64,
    pub used: u64,
    pub next_avail: u16,
    pub next_used: u16,
    pub kick: EventFd,
    pub call: EventFd,
    pub err: EventFd,
    event_idx: bool,
    free: Vec<u16>,
    area: u64,
    /// Where buffers lie.
    buffers: Range<u64>,
    next_buffer: u64,
}

impl Ring {
    pub fn new(memory: &GuestMemoryMmap, start: u64, index: usize, size: u16, event_idx: bool) -> Self {
        let area = start + index as u64 * QUEUE_AREA;
        // The specification's order and alignments, each part on a page of its own.
        let page = |bytes: u64| bytes.next_multiple_of(4096);
        let (descriptors, avail) = (area, area + page(16 * u64::from(size)));
        let used = avail + page(6 + 2 * u64::from(size));
        memory.write_slice(&vec![0; INDIRECT_AT as usize], GuestAddress(area)).expect("rings");
        let event = || EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            size,
            descriptors,
            avail,
            used,
            next_avail: 0,
            next_used: 0,
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

    /// Buffers lie there from now on, in no room that others use.
    pub fn use_buffers(&mut self, buffers: Range<u64>) {
        self.next_buffer = buffers.start;
        self.buffers = buffers;
    }

    /// Room for a buffer; old ones are overwritten after a while.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        // Far apart and at odd addresses: a device that runs over an end, or wants alignment, is found out.
        let step = bytes as u64 + 37;
        if self.next_buffer + step > self.buffers.end {
            self.next_buffer = self.buffers.start;
        }
        let at = self.next_buffer;
        self.next_buffer += step;
        assert!(self.next_buffer <= self.buffers.end, "too large for the test's guest memory");
        at
    }

    pub fn write_descriptor(&self, memory: &GuestMemoryMmap, table: u64, index: u16, descriptor: Descriptor) {
        let at = table + 16 * u64::from(index);
        memory.write_obj(descriptor.address, GuestAddress(at)).expect("descriptor");
        memory.write_obj(descriptor.len, GuestAddress(at + 8)).expect("descriptor");
        memory.write_obj(descriptor.flags, GuestAddress(at + 12)).expect("descriptor");
        memory.write_obj(descriptor.next, GuestAddress(at + 14)).expect("descriptor");
    }

    /// Puts a request into memory and makes it available, without notifying.
    pub fn add(&mut self, memory: &GuestMemoryMmap, readable: &[u8], writable: usize, cut: &Cut) -> Buffers {
        let mut pieces = Vec::new();
        let mut rest = readable;
        for &len in cut.readable.iter().chain([&usize::MAX]) {
            let (piece, after) = rest.split_at(len.min(rest.len()));
            if !piece.is_empty() {
                let at = self.allocate(piece.len());
                memory.write_slice(piece, GuestAddress(at)).expect("buffer");
                pieces.push((at, piece.len(), 0));
            }
            rest = after;
        }
        let mut rest = writable;
        for &len in cut.writable.iter().chain([&usize::MAX]) {
            let len = len.min(rest);
            if len > 0 {
                let at = self.allocate(len);
                // What a device does not write stays recognisable.
                memory.write_slice(&vec![FILL; len], GuestAddress(at)).expect("buffer");
                pieces.push((at, len, WRITE));
            }
            rest -= len;
        }
        self.add_pieces(memory, &pieces, cut.indirect)
    }

    /// Makes a request available that is in memory already: address, length, [`WRITE`] or 0.
    pub fn add_pieces(&mut self, memory: &GuestMemoryMmap, pieces: &[(u64, usize, u16)], indirect: bool) -> Buffers {
        let (table, indices) = if indirect {
            (self.area + INDIRECT_AT, (0..pieces.len() as u16).collect::<Vec<_>>())
        } else {
            let at = self.free.len() - pieces.len();
            (self.descriptors, self.free.split_off(at))
        };
        for (number, &(address, len, flags)) in pieces.iter().enumerate() {
            let next = indices.get(number + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            let descriptor = Descriptor { address, len: len as u32, flags, next: next.unwrap_or(0) };
            self.write_descriptor(memory, table, indices[number], descriptor);
        }
        let (head, taken) = if indirect {
            let head = self.free.pop().expect("a free descriptor");
            let len = 16 * pieces.len() as u32;
            self.write_descriptor(
                memory,
                self.descriptors,
                head,
                Descriptor { address: table, len, flags: INDIRECT, next: 0 },
            );
            (head, vec![head])
        } else {
            (indices[0], indices)
        };
        self.publish(memory, head);
        let writable = pieces.iter().filter(|(.., flags)| *flags == WRITE).map(|&(at, len, _)| (at, len)).collect();
        Buffers { head, writable, taken }
    }

    /// Makes a head available.
    pub fn publish(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.next_avail % self.size);
        memory.write_obj(head, GuestAddress(slot)).expect("ring");
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_avail_index(memory, self.next_avail);
    }

    pub fn set_avail_index(&self, memory: &GuestMemoryMmap, index: u16) {
        memory.store(index, GuestAddress(self.avail + 2), Ordering::Release).expect("ring");
    }

    pub fn set_used_index(&self, memory: &GuestMemoryMmap, index: u16) {
        memory.store(index, GuestAddress(self.used + 2), Ordering::Release).expect("ring");
    }

    pub fn kick(&self) {
        self.kick.write(1).expect("kick");
    }

    /// Whether the device wants a notification for what was just added (EVENT_IDX).
    pub fn device_wants_kick(&self, memory: &GuestMemoryMmap, old: u16) -> bool {
        fence(Ordering::SeqCst);
        if !self.event_idx {
            let flags: u16 = memory.read_obj(GuestAddress(self.used)).expect("ring");
            return flags & 1 == 0;
        }
        let event: u16 = memory.read_obj(GuestAddress(self.used + 4 + 8 * u64::from(self.size))).expect("ring");
        self.next_avail.wrapping_sub(event).wrapping_sub(1) < self.next_avail.wrapping_sub(old)
    }

    pub fn used_index(&self, memory: &GuestMemoryMmap) -> u16 {
        memory.load(GuestAddress(self.used + 2), Ordering::Acquire).expect("ring")
    }

    /// Takes a returned head, if there is one.
    pub fn take_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        if self.used_index(memory) == self.next_used {
            return None;
        }
        let at = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let head: u32 = memory.read_obj(GuestAddress(at)).expect("ring");
        let len: u32 = memory.read_obj(GuestAddress(at + 4)).expect("ring");
        self.next_used = self.next_used.wrapping_add(1);
        // Ask for an interrupt for the next one (used_event, behind the available ring).
        let used_event = self.avail + 4 + 2 * u64::from(self.size);
        memory.write_obj(self.next_used, GuestAddress(used_event)).expect("ring");
        Some((u16::try_from(head).expect("a head"), len))
    }

    /// Waits for the next returned head.
    pub fn wait(&mut self, memory: &GuestMemoryMmap) -> (u16, u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.take_used(memory) {
                return used;
            }
            assert!(Instant::now() < deadline, "the device has not answered");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Asserts that the device leaves the queue alone for a while.
    pub fn assert_silent(&mut self, memory: &GuestMemoryMmap) {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(self.take_used(memory), None, "the device served a queue that it must not serve");
    }

    /// Asserts that the device returns nothing more than it had when its used index was `used`.
    pub fn assert_silent_from(&self, memory: &GuestMemoryMmap, used: u16) {
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(self.used_index(memory), used, "the device served a queue that it must not serve");
    }

    pub fn read_writable(&self, memory: &GuestMemoryMmap, buffers: &Buffers) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(at, len) in &buffers.writable {
            let mut piece = vec![0; len];
            memory.read_slice(&mut piece, GuestAddress(at)).expect("buffer");
            bytes.extend(piece);
        }
        bytes
    }

    pub fn free(&mut self, buffers: &Buffers) {
        self.free.extend(buffers.taken.iter().rev());
    }
}

/// What writable buffers hold before the device writes.
pub const FILL: u8 = 0xee;
