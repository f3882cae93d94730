// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Moving data: guest memory, engine, private memory, image.
//!
//! Encrypted data goes through the engine in one pass: from guest memory into a private buffer on its way to the image,
//! from the buffer into guest memory on its way back. An image that is memory needs no buffer, nor does plain data that
//! the system can move at once. What does not fit in a buffer is moved in steps.

use std::time::Instant;

use super::job::{Next, Work};
use super::{Device, DeviceLane, Failure};
use crate::crypto::Dun;
use crate::disk::{self, Answer, Direction, Transfer};
use crate::faults::{BrokenEngine, Fate};
use crate::keyslot::KeyHandle;
use crate::observe::{CryptoUse, Record, Stage};
use crate::queue::Segments;
use crate::request::{CryptoTag, Extent, Reply};
use crate::soon::Soon;
use crate::vhost::Token;
use vm_memory::VolatileSlice;

/// The most bytes of a request that are moved before the worker looks at other chains and queues: a request may have almost
/// 4 GiB. A multiple of every data unit size and of the buffers'.
const TURN: u64 = 1 << 20;

/// The key and the DUN of a request, checked against its length.
pub(super) struct Inline {
    /// In place of the healthy engine, for a fault. Goes before the key: it may have one of the same slot.
    broken: Option<Box<BrokenEngine>>,
    slot: u32,
    key: KeyHandle,
    first: Dun,
}

/// A read or a write on its way.
pub(super) struct Moving {
    extent: Extent,
    /// `None` for plain data, and when all is encrypted or decrypted.
    inline: Option<Inline>,
    /// When the emulated engine is done with it, if that is slower than we are.
    due: Option<Instant>,
    /// Bytes that have been moved.
    done: u64,
    /// Bytes that the disk has been asked to move.
    asked: usize,
}

impl Inline {
    /// The DUN of the data unit at an offset, which is a multiple of the data unit size.
    fn dun_at(&self, offset: u64) -> Result<Dun, Failure> {
        self.first.checked_add(offset >> self.key.key().config.data_unit_bits).ok_or(Failure::Malformed)
    }

    /// Decrypts what lies `offset` bytes into the request, while the CPU fetches what comes soon.
    fn decrypt(
        &self,
        offset: u64,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        soon: Soon,
    ) -> Result<(), Failure> {
        let key = self.key.key();
        if let Some(broken) = &self.broken {
            broken.decrypt(&self.key, self.first, offset, from, to);
            return Ok(());
        }
        key.xts.decrypt_meanwhile(self.dun_at(offset)?, key.config.data_unit_bits, from, to, soon);
        Ok(())
    }

    /// Encrypts what lies `offset` bytes into the request. `past_caches`: nobody looks at the result soon.
    fn encrypt(
        &self,
        offset: u64,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        past_caches: bool,
    ) -> Result<(), Failure> {
        let key = self.key.key();
        if let Some(broken) = &self.broken {
            broken.encrypt(&self.key, self.first, offset, from, to);
            return Ok(());
        }
        let (dun, unit_bits) = (self.dun_at(offset)?, key.config.data_unit_bits);
        if past_caches {
            key.xts.encrypt_past_caches(dun, unit_bits, from, to);
        } else {
            key.xts.encrypt_between(dun, unit_bits, from, to);
        }
        Ok(())
    }
}

impl Moving {
    /// Where the time goes while its bytes are moved by the worker.
    fn stage(&self) -> Stage {
        if self.inline.is_some() { Stage::Crypto } else { Stage::Disk }
    }

    fn rest(&self) -> u64 {
        self.extent.len.saturating_sub(self.done)
    }

    /// The next piece of the image that fits in `capacity` bytes.
    fn next(&mut self, direction: Direction, capacity: usize) -> Transfer {
        self.asked = usize::try_from(self.rest()).unwrap_or(usize::MAX).min(capacity);
        // Inside the extent, so it cannot overflow.
        Transfer { direction, offset: self.extent.offset + self.done, len: self.asked }
    }

    /// All is encrypted or decrypted: the key is not needed any more, to make it durable for example.
    fn let_go(&mut self, lane: &mut DeviceLane) {
        if let Some(Inline { slot, key, .. }) = self.inline.take() {
            lane.keys.keep(slot, key);
        }
    }

    /// The disk has moved what it was asked to.
    fn moved(&mut self) {
        self.done += self.asked as u64; // usize to u64 loses nothing
    }
}

impl Device {
    /// Takes the key that the slot holds now, and checks that the transfer goes with it.
    pub(super) fn moving(
        &self,
        lane: &mut DeviceLane,
        extent: Extent,
        crypto: Option<CryptoTag>,
        record: &mut Record,
        fate: Option<&Fate>,
    ) -> Result<Moving, Failure> {
        let inline = match crypto {
            None => None,
            Some(tag) => {
                let broken = self.faults.engine(fate, tag.slot);
                let key = lane.keys.acquire(&self.keyslots, tag.slot)?.ok_or(Failure::NoKey)?;
                let first = Dun::new(tag.dun);
                let config = key.key().config;
                let units = extent.len >> config.data_unit_bits;
                record.crypto = Some(CryptoUse { slot: tag.slot, generation: key.generation(), dun: tag.dun, units });
                config.check(first, extent.len)?;
                Some(Inline { broken, slot: tag.slot, key, first })
            }
        };
        // From here on the request holds its place in the engine, so that our own work is part of the time it takes.
        let due = match (&self.pace, &inline) {
            (Some(pace), Some(_)) => Some(pace.reserve(Instant::now(), extent.len)),
            _ => None,
        };
        Ok(Moving { extent, inline, due, done: 0, asked: 0 })
    }

    /// Reads, or goes on, as far as one turn goes.
    pub(super) fn read<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut moving: Moving,
        reply: &mut Reply<'_>,
        record: &mut Record,
    ) -> Result<Next<'m>, Failure> {
        let turn = moving.rest().min(TURN);
        if !self.read_at_once(lane, &moving, turn, reply, record)? {
            return self.read_on(lane, token, moving, reply, record);
        }
        moving.done += turn;
        if moving.rest() > 0 {
            lane.let_others(token);
            return Ok(Next::Wait(Work::Read(moving)));
        }
        moving.let_go(lane);
        self.data_moved(lane, token, moving.due, false)
    }

    /// Reads the next `len` bytes without a buffer, where that can be done now: in place, or plain data by one system call.
    fn read_at_once(
        &self,
        lane: &mut DeviceLane,
        moving: &Moving,
        len: u64,
        reply: &mut Reply<'_>,
        record: &mut Record,
    ) -> Result<bool, Failure> {
        let (done, offset) = (moving.done, moving.extent.offset + moving.done); // inside the extent
        let soon = std::mem::take(&mut lane.soon);
        let disk = &lane.disk;
        let bytes = usize::try_from(len).map_err(|_| Failure::Malformed)?;
        record.watch.lap(Stage::Other);
        let in_place = disk.read_in_place(offset, len);
        lap_of_looking(disk, record);
        let moved = match (in_place, &moving.inline) {
            (Some(bytes), inline) => reply.fill(done, bytes.len(), |room| {
                match inline {
                    Some(inline) => inline.decrypt(done, &[bytes], room, soon)?,
                    None => copy(&[bytes], room),
                }
                Ok(disk.image().in_place_is_sound())
            }),
            (None, None) => Ok(reply.fill(done, bytes, |room| disk.transfer_directly(Direction::Read, offset, room))?),
            (None, Some(_)) => return Ok(false),
        };
        record.watch.lap(moving.stage());
        moved
    }

    fn read_on<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut moving: Moving,
        reply: &mut Reply<'_>,
        record: &mut Record,
    ) -> Result<Next<'m>, Failure> {
        let end = moving.done.saturating_add(TURN);
        while moving.rest() > 0 {
            if moving.done >= end {
                lane.let_others(token);
                return Ok(Next::Wait(Work::Read(moving)));
            }
            let buffer = lane.disk.buffer(moving.rest()).ok_or(Failure::NoMemory)?;
            let transfer = moving.next(Direction::Read, buffer.capacity());
            record.watch.lap(Stage::Other);
            match lane.disk.transfer(token, transfer, buffer) {
                Some(answer) => {
                    record.watch.lap(Stage::Disk);
                    read_arrived(lane, &mut moving, answer, reply, record)?;
                }
                None => return Ok(Next::Wait(Work::Read(moving))),
            }
        }
        self.data_moved(lane, token, moving.due, false)
    }

    pub(super) fn read_answered<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut moving: Moving,
        answer: Answer,
        reply: &mut Reply<'_>,
        record: &mut Record,
    ) -> Result<Next<'m>, Failure> {
        read_arrived(lane, &mut moving, answer, reply, record)?;
        self.read_on(lane, token, moving, reply, record)
    }

    /// Writes, or goes on, as far as one turn goes.
    pub(super) fn write<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut moving: Moving,
        source: Segments<'m>,
        record: &mut Record,
    ) -> Result<Next<'m>, Failure> {
        let turn = moving.rest().min(TURN);
        if !self.write_at_once(lane, &moving, turn, &source, record)? {
            return self.write_on(lane, token, moving, source, record);
        }
        moving.done += turn;
        if moving.rest() > 0 {
            lane.let_others(token);
            return Ok(Next::Wait(Work::Write(moving, source)));
        }
        moving.let_go(lane);
        self.data_moved(lane, token, moving.due, true)
    }

    /// Writes the next `len` bytes without a buffer, where that can be done now: in place, or plain data by one system call.
    fn write_at_once(
        &self,
        lane: &mut DeviceLane,
        moving: &Moving,
        len: u64,
        source: &Segments<'_>,
        record: &mut Record,
    ) -> Result<bool, Failure> {
        let (done, offset) = (moving.done, moving.extent.offset + moving.done); // inside the extent
        let bytes = usize::try_from(len).map_err(|_| Failure::Malformed)?;
        let pieces = || source.pieces(done, bytes);
        record.watch.lap(Stage::Other);
        let in_place = lane.disk.write_in_place(offset, len);
        lap_of_looking(&lane.disk, record);
        let moved = match (in_place, &moving.inline) {
            (Some(bytes), inline) => {
                match inline {
                    Some(inline) => {
                        // A memory disk is small. The pages of a file are written back, if anything.
                        let past_caches = !lane.disk.image().is_in_memory();
                        lane.unsettled |= past_caches;
                        inline.encrypt(done, &pieces(), &[bytes], past_caches)?;
                    }
                    None => copy(&pieces(), &[bytes]),
                }
                lane.disk.image().in_place_is_sound()
            }
            (None, None) => lane.disk.transfer_directly(Direction::Write, offset, &pieces())?,
            (None, Some(_)) => return Ok(false),
        };
        record.watch.lap(moving.stage());
        Ok(moved)
    }

    fn write_on<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut moving: Moving,
        source: Segments<'m>,
        record: &mut Record,
    ) -> Result<Next<'m>, Failure> {
        let end = moving.done.saturating_add(TURN);
        while moving.rest() > 0 {
            if moving.done >= end {
                lane.let_others(token);
                return Ok(Next::Wait(Work::Write(moving, source)));
            }
            let mut buffer = lane.disk.buffer(moving.rest()).ok_or(Failure::NoMemory)?;
            let transfer = moving.next(Direction::Write, buffer.capacity());
            let pieces = source.pieces(moving.done, transfer.len);
            let room = buffer.piece(transfer.len);
            record.watch.lap(Stage::Other);
            let filled = match &moving.inline {
                Some(inline) => inline.encrypt(moving.done, &pieces, &[room], false),
                None => {
                    copy(&pieces, &[room]);
                    Ok(())
                }
            };
            if let Err(failure) = filled {
                lane.disk.give_back(buffer);
                return Err(failure);
            }
            record.watch.lap(moving.stage());
            if moving.rest() == transfer.len as u64 {
                moving.let_go(lane);
            }
            match lane.disk.transfer(token, transfer, buffer) {
                Some(answer) => {
                    record.watch.lap(Stage::Disk);
                    write_arrived(lane, &mut moving, answer)?;
                }
                None => return Ok(Next::Wait(Work::Write(moving, source))),
            }
        }
        self.data_moved(lane, token, moving.due, true)
    }

    pub(super) fn write_answered<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        mut moving: Moving,
        source: Segments<'m>,
        answer: Answer,
        record: &mut Record,
    ) -> Result<Next<'m>, Failure> {
        write_arrived(lane, &mut moving, answer)?;
        self.write_on(lane, token, moving, source, record)
    }
}

/// Whether data can be moved in place has been found out.
fn lap_of_looking(disk: &disk::Lane, record: &mut Record) {
    // In memory that takes less time than to look at the clock.
    if !disk.image().looks_at_no_system() {
        record.watch.lap(Stage::Disk);
    }
}

/// Moves what the disk has read into the guest's memory.
fn read_arrived(
    lane: &mut DeviceLane,
    moving: &mut Moving,
    answer: Answer,
    reply: &mut Reply<'_>,
    record: &mut Record,
) -> Result<(), Failure> {
    let Answer { result, buffer } = answer;
    let Some(mut buffer) = buffer else { return Err(Failure::Malformed) };
    let len = moving.asked;
    let moved = result.map_err(Failure::from).and_then(|()| {
        let piece = buffer.piece(len);
        reply.fill(moving.done, len, |room| {
            match &moving.inline {
                Some(inline) => inline.decrypt(moving.done, &[piece], room, Soon::default())?,
                None => copy(&[piece], room),
            }
            Ok(true)
        })
    });
    lane.disk.give_back(buffer);
    moved?;
    record.watch.lap(moving.stage());
    moving.moved();
    Ok(())
}

fn write_arrived(lane: &mut DeviceLane, moving: &mut Moving, answer: Answer) -> Result<(), Failure> {
    let Answer { result, buffer } = answer;
    if let Some(buffer) = buffer {
        lane.disk.give_back(buffer);
    }
    result?;
    moving.moved();
    Ok(())
}

/// Copies as much as there is and finds room. One of the two is a single piece.
fn copy(from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
    let mut done = 0;
    match (from, to) {
        ([from], to) => {
            for room in to {
                if let Ok(rest) = from.offset(done) {
                    rest.copy_to_volatile_slice(*room);
                    done += room.len();
                }
            }
        }
        (from, [to]) => {
            for piece in from {
                if let Ok(rest) = to.offset(done) {
                    piece.copy_to_volatile_slice(rest);
                    done += piece.len();
                }
            }
        }
        _ => {}
    }
}
