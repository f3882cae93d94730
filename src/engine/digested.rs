// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests with digests.
//!
//! A digest is made of the very bytes that the engine decrypts or has encrypted, while they are in memory that nobody else
//! writes: in a bounce buffer. Where the image is used in place, pieces of it go through one, too: others may write the image
//! at any moment. The digests stay there as well until the request has succeeded.

use super::inline::Inline;
use super::worker::{DigestBytes, MOST_DIGEST_BYTES};
use super::{Engine, Failure, Io, check_guest_memory};
use crate::digest::{DigestAlgorithm, Digests, INLINE_BYTES};
use crate::disk::IoDirection;
use crate::faults::Fate;
use crate::keyslot::KeyConfig;
use crate::observe::Stage;
use crate::request::{CryptoTag, Extent, Payload};
use scattered_xts::Dun;

/// The most bytes of digests that a request may ask for.
pub const MOST_REQUEST_DIGEST_BYTES: u64 = MOST_DIGEST_BYTES as u64 / 2;

/// Bytes that are encrypted and digested, or the other way round, while they are in the CPU's first cache; more if a data
/// unit is larger.
const STEP: u64 = 16 << 10;

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
        if !fits || end > self.disk.image().len() || len % u64::from(self.config.logical_block_size) != 0 {
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

    /// Reads what lies in memory, through a bounce buffer: a piece is copied, digested, and decrypted into guest memory.
    /// Returns how many bytes it has done, whole data units.
    pub(super) fn read_digested(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        done: u64,
        len: u64,
        inline: &Inline<'_>,
    ) -> Result<u64, Failure> {
        let mut prefetch = self.take_prefetch(io, inline);
        io.record.watch.lap(Stage::Other);
        let in_place = self.disk.read_in_place(extent.offset + done, len); // inside the extent
        self.lap_lookup(io);
        let (Some(from), Some(mut bounce)) = (in_place, io.worker.buffer_now(STEP)) else { return Ok(0) };
        let (step, mut moved) = (io.digest_step(), 0);
        while moved < len {
            let step = bounce.capacity_for(step.min(len - moved));
            let piece = from.offset(moved as usize).map_err(|_| Failure::Malformed)?; // less than a usize
            piece.copy_to_volatile_slice(bounce.piece(step));
            io.digest(done + moved, bounce.bytes(step));
            let sound = io.room.fill(done + moved, step, |room| {
                inline.decrypt(done + moved, bounce.piece(step), room, std::mem::take(&mut prefetch))?;
                Ok::<_, Failure>(self.disk.image().in_place_is_sound())
            })?;
            if !sound {
                break;
            }
            moved += step as u64; // usize to u64 loses nothing
        }
        io.record.watch.lap(inline.stage());
        Ok(moved)
    }

    /// Writes where the image can be written in place, through a bounce buffer: a piece is encrypted from guest memory,
    /// digested, and copied. Returns how many bytes it has done, whole data units.
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
        let in_place = self.disk.write_in_place(extent.offset + done, len); // inside the extent
        self.lap_lookup(io);
        let (Some(to), Some(mut bounce)) = (in_place, io.worker.buffer_now(STEP)) else { return Ok(0) };
        let (step, mut moved) = (io.digest_step(), 0);
        while moved < len {
            let step = bounce.capacity_for(step.min(len - moved));
            inline.encrypt(done + moved, &payload.data(done + moved, step), bounce.piece(step), false)?;
            check_guest_memory()?;
            io.digest(done + moved, bounce.bytes(step));
            let place = to.offset(moved as usize).map_err(|_| Failure::Malformed)?; // less than a usize
            place.copy_from(bounce.bytes(step));
            if !self.disk.image().in_place_is_sound() {
                break;
            }
            moved += step as u64; // usize to u64 loses nothing
        }
        io.record.watch.lap(inline.stage());
        Ok(moved)
    }
}

impl Io<'_> {
    /// Whether digests are wanted.
    #[inline]
    pub(super) fn is_digested(&self) -> bool {
        self.digesting.is_some()
    }

    /// Digests ciphertext that lies `offset` bytes into the request, if it wants that.
    #[inline]
    pub(super) fn digest(&mut self, offset: u64, ciphertext: &[u8]) {
        if let Some(digesting) = &mut self.digesting {
            digesting.digests.add(offset, ciphertext);
        }
    }

    /// Bytes to be digested at a time, whole data units.
    fn digest_step(&self) -> u64 {
        STEP.max(self.digesting.as_ref().map_or(0, |digesting| digesting.digests.unit()))
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
