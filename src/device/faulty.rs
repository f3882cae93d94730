// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What becomes of requests that faults strike. Nothing in here runs for any other request.

use std::time::Instant;

use super::held::{Hold, Let};
use super::job::{Job, Next, Work};
use super::{Device, DeviceLane, Failure};
use crate::crypto::KEY_BYTES;
use crate::faults::{Fate, Faults, Loss, Op, Short, Subject};
use crate::keyslot::{Evicted, NoSuchSlot};
use crate::observe::Record;
use crate::protocol::{SECTOR_SHIFT, Status};
use crate::request::{ControlCommand, Extent, Reply, Request};
use crate::vhost::{Lane, Progress, Token};

impl Device {
    /// The faults of the device, which can be changed at any time.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What faults do to a request. Only to be called when there are any.
    #[cold]
    pub(super) fn fate(&self, queue: usize, request: &Request<'_>) -> Option<Box<Fate>> {
        let mut extents: &[Extent] = &[];
        let ranges: Vec<Extent>;
        let (op, slot) = match request {
            Request::Read { extent, crypto } => {
                extents = std::slice::from_ref(extent);
                (Op::Read, crypto.map(|tag| tag.slot))
            }
            Request::Write { extent, crypto, .. } => {
                extents = std::slice::from_ref(extent);
                (Op::Write, crypto.map(|tag| tag.slot))
            }
            Request::Flush => (Op::Flush, None),
            Request::Discard(discarded) => {
                extents = discarded;
                (Op::Discard, None)
            }
            Request::SecureErase(erased) => {
                extents = erased;
                (Op::SecureErase, None)
            }
            Request::WriteZeroes(zeroed) => {
                ranges = zeroed.iter().map(|range| range.extent).collect();
                extents = &ranges;
                (Op::WriteZeroes, None)
            }
            Request::Control(ControlCommand::Program(programming)) => (Op::Program, Some(programming.slot)),
            Request::Control(ControlCommand::Evict { slot }) => (Op::Evict, Some(*slot)),
            Request::GetId | Request::Control(_) => return None,
        };
        let fate = self.faults.strike(&Subject { op, queue, slot, extents });
        if fate.is_some() {
            self.observer.count_fault();
        }
        fate
    }

    /// Begins to serve a request that a fault strikes.
    #[cold]
    pub(super) fn start_struck<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        request: Request<'m>,
        reply: Reply<'m>,
        record: Record,
        fate: Box<Fate>,
    ) -> Progress<Job<'m>> {
        if fate.stuck.is_some() {
            lane.hold(token, fate.queue, Hold::Stuck);
            return Progress::Waiting(Job { reply, work: Work::Stuck(Box::new(request), fate), record, fate: None });
        }
        if fate.loss.is_some() {
            // As for a command that empties a slot.
            return Progress::Alone(Job { reply, work: Work::Lose(Box::new(request), fate), record, fate: None });
        }
        self.serve_struck(lane, token, request, reply, record, fate, false)
    }

    /// A stuck request is looked at.
    pub(super) fn stuck<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        job: (Request<'m>, Reply<'m>, Box<Fate>),
        mut record: Record,
        how: Let,
    ) -> Progress<Job<'m>> {
        let (request, reply, mut fate) = job;
        match how {
            Let::End => self.settle(lane, token, reply, &mut record, None, Err(Failure::Fault)),
            Let::Go => {
                fate.stuck = fate.stuck.filter(|&id| self.faults.has(id));
                if fate.stuck.is_none() && lane.room() == 0 {
                    // All that was stuck goes on at once, and it may be more than there are buffers.
                    lane.hold(token, fate.queue, Hold::Stuck);
                    return Progress::Waiting(Job {
                        reply,
                        work: Work::Stuck(Box::new(request), fate),
                        record,
                        fate: None,
                    });
                }
                self.start_struck(lane, token, request, reply, record, fate)
            }
        }
    }

    /// Loses keys, and goes on with the request. Nothing else is in the worker's hand.
    pub(super) fn lose<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        request: Request<'m>,
        reply: Reply<'m>,
        record: Record,
        mut fate: Box<Fate>,
    ) -> Progress<Job<'m>> {
        lane.keys.release();
        let lost = match (fate.loss.take(), &request) {
            (Some(Loss::All), _) => self.empty_all_slots(),
            (Some(Loss::Slot), Request::Read { crypto: Some(tag), .. } | Request::Write { crypto: Some(tag), .. }) => {
                usize::from(self.empty_slot(tag.slot) == Ok(Evicted::Key))
            }
            _ => 0,
        };
        self.observer.count_lost(lost);
        self.serve_struck(lane, token, request, reply, record, fate, true)
    }

    /// `alone`: a command need not wait any more.
    #[expect(clippy::too_many_arguments, reason = "all that there is of a request")]
    fn serve_struck<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut request: Request<'m>,
        mut reply: Reply<'m>,
        mut record: Record,
        fate: Box<Fate>,
        alone: bool,
    ) -> Progress<Job<'m>> {
        let whole = fate.short.is_none_or(|short| self.cut_short(short, &mut request));
        let next = match request {
            // What a failing command leaves behind is known where commands are done.
            Request::Control(command) if alone => {
                self.control(lane, token, command, &mut reply, &mut record, Some(&fate))
            }
            Request::Control(_) => self.execute(lane, token, request, &mut reply, &mut record, Some(&fate)),
            _ if fate.io_error => Err(Failure::Fault),
            _ if !whole => Ok(Next::Done),
            _ => self.execute(lane, token, request, &mut reply, &mut record, Some(&fate)),
        };
        self.settle(lane, token, reply, &mut record, Some(fate), next)
    }

    /// Lets a request transfer less. False when nothing is left to transfer.
    fn cut_short(&self, short: Short, request: &mut Request<'_>) -> bool {
        let (Request::Read { extent, crypto } | Request::Write { extent, crypto, .. }) = request else { return true };
        // A slot that is empty or does not exist fails later on.
        let key = crypto.and_then(|tag| self.keyslots.acquire(tag.slot).ok().flatten());
        let block_bits = self.config.logical_block_size.checked_ilog2().unwrap_or(SECTOR_SHIFT);
        let unit_bits = key.map_or(0, |key| u32::from(key.key().config.data_unit_bits)).max(block_bits);
        let bytes = short.bytes.unwrap_or(extent.len / 2).min(extent.len);
        extent.len = bytes >> unit_bits << unit_bits;
        extent.len != 0
    }

    /// A program or evict command that fails.
    pub(super) fn fail_command(&self, command: &ControlCommand<'_>) -> Failure {
        if let ControlCommand::Program(programming) = command {
            // Hardware that fails on the way: the old key is gone. A slot that does not exist is no concern here.
            let _ = self.empty_slot(programming.slot);
            self.observer.count_program(programming.slot, None);
        }
        Failure::Fault
    }

    /// The end of a request that a fault has struck.
    pub(super) fn end_struck<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        reply: Reply<'m>,
        record: &mut Record,
        fate: &Fate,
        mut status: Status,
    ) -> Progress<Job<'m>> {
        if let (Some(Short { claims_success: false, .. }), Status::Ok) = (fate.short, status) {
            status = Status::IoErr;
        }
        let hold = match fate.reorder {
            _ if !fate.delay.is_zero() => Hold::Until(Instant::now() + fate.delay),
            Some(window) => Hold::Reorder(window),
            None => return Self::complete(lane, reply, record, status),
        };
        lane.hold(token, fate.queue, hold);
        Progress::Waiting(Job { reply, work: Work::Over(status), record: *record, fate: None })
    }

    /// Keeps a key that has been programmed, when a fault needs it.
    pub(super) fn keep_key(&self, slot: u32, key: &[u8; KEY_BYTES]) -> Result<(), Failure> {
        if self.faults.kept.keeping()
            && let Some(handle) = self.keyslots.acquire(slot)?
        {
            self.faults.kept.programmed(slot, handle.generation(), self.config.crypto_engine, key)?;
        }
        Ok(())
    }

    /// Empties a slot.
    pub(super) fn empty_slot(&self, slot: u32) -> Result<Evicted, NoSuchSlot> {
        let evicted = self.keyslots.evict(slot)?;
        self.faults.kept.emptied(slot);
        Ok(evicted)
    }

    /// Empties all slots. Returns how many held a key.
    pub(super) fn empty_all_slots(&self) -> usize {
        let lost = self.keyslots.clear();
        self.faults.kept.all_emptied();
        lost
    }
}
