// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The driver's side of a split virtqueue with EVENT_IDX (virtio 1.4, 2.7). Each request has a ticket, and every ticket
//! three descriptors of its own, so there is no allocation.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use test_driver::{Piece, Virtqueue};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::memory::{Memory, RING_SIZE};

/// Descriptors of a ticket: header, data, status.
const PER_TICKET: u16 = 3;
/// A device that completes nothing for longer is dead.
const PATIENCE: Duration = Duration::from_secs(20);

/// One virtqueue.
pub struct Ring<'m> {
    /// The ring itself.
    pub queue: Virtqueue<&'m Memory>,
    published: u16,
    /// Notifies the device.
    pub kick: EventFd,
    /// Notifies the driver.
    pub call: EventFd,
}

impl<'m> Ring<'m> {
    /// Ring number `index` of the memory, empty.
    pub fn new(memory: &'m Memory, index: usize) -> Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK).context("no eventfd");
        let queue = Virtqueue::new(memory, RING_SIZE, Memory::ring(index));
        Ok(Self { queue, published: 0, kick: event()?, call: event()? })
    }

    /// Writes the descriptors of a ticket.
    pub fn describe(&self, ticket: u16, pieces: &[Piece]) -> Result<()> {
        ensure!(pieces.len() <= usize::from(PER_TICKET), "too many pieces");
        self.queue.write_chain(self.queue.descriptors, |number| ticket * PER_TICKET + number, pieces);
        Ok(())
    }

    /// Queues a described ticket; the device sees it after [`Ring::publish`].
    pub fn add(&mut self, ticket: u16) {
        self.queue.put(ticket * PER_TICKET);
    }

    /// Makes the queued tickets available, and notifies the device if it wants that.
    pub fn publish(&mut self) -> Result<()> {
        let old = std::mem::replace(&mut self.published, self.queue.next_avail);
        if old == self.published {
            return Ok(());
        }
        self.queue.set_avail_index(self.published);
        if self.queue.wants_kick(old, true) {
            self.kick.write(1).context("cannot notify the device")?;
        }
        Ok(())
    }

    /// Appends the tickets that the device has returned.
    pub fn take(&mut self, tickets: &mut Vec<u16>) -> Result<()> {
        let used = self.queue.used_index();
        while self.queue.next_used != used {
            let (head, _) = self.queue.used_entry(self.queue.next_used);
            let ticket = u16::try_from(head).ok().filter(|head| head.is_multiple_of(PER_TICKET) && *head < RING_SIZE);
            let Some(ticket) = ticket else { bail!("the device returned head {head}, which was never given to it") };
            tickets.push(ticket / PER_TICKET);
            self.queue.next_used = self.queue.next_used.wrapping_add(1);
        }
        Ok(())
    }

    /// Asks for a notification of the next completion, or for none in the near future.
    fn want_call(&self, wanted: bool) {
        self.queue.set_used_event(self.queue.next_used.wrapping_sub(u16::from(!wanted)));
    }

    fn call_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) }
    }

    fn has_used(&self) -> bool {
        self.queue.used_index() != self.queue.next_used
    }
}

/// Waits until at least one of the rings has a completion.
pub fn wait(rings: &[&Ring<'_>], polling: bool) -> Result<()> {
    let ready = || rings.iter().any(|ring| ring.has_used());
    if polling {
        return spin(rings, ready);
    }
    if ready() {
        return Ok(());
    }
    rings.iter().for_each(|ring| ring.want_call(true));
    // Completions before the device saw the request bring no notification.
    while !ready() {
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

fn spin(rings: &[&Ring<'_>], ready: impl Fn() -> bool) -> Result<()> {
    rings.iter().for_each(|ring| ring.want_call(false));
    let mut deadline = None;
    loop {
        for _ in 0..1 << 20 {
            if ready() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let deadline = deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        ensure!(Instant::now() < *deadline, "the device has not answered within {} s", PATIENCE.as_secs());
    }
}
