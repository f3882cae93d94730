// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key of an encrypted request, and what the engine does with it.

use std::time::Instant;

use vm_memory::VolatileSlice;

use super::key::InUse;
use super::worker::Worker;
use super::{Engine, Failure, Io};
use crate::digest::DigestAlgorithm;
use crate::disk::IoDirection;
use crate::faults::{BrokenEngine, Fate};
use crate::observe::{CryptoUse, Stage};
use crate::request::{CryptoTag, Extent, KeySource, Payload, Request};
use scattered_xts::{Dun, Prefetch};

/// The key and DUN of a request, checked against its length. Plain data has none.
pub(super) struct Inline<'e> {
    encrypted: Option<Encrypted<'e>>,
    /// The data.
    pub(super) extent: Extent,
    /// When the emulated engine is done with it, if that is slower than we are.
    pub(super) due: Option<Instant>,
}

struct Encrypted<'e> {
    /// Replaces the healthy engine, for a fault. Dropped before the key, because it may hold a key of the same slot.
    broken: Option<Box<BrokenEngine>>,
    key: InUse<'e>,
    first: Dun,
}

impl Engine {
    /// Takes the current key of the slot, and checks that it can serve the transfer.
    pub(super) async fn inline<'e>(
        &'e self,
        io: &mut Io<'e>,
        direction: IoDirection,
        extent: Extent,
        crypto: Option<&CryptoTag>,
        payload: &Payload<'_>,
        fate: Option<&Fate>,
    ) -> Result<Inline<'e>, Failure> {
        let Some(tag) = crypto else { return Ok(Inline { encrypted: None, extent, due: None }) };
        if let Some(algorithm) = tag.digest {
            self.check_digest(algorithm)?;
        }
        let (key, broken) = match tag.key {
            KeySource::Slot(slot) => self.key_of_slot(io, slot, fate)?,
            KeySource::Disabled(_) => return Err(Failure::NoKey),
            KeySource::Request(key) => self.key_of_request(io, &key, payload, fate).await?,
        };
        let first = Dun::new(tag.dun);
        let config = key.key()?.config;
        let extent = match tag.digest {
            None => extent,
            Some(algorithm) => {
                let unit_bits = config.data_unit_bits;
                let (extent, bytes) = self.begin_digests(io, direction, extent, algorithm, unit_bits, fate)?;
                if let Some(bytes) = bytes {
                    io.reserve_digests(bytes).await?;
                }
                if let Some(digesting) = &mut io.digesting {
                    let is_crc32c = algorithm == DigestAlgorithm::Crc32c;
                    digesting.beside = is_crc32c && broken.is_none() && key.key()?.xts.has_crc32c();
                }
                extent
            }
        };
        let units = extent.len >> config.data_unit_bits;
        let (slot, generation) = (tag.slot(), key.generation());
        io.record.crypto = Some(CryptoUse { slot, generation, dun: tag.dun, units, digest: tag.digest });
        config.check(first, extent.len)?;
        // From here on the request occupies the emulated engine, so that our own work counts as part of its time.
        let due = self.pace.as_ref().map(|pace| pace.reserve(Instant::now(), extent.len));
        Ok(Inline { encrypted: Some(Encrypted { broken, key, first }), extent, due })
    }
}

/// A transfer that will be served soon.
#[derive(Debug, Clone, Copy)]
pub enum Ahead {
    /// A read.
    Read(Extent),
    /// A write.
    Write(Extent),
}

impl Ahead {
    /// The transfer of a request, if it has one.
    pub fn of(request: &Request<'_>) -> Option<Self> {
        match request {
            Request::Read { extent, .. } => Some(Self::Read(*extent)),
            Request::Write { extent, .. } => Some(Self::Write(*extent)),
            _ => None,
        }
    }
}

impl Engine {
    /// Prefetches from the first disk for a transfer that will be served after a few others, or notes it for the engine to prefetch while
    /// it decrypts.
    pub fn prefetch(&self, worker: &Worker, ahead: Ahead) {
        match ahead {
            Ahead::Read(Extent { offset, len }) => {
                // The previous note, if the engine had no time for it.
                worker.prefetch.take().finish();
                worker.prefetch.set(self.disk.prefetch_read(offset, len).unwrap_or_default());
            }
            Ahead::Write(Extent { offset, len }) => self.disk.prefetch_write(offset, len),
        }
    }

    /// What the engine should prefetch while it decrypts. Without decryption, prefetches it now.
    pub(super) fn take_prefetch(&self, io: &Io<'_>, inline: &Inline<'_>) -> Prefetch {
        if inline.is_encrypted() {
            return io.worker.prefetch.take();
        }
        self.finish_prefetch(io);
        Prefetch::default()
    }

    /// Prefetches what is left.
    pub(super) fn finish_prefetch(&self, io: &Io<'_>) {
        io.worker.prefetch.take().finish();
    }

    /// Ends the time of checking whether data can be moved in place.
    pub(super) fn lap_lookup(&self, io: &mut Io<'_>) {
        // In memory that takes less time than reading the clock.
        if !io.disk().image().residency_is_cached() {
            io.record.watch.lap(Stage::Disk);
        }
    }
}

impl Encrypted<'_> {
    /// The DUN of the data unit at an offset, which is a multiple of the data unit size.
    fn dun_at(&self, offset: u64) -> Result<Dun, Failure> {
        self.first.checked_add(offset >> self.key.key()?.config.data_unit_bits).ok_or(Failure::Malformed)
    }
}

impl Inline<'_> {
    /// Whether the data is encrypted on the image.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted.is_some()
    }

    /// The stage that counts the worker's time for moving data.
    pub(super) fn stage(&self) -> Stage {
        if self.is_encrypted() { Stage::Crypto } else { Stage::Disk }
    }

    /// Moves the data `offset` bytes into the request from the image to the guest, while the CPU prefetches. `crcs`: room for the
    /// CRC-32C of each data unit, from [`crcs`](super::digested::crcs).
    pub(super) fn decrypt(
        &self,
        offset: u64,
        from: VolatileSlice<'_>,
        to: &[VolatileSlice<'_>],
        prefetch: Prefetch,
        crcs: Option<&mut [[u8; 4]]>,
    ) -> Result<(), Failure> {
        let from = [from];
        match &self.encrypted {
            None => copy(&from, to),
            Some(Encrypted { broken: Some(broken), key, first, .. }) => {
                broken.decrypt(key.key()?, *first, offset, &from, to);
            }
            Some(encrypted) => {
                let key = encrypted.key.key()?;
                let (dun, unit_bits) = (encrypted.dun_at(offset)?, key.config.data_unit_bits);
                match crcs {
                    Some(crcs) => done(key.xts.decrypt_with_crc32c(dun, unit_bits, &from, to, prefetch, crcs))?,
                    None => key.xts.decrypt_prefetching(dun, unit_bits, &from, to, prefetch),
                }
            }
        }
        Ok(())
    }

    /// Moves the data `offset` bytes into the request from the guest to the image. `past_caches`: nobody reads the
    /// result soon. `crcs`: see [`decrypt`](Self::decrypt).
    pub(super) fn encrypt(
        &self,
        offset: u64,
        from: &[VolatileSlice<'_>],
        to: VolatileSlice<'_>,
        past_caches: bool,
        crcs: Option<&mut [[u8; 4]]>,
    ) -> Result<(), Failure> {
        let to = [to];
        match &self.encrypted {
            None => copy(from, &to),
            Some(Encrypted { broken: Some(broken), key, first, .. }) => {
                broken.encrypt(key.key()?, *first, offset, from, &to);
            }
            Some(encrypted) => {
                let key = encrypted.key.key()?;
                let (dun, unit_bits) = (encrypted.dun_at(offset)?, key.config.data_unit_bits);
                match crcs {
                    Some(crcs) => {
                        done(key.xts.encrypt_with_crc32c(dun, unit_bits, from, &to, past_caches, crcs))?;
                    }
                    None if past_caches => key.xts.encrypt_nontemporal(dun, unit_bits, from, &to),
                    None => key.xts.encrypt(dun, unit_bits, from, &to),
                }
            }
        }
        Ok(())
    }

    /// All data is encrypted or decrypted: the key is no longer needed.
    pub(super) fn done(&mut self, worker: &Worker) {
        if let Some(Encrypted { key, .. }) = self.encrypted.take() {
            key.keep(worker);
        }
    }
}

/// The CRCs have to be there. They are: [`Engine::inline`] asks the cipher whether it computes them.
fn done(computed: bool) -> Result<(), Failure> {
    if computed { Ok(()) } else { Err(Failure::Unsupported) }
}

/// Copies as many bytes as both have. One of the two is a single piece.
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
