// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that faults strike. No other request runs this code.

use std::time::Instant;

use super::digested::digested_len;
use super::held::{Hold, Released};
use super::{Engine, Failure, Io};
use crate::disk::{IoDirection, SECTOR_SHIFT};
use crate::faults::{Fate, Loss, Op, Short, Subject};
use crate::keyslot::Evicted;
use crate::request::{ControlCommand, CryptoTag, Extent, KeySource, NO_SLOT, Request};

impl Engine {
    /// The faults that strike a request. Call it only if there are any.
    #[cold]
    pub(super) fn fate(&self, io: &Io<'_>, request: &Request<'_>) -> Option<Box<Fate>> {
        let mut extents: &[Extent] = &[];
        let (ranges, data): (Vec<Extent>, Extent);
        let (op, slot) = match request {
            Request::Read { extent, crypto, .. } => {
                data = Extent { len: self.data_of_read(extent, crypto.as_ref()), ..*extent };
                extents = std::slice::from_ref(&data);
                (Op::Read, crypto.map(|tag| tag.slot().unwrap_or(NO_SLOT)))
            }
            Request::Write { extent, crypto, .. } => {
                extents = std::slice::from_ref(extent);
                (Op::Write, crypto.map(|tag| tag.slot().unwrap_or(NO_SLOT)))
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
        let digested = match request {
            Request::Read { crypto, .. } | Request::Write { crypto, .. } => {
                crypto.is_some_and(|tag| tag.digest.is_some())
            }
            _ => false,
        };
        let fate =
            self.faults.strike(&Subject { op, queue: io.queue, lun: io.channel.number, slot, digested, extents });
        if fate.is_some() {
            self.observer.count_fault();
        }
        fate
    }

    /// Executes a request with faults, as [`Engine::serve`] does without.
    #[cold]
    pub(super) async fn serve_faulty<'e>(
        &'e self,
        io: &mut Io<'e>,
        request: &mut Request<'_>,
        fate: Box<Fate>,
    ) -> Result<(), Failure> {
        while fate.stuck.is_some_and(|fault| self.faults.has(fault)) {
            if io.hold(Hold::Stuck).await == Released::Drained {
                return Err(Failure::Fault);
            }
        }
        match request {
            // A command does this when it executes.
            Request::Control(_) => {}
            Request::Read { crypto, .. } | Request::Write { crypto, .. } => {
                self.lose(io, crypto.and_then(|tag| tag.slot()), fate.loss).await;
            }
            _ => self.lose(io, None, fate.loss).await,
        }
        let whole = fate.short.is_none_or(|short| self.cut_short(short, request));
        let result = match request {
            // The command code knows what a failing command leaves behind.
            Request::Control(_) => self.execute(io, request, Some(&fate)).await,
            _ if fate.controller.is_some() => Err(fate.controller.map_or(Failure::Fault, Failure::Controller)),
            _ if fate.io_error => Err(Failure::Fault),
            _ if !whole => Ok(()),
            _ => self.execute(io, request, Some(&fate)).await,
        };
        // A short transfer has failed, unless it claims success.
        let result = match fate.short {
            Some(Short { claims_success: false, .. }) => result.and(Err(Failure::Fault)),
            _ => result,
        };
        // The memory for digests is other requests', too. It must not be kept while this request is held back.
        let result = match result {
            Ok(()) => {
                if let Some(every) = fate.wrong_digest {
                    io.break_digests(every);
                }
                io.write_digests()
            }
            Err(failure) => {
                io.digesting = None;
                Err(failure)
            }
        };
        // The result is returned in the end, however it is held back.
        match fate.reorder {
            _ if !fate.delay.is_zero() => drop(io.hold(Hold::Until(Instant::now() + fate.delay)).await),
            Some(window) => drop(io.hold(Hold::Reorder(window)).await),
            None => {}
        }
        result
    }

    /// Loses keys before a request that uses `slot` begins.
    pub(super) async fn lose(&self, io: &Io<'_>, slot: Option<u32>, loss: Option<Loss>) {
        let lost = match (loss, slot) {
            (Some(Loss::All), _) => {
                self.forget_unwrapped();
                io.worker.wait_for_keyslot(io.token, self.empty_all_slots()).await
            }
            (Some(Loss::Slot), Some(slot)) => {
                let emptied = io.worker.wait_for_keyslot(io.token, self.empty_slot(slot)).await;
                usize::from(emptied == Ok(Evicted::Key))
            }
            _ => return,
        };
        self.observer.count_lost(lost);
    }

    /// Shortens a transfer. Returns false if nothing is left of it.
    fn cut_short(&self, short: Short, request: &mut Request<'_>) -> bool {
        let (extent, crypto, len) = match request {
            Request::Read { extent, crypto, .. } => {
                let len = self.data_of_read(extent, crypto.as_ref());
                (extent, crypto, len)
            }
            Request::Write { extent, crypto, .. } => {
                let len = extent.len;
                (extent, crypto, len)
            }
            _ => return true,
        };
        // A slot that is empty or does not exist fails later on.
        let unit_bits = crypto.as_ref().and_then(|tag| self.unit_bits(tag)).map_or(0, u32::from);
        let block_bits = self.config.logical_block_size.checked_ilog2().unwrap_or(SECTOR_SHIFT);
        let unit_bits = unit_bits.max(block_bits);
        let bytes = short.bytes.unwrap_or(len / 2).min(len);
        extent.len = bytes >> unit_bits << unit_bits;
        extent.len != 0
    }

    /// Bytes of a read's data, as far as can be told before it has its key: see [`Request::Read`].
    fn data_of_read(&self, extent: &Extent, crypto: Option<&CryptoTag>) -> u64 {
        let digested =
            crypto.and_then(|tag| digested_len(IoDirection::Read, extent.len, tag.digest?, self.unit_bits(tag)?));
        digested.unwrap_or(extent.len)
    }

    /// Of the key that a request uses, the data unit size's binary logarithm.
    fn unit_bits(&self, tag: &CryptoTag) -> Option<u8> {
        match tag.key {
            KeySource::Slot(slot) => Some(self.keyslots.acquire(slot).ok().flatten()?.key().config.data_unit_bits),
            KeySource::Disabled(_) => None,
            KeySource::Request(key) => Some(key.data_unit_bits.min(31) as u8), // fits
        }
    }
}
