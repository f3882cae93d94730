// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The driver's side of a split virtqueue with EVENT_IDX (virtio 1.4, 2.7). Each request has a ticket, and every ticket
//! three descriptors of its own, so there is no allocation.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::VolatileMemory;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::memory::{Memory, RING_SIZE};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Descriptors of a ticket: header, data, status.
const PER_TICKET: u16 = 3;
/// A device that is silent for longer is dead.
const PATIENCE: Duration = Duration::from_secs(20);

/// A piece of a request: offset, bytes, whether the device writes it.
pub type Piece = (u64, u32, bool);

/// One virtqueue.
pub struct Ring<'m> {
    memory: &'m Memory,
    base: u64,
    next_avail: u16,
    published: u16,
    next_used: u16,
    /// The device waits on it.
    pub kick: EventFd,
    /// The driver waits on it.
    pub call: EventFd,
}

impl<'m> Ring<'m> {
    /// Ring number `index` of the memory, empty.
    pub fn new(memory: &'m Memory, index: usize) -> Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK).context("no eventfd");
        Ok(Self {
            memory,
            base: Memory::ring(index),
            next_avail: 0,
            published: 0,
            next_used: 0,
            kick: event()?,
            call: event()?,
        })
    }

    /// Offset of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        self.base
    }

    /// Offset of the available ring.
    pub fn avail(&self) -> u64 {
        self.base + 8192
    }

    /// Offset of the used ring.
    pub fn used(&self) -> u64 {
        self.base + 16384
    }

    fn u16_at(&self, offset: u64) -> Result<&'m AtomicU16> {
        Ok(self.memory.region().get_atomic_ref(offset as usize)?)
    }

    /// Writes the descriptors of a ticket.
    pub fn describe(&self, ticket: u16, pieces: &[Piece]) -> Result<()> {
        ensure!(pieces.len() <= usize::from(PER_TICKET), "too many pieces");
        let first = ticket * PER_TICKET;
        for (number, &(offset, len, write)) in (0u16..).zip(pieces) {
            let last = usize::from(number) + 1 == pieces.len();
            let flags = if write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let at = (self.descriptors() + 16 * u64::from(first + number)) as usize;
            let region = self.memory.region();
            region.get_ref(at)?.store(Memory::guest_address(offset));
            region.get_ref(at + 8)?.store(len);
            region.get_ref(at + 12)?.store(flags);
            region.get_ref(at + 14)?.store(first + number + 1);
        }
        Ok(())
    }

    /// Queues a described ticket; the device sees it after [`Ring::publish`].
    pub fn add(&mut self, ticket: u16) -> Result<()> {
        let entry = self.avail() + 4 + 2 * u64::from(self.next_avail % RING_SIZE);
        self.u16_at(entry)?.store(ticket * PER_TICKET, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(())
    }

    /// Shows what was queued to the device, and notifies it if it wants that.
    pub fn publish(&mut self) -> Result<()> {
        if self.published == self.next_avail {
            return Ok(());
        }
        self.u16_at(self.avail() + 2)?.store(self.next_avail, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.u16_at(self.used() + 4 + 8 * u64::from(RING_SIZE))?.load(Ordering::Relaxed);
        let wanted = self.next_avail.wrapping_sub(event).wrapping_sub(1) < self.next_avail.wrapping_sub(self.published);
        self.published = self.next_avail;
        if wanted {
            self.kick.write(1).context("cannot notify the device")?;
        }
        Ok(())
    }

    /// Appends the tickets that the device has returned.
    pub fn take(&mut self, tickets: &mut Vec<u16>) -> Result<()> {
        let used = self.u16_at(self.used() + 2)?.load(Ordering::Acquire);
        while self.next_used != used {
            let entry = self.used() + 4 + 8 * u64::from(self.next_used % RING_SIZE);
            let head: u32 = self.memory.region().get_ref(entry as usize)?.load();
            let ticket = u16::try_from(head).ok().filter(|head| head.is_multiple_of(PER_TICKET) && *head < RING_SIZE);
            let Some(ticket) = ticket else { bail!("the device returned head {head}, which was never given to it") };
            tickets.push(ticket / PER_TICKET);
            self.next_used = self.next_used.wrapping_add(1);
        }
        Ok(())
    }

    /// Asks for a notification of the next completion, or for none in the near future.
    fn want_call(&self, wanted: bool) -> Result<()> {
        let used_event = if wanted { self.next_used } else { self.next_used.wrapping_sub(1) };
        let at = self.avail() + 4 + 2 * u64::from(RING_SIZE);
        self.u16_at(at)?.store(used_event, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn call_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) }
    }

    fn has_used(&self) -> Result<bool> {
        Ok(self.u16_at(self.used() + 2)?.load(Ordering::Acquire) != self.next_used)
    }
}

/// Waits until at least one of the rings has a completion.
pub fn wait(rings: &[&Ring<'_>], polling: bool) -> Result<()> {
    let ready = || -> Result<bool> {
        for ring in rings {
            if ring.has_used()? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if polling {
        return spin(rings, ready);
    }
    if ready()? {
        return Ok(());
    }
    for ring in rings {
        ring.want_call(true)?;
    }
    // What completed before the device saw the wish brings no notification.
    while !ready()? {
        let mut fds: Vec<PollFd<'_>> =
            rings.iter().map(|ring| PollFd::from_borrowed_fd(ring.call_fd(), PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        if poll(&mut fds, Some(&timeout))? == 0 {
            bail!("the device has not answered within {} s", PATIENCE.as_secs());
        }
        for ring in rings {
            match ring.call.read() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

fn spin(rings: &[&Ring<'_>], ready: impl Fn() -> Result<bool>) -> Result<()> {
    for ring in rings {
        ring.want_call(false)?;
    }
    let mut deadline = None;
    loop {
        for _ in 0..1 << 20 {
            if ready()? {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let deadline = deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        ensure!(Instant::now() < *deadline, "the device has not answered within {} s", PATIENCE.as_secs());
    }
}
