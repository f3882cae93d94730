// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests with digests.
//!
//! A digest is made of the very bytes that the engine decrypts or has encrypted, in memory that nobody else writes: in a bounce
//! buffer. Others may write the image at any moment, so where it is used in place, a bounce buffer gets the ciphertext as well
//! ([`Tee`]). The digests stay in private memory until the request has succeeded.

use super::channel::BounceBuffer;
use super::inline::Inline;
use super::worker::{DigestBytes, MOST_DIGEST_BYTES};
use super::{Engine, Failure, Io, check_guest_memory};
use crate::digest::{DigestAlgorithm, Digests, INLINE_BYTES};
use crate::disk::IoDirection;
use crate::faults::Fate;
use crate::keyslot::KeyConfig;
use crate::observe::Stage;
use crate::request::{CryptoTag, Extent, Payload};
use scattered_xts::{Dun, Prefetch, Tee};
use vm_memory::VolatileSlice;

/// The most bytes of digests that a request may ask for.
pub const MOST_REQUEST_DIGEST_BYTES: u64 = MOST_DIGEST_BYTES as u64 / 2;

/// Bytes that are encrypted and digested, or the other way round, while they are in the CPU's caches: a small bounce buffer.
/// Any data unit fits.
const STEP: usize = 64 << 10;
/// The most data units of a step.
const MOST_UNITS: usize = STEP / 512;
/// The most data units in a bounce buffer.
const MOST_UNITS_BOUNCED: usize = (256 << 10) / 512;

/// The digests of a request in flight.
pub(super) struct Digesting<'e> {
    digests: Digests,
    /// Where they go in the room for the answer.
    at: u64,
    /// For a fault: wrong are those of data units whose numbers are multiples of the first; the request begins with the second.
    wrong: Option<(u64, u128)>,
    /// Bytes of the worker's that they use.
    _bytes: Option<DigestBytes<'e>>,
}

impl Engine {
    /// Whether a request may ask for digests of this algorithm.
    pub(super) fn check_digest(&self, algorithm: DigestAlgorithm) -> Result<(), Failure> {
        if self.config.digests.contains(&algorithm) { Ok(()) } else { Err(Failure::Unsupported) }
    }

    /// Prepares for the digests of a request, if what the driver has left for them has the right length, and returns where its
    /// data is: of a read, only this tells where it ends. Waits while other requests have too many digests.
    pub(super) async fn begin_digests<'e>(
        &'e self,
        io: &mut Io<'e>,
        direction: IoDirection,
        extent: Extent,
        tag: &CryptoTag,
        config: KeyConfig,
        fate: Option<&Fate>,
    ) -> Result<Extent, Failure> {
        let (unit_bits, Some(algorithm)) = (config.data_unit_bits, tag.digest) else { return Ok(extent) };
        let whole = digested_len(direction, io.room.len(), algorithm, unit_bits).ok_or(Failure::Malformed)?;
        // A fault may have cut the request short.
        let is_cut = fate.is_some_and(|fate| fate.short.is_some());
        let len = if is_cut { extent.len.min(whole) } else { whole };
        let (at, fits) = match direction {
            IoDirection::Read => (whole, true),
            IoDirection::Write => (0, extent.len == len),
        };
        let end = extent.offset.checked_add(len).ok_or(Failure::Malformed)?;
        if !fits || end > io.disk().image().len() || len % u64::from(self.config.logical_block_size) != 0 {
            return Err(Failure::Malformed);
        }
        let bytes = (whole >> unit_bits).checked_mul(algorithm.size() as u64); // at most 32
        let bytes =
            bytes.filter(|bytes| *bytes <= MOST_REQUEST_DIGEST_BYTES).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or(Failure::Malformed)?;
        let held = if bytes > INLINE_BYTES { Some(io.worker.digest_bytes(io.token, bytes).await) } else { None };
        let digests = Digests::new(algorithm, unit_bits, bytes).ok_or(Failure::NoMemory)?;
        let wrong = fate.and_then(|fate| Some((fate.wrong_digest?, Dun::new(tag.dun).low_128())));
        io.digesting = Some(Box::new(Digesting { digests, at, wrong, _bytes: held }));
        io.record.bytes = len;
        Ok(Extent { len, ..extent })
    }

    /// Reads what lies in memory: it is decrypted from there, and the ciphertext that was decrypted is digested. Returns how many
    /// bytes it has done, whole data units.
    pub(super) fn read_digested(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        done: u64,
        len: u64,
        inline: &Inline<'_>,
    ) -> Result<u64, Failure> {
        let mut prefetch = self.take_prefetch(io, inline);
        let disk = io.disk();
        io.record.watch.lap(Stage::Other);
        let in_place = disk.read_in_place(extent.offset + done, len); // inside the extent
        self.lap_lookup(io);
        let (Some(from), Some(mut kept)) = (in_place, io.buffer_now(STEP as u64)) else { return Ok(0) };
        let (mut moved, mut crcs) = (0, [0; MOST_UNITS]);
        while let Some(piece) = step(&from, moved) {
            let (at, len) = (done + moved as u64, piece.len()); // usize to u64 loses nothing
            let mut made = 0;
            let sound = io.room.fill(at, len, |room| {
                let tee = tee(&io.digesting, kept.bytes_mut(len), &mut crcs);
                made = inline.decrypt_with_tee(at, piece, room, std::mem::take(&mut prefetch), tee)?;
                Ok::<_, Failure>(disk.image().in_place_is_sound())
            })?;
            if !sound {
                break;
            }
            io.digest_with(at, kept.bytes(len), crcs.get(..made));
            moved += len;
        }
        io.record.watch.lap(inline.stage());
        Ok(moved as u64) // usize to u64 loses nothing
    }

    /// Writes where the image can be written in place: the ciphertext that goes there is digested. Returns how many bytes it has
    /// done, whole data units.
    pub(super) fn write_digested(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        done: u64,
        len: u64,
        inline: &Inline<'_>,
        payload: &Payload<'_>,
    ) -> Result<u64, Failure> {
        io.record.watch.lap(Stage::Other);
        let in_place = io.disk().write_in_place(extent.offset + done, len); // inside the extent
        self.lap_lookup(io);
        let (Some(to), Some(mut kept)) = (in_place, io.buffer_now(STEP as u64)) else { return Ok(0) };
        let past_caches = self.writes_past_caches(io);
        let (mut moved, mut crcs) = (0, [0; MOST_UNITS]);
        while let Some(piece) = step(&to, moved) {
            let (at, len) = (done + moved as u64, piece.len()); // usize to u64 loses nothing
            let tee = tee(&io.digesting, kept.bytes_mut(len), &mut crcs);
            let made = inline.encrypt_with_tee(at, &payload.data(at, len), piece, past_caches, tee)?;
            // The image holds it already, but nobody is told so.
            check_guest_memory()?;
            if !io.disk().image().in_place_is_sound() {
                break;
            }
            io.digest_with(at, kept.bytes(len), crcs.get(..made));
            moved += len;
        }
        io.record.watch.lap(inline.stage());
        Ok(moved as u64) // usize to u64 loses nothing
    }
}

impl Io<'_> {
    /// Decrypts what the disk has put into a bounce buffer, and digests it.
    pub(super) fn decrypt_digested(
        &mut self,
        inline: &Inline<'_>,
        offset: u64,
        bounce: &mut BounceBuffer<'_>,
        len: usize,
    ) -> Result<(), Failure> {
        let (mut crcs, mut made) = ([0; MOST_UNITS_BOUNCED], 0);
        let wants_crcs = self.wants_crcs();
        self.room.fill(offset, len, |room| {
            if wants_crcs {
                made = inline.decrypt_with_crc32c(offset, bounce.bytes_mut(len), room, &mut crcs)?;
            } else {
                inline.decrypt(offset, bounce.piece(len), room, Prefetch::default())?;
            }
            Ok::<_, Failure>(true)
        })?;
        self.digest_with(offset, bounce.bytes(len), crcs.get(..made));
        Ok(())
    }

    /// Encrypts into a bounce buffer, and digests what is there then.
    pub(super) fn encrypt_digested(
        &mut self,
        inline: &Inline<'_>,
        offset: u64,
        from: &[VolatileSlice<'_>],
        bounce: &mut BounceBuffer<'_>,
        len: usize,
    ) -> Result<(), Failure> {
        let (mut crcs, mut made) = ([0; MOST_UNITS_BOUNCED], 0);
        if self.wants_crcs() {
            made = inline.encrypt_with_crc32c(offset, from, bounce.bytes_mut(len), &mut crcs)?;
        } else {
            inline.encrypt(offset, from, bounce.piece(len), false)?;
        }
        self.digest_with(offset, bounce.bytes(len), crcs.get(..made));
        Ok(())
    }

    fn wants_crcs(&self) -> bool {
        self.digesting.as_ref().is_some_and(|digesting| digesting.digests.crc32c_unit_bits().is_some())
    }
}

/// The next bytes of the image, at most [`STEP`].
fn step<'m>(image: &VolatileSlice<'m>, moved: usize) -> Option<VolatileSlice<'m>> {
    let rest = image.offset(moved).ok()?;
    rest.subslice(0, rest.len().min(STEP)).ok().filter(|piece| !piece.is_empty())
}

/// Where ciphertext goes to be digested.
fn tee<'t>(digesting: &Option<Box<Digesting<'_>>>, kept: &'t mut [u8], crcs: &'t mut [u32]) -> Tee<'t> {
    match digesting.as_ref().and_then(|digesting| digesting.digests.crc32c_unit_bits()) {
        Some(unit_bits) => Tee::new(kept).with_crc32c(unit_bits, crcs),
        None => Tee::new(kept),
    }
}

impl Io<'_> {
    /// Whether digests are wanted.
    #[inline]
    pub(super) fn is_digested(&self) -> bool {
        self.digesting.is_some()
    }

    /// Digests ciphertext that lies `offset` bytes into the request, if that is wanted and there are no CRCs that were made beside the
    /// cipher.
    fn digest_with(&mut self, offset: u64, ciphertext: &[u8], crcs: Option<&[u32]>) {
        if let Some(digesting) = &mut self.digesting {
            digesting.digests.add_with(offset, ciphertext, crcs.unwrap_or_default());
        }
    }

    /// Gives the driver the digests of a request that has succeeded.
    pub(super) fn write_digests(&mut self) -> Result<(), Failure> {
        if let Some(mut digesting) = self.digesting.take() {
            // When guest memory is missing, the data may have gone nowhere.
            check_guest_memory()?;
            if let Some((every, first)) = digesting.wrong {
                digesting.digests.flip(first, every);
            }
            self.room.write(digesting.at, digesting.digests.bytes());
        }
        Ok(())
    }
}

/// Bytes of the data for whose digests, and of a read for which as well, there is just so much room.
pub(super) fn digested_len(
    direction: IoDirection,
    room: u64,
    algorithm: DigestAlgorithm,
    unit_bits: u8,
) -> Option<u64> {
    let (unit, digest) = (1u64.checked_shl(unit_bits.into())?, algorithm.size() as u64);
    let each = match direction {
        IoDirection::Read => unit.checked_add(digest)?,
        IoDirection::Write => digest,
    };
    if room.is_multiple_of(each) { (room / each).checked_mul(unit) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against all numbers of data units there may be.
    #[test]
    fn only_the_right_length_goes_with_data_units() {
        for algorithm in DigestAlgorithm::ALL {
            for unit_bits in [9, 12, 16] {
                let (unit, size) = (1u64 << unit_bits, algorithm.size() as u64);
                for room in
                    (0..5000).chain((0..40).flat_map(|n| (n * (unit + size)).saturating_sub(2)..n * (unit + size) + 2))
                {
                    let units =
                        |each: u64| (0..=room).find(|units| units * each >= room).filter(|units| units * each == room);
                    let len = |direction| digested_len(direction, room, algorithm, unit_bits);
                    assert_eq!(len(IoDirection::Read), units(unit + size).map(|units| units * unit));
                    assert_eq!(len(IoDirection::Write), units(size).map(|units| units * unit));
                }
                assert_eq!(digested_len(IoDirection::Read, u64::MAX, algorithm, 63), None);
                assert_eq!(digested_len(IoDirection::Write, u64::MAX - u64::MAX % size, algorithm, 63), None);
            }
        }
    }
}
