// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests with digests.
//!
//! The digest of a data unit is made of the same bytes that the engine decrypts or has encrypted. Others may write the image at
//! any moment, so these bytes are not read from there a second time. A cipher that computes CRC-32C gives the digests with the
//! data, in one pass. In all other cases, the ciphertext lies in a bounce buffer, which nobody else writes. The digests stay in
//! private memory until the request succeeds.

use super::inline::Inline;
use super::worker::{DigestBytes, MOST_DIGEST_BYTES};
use super::{Engine, Failure, Io, check_guest_memory};
use crate::digest::{DigestAlgorithm, Digests, INLINE_BYTES};
use crate::disk::IoDirection;
use crate::faults::Fate;
use crate::observe::Stage;
use crate::request::{Extent, Payload};
use scattered_xts::Dun;
use vm_memory::VolatileSlice;

/// The most bytes of digests that a request may ask for.
pub const MOST_REQUEST_DIGEST_BYTES: u64 = MOST_DIGEST_BYTES as u64 / 2;

/// A request with at most this many bytes of digests need not wait for memory. Most requests have no more.
const SMALL: usize = 128;

/// Bytes that are encrypted or decrypted, and then digested while they are in the CPU's first cache; or one data unit.
const STEP: usize = 16 << 10;

/// The digests of a request in flight.
pub(super) struct Digesting<'e> {
    digests: Digests,
    /// The cipher computes the digests.
    pub(super) beside: bool,
    /// The offset of the digests in the reply.
    at: u64,
    /// Their share of the worker's memory for digests.
    share: Option<DigestBytes<'e>>,
}

impl Engine {
    /// Checks that the device offers the algorithm.
    pub(super) fn check_digest(&self, algorithm: DigestAlgorithm) -> Result<(), Failure> {
        if self.config.digests.contains(&algorithm) { Ok(()) } else { Err(Failure::Unsupported) }
    }

    /// Checks the length of the array for the digests, and prepares for them. Returns where the data is on the image: of a read,
    /// only the array tells where the data ends. Also returns how many bytes to [reserve](Io::reserve_digests), if any.
    pub(super) fn begin_digests(
        &self,
        io: &mut Io<'_>,
        direction: IoDirection,
        extent: Extent,
        algorithm: DigestAlgorithm,
        unit_bits: u8,
        fate: Option<&Fate>,
    ) -> Result<(Extent, Option<usize>), Failure> {
        let whole = digested_len(direction, io.room.len(), algorithm, unit_bits).ok_or(Failure::Malformed)?;
        // A fault may have cut the request short.
        let is_cut = fate.is_some_and(|fate| fate.short.is_some());
        let len = if is_cut { extent.len.min(whole) } else { whole };
        let (at, fits) = match direction {
            IoDirection::Read => (whole, true),
            IoDirection::Write => (0, extent.len == len),
        };
        let end = extent.offset.checked_add(len).ok_or(Failure::Malformed)?;
        let in_block = u64::from(self.config.logical_block_size).wrapping_sub(1); // a power of two
        if !fits || end > io.disk().image().len() || len & in_block != 0 {
            return Err(Failure::Malformed);
        }
        let bytes = (whole >> unit_bits).checked_mul(algorithm.size() as u64); // at most 32
        let bytes =
            bytes.filter(|bytes| *bytes <= MOST_REQUEST_DIGEST_BYTES).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or(Failure::Malformed)?;
        io.digesting = Some(Digesting { digests: Digests::new(algorithm, unit_bits), beside: false, at, share: None });
        io.record.bytes = len;
        Ok((Extent { len, ..extent }, (bytes > INLINE_BYTES).then_some(bytes)))
    }

    /// Reads data that is in memory: copies it to a bounce buffer, and decrypts and digests it there. Returns the number of bytes
    /// read, which are whole data units.
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
        let step = io.digest_step();
        let (Some(from), Some(mut bounce)) = (in_place, io.buffer_now(step as u64)) else { return Ok(0) };
        let mut moved = 0;
        while let Some(piece) = next_step(&from, moved, step) {
            let (at, len) = (done + moved as u64, piece.len()); // usize to u64 loses nothing
            piece.copy_to_volatile_slice(bounce.piece(len));
            if !disk.image().in_place_is_sound() {
                break;
            }
            io.room.fill(at, len, |room| {
                inline.decrypt(at, bounce.piece(len), room, std::mem::take(&mut prefetch), None)?;
                Ok::<_, Failure>(true)
            })?;
            io.digest(at, bounce.bytes(len));
            moved += len;
        }
        io.record.watch.lap(inline.stage());
        Ok(moved as u64) // usize to u64 loses nothing
    }

    /// Writes data where the image can be written in place: encrypts it into a bounce buffer, digests it, and copies it. Returns
    /// the number of bytes written, which are whole data units.
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
        let step = io.digest_step();
        let (Some(to), Some(mut bounce)) = (in_place, io.buffer_now(step as u64)) else { return Ok(0) };
        let mut moved = 0;
        while let Some(piece) = next_step(&to, moved, step) {
            let (at, len) = (done + moved as u64, piece.len()); // usize to u64 loses nothing
            inline.encrypt(at, &payload.data(at, len), bounce.piece(len), false, None)?;
            check_guest_memory()?;
            io.digest(at, bounce.bytes(len));
            bounce.piece(len).copy_to_volatile_slice(piece);
            if !io.disk().image().in_place_is_sound() {
                break;
            }
            moved += len;
        }
        io.record.watch.lap(inline.stage());
        Ok(moved as u64) // usize to u64 loses nothing
    }
}

/// The next bytes of the image, at most `step`.
fn next_step<'m>(image: &VolatileSlice<'m>, moved: usize, step: usize) -> Option<VolatileSlice<'m>> {
    let rest = image.offset(moved).ok()?;
    rest.subslice(0, rest.len().min(step)).ok().filter(|piece| !piece.is_empty())
}

/// Room for the CRC-32Cs of `len` bytes that begin `offset` bytes into the request, if the cipher computes the digests.
pub(super) fn crcs<'d>(digesting: &'d mut Option<Digesting<'_>>, offset: u64, len: usize) -> Option<&'d mut [[u8; 4]]> {
    digesting.as_mut().filter(|digesting| digesting.beside)?.digests.crc32c_room(offset, len)
}

impl Io<'_> {
    /// Allocates memory for the digests. Waits while the digests of other requests use up the worker's share.
    #[cold]
    pub(super) async fn reserve_digests(&mut self, bytes: usize) -> Result<(), Failure> {
        let share = if bytes > SMALL { Some(self.worker.digest_bytes(self.token, bytes).await) } else { None };
        let Some(digesting) = &mut self.digesting else { return Ok(()) };
        digesting.share = share;
        if digesting.digests.reserve(bytes) { Ok(()) } else { Err(Failure::NoMemory) }
    }

    /// Whether the digests need a second pass over the ciphertext, which must be private.
    #[inline]
    pub(super) fn needs_private_ciphertext(&self) -> bool {
        self.digesting.as_ref().is_some_and(|digesting| !digesting.beside)
    }

    /// Bytes of a step: whole data units. They fit into any bounce buffer.
    fn digest_step(&self) -> usize {
        let unit = self.digesting.as_ref().and_then(|digesting| usize::try_from(digesting.digests.unit()).ok());
        unit.map_or(STEP, |unit| unit.max(STEP))
    }

    /// Digests ciphertext that begins `offset` bytes into the request, unless the request wants no digests or the cipher computes
    /// them.
    pub(super) fn digest(&mut self, offset: u64, ciphertext: &[u8]) {
        if let Some(digesting) = self.digesting.as_mut().filter(|digesting| !digesting.beside) {
            digesting.digests.add(offset, ciphertext);
        }
    }

    /// Makes digests wrong, for a fault: those of data units whose numbers are multiples of `every`.
    pub(super) fn break_digests(&mut self, every: u64) {
        if let (Some(digesting), Some(crypto)) = (&mut self.digesting, &self.record.crypto) {
            digesting.digests.flip(Dun::new(crypto.dun).low_128(), every);
        }
    }

    /// Writes the digests of a successful request to guest memory.
    pub(super) fn write_digests(&mut self) -> Result<(), Failure> {
        if let Some(digesting) = &self.digesting {
            // If guest memory is missing, the data may be lost.
            check_guest_memory()?;
            self.room.write(digesting.at, digesting.digests.bytes());
            self.digesting = None;
        }
        Ok(())
    }
}

/// The length of the data, from the length of the writable part: of the digests of a write, or the data and digests of a read.
pub(super) fn digested_len(
    direction: IoDirection,
    room: u64,
    algorithm: DigestAlgorithm,
    unit_bits: u8,
) -> Option<u64> {
    let (unit, digest) = (1u64.checked_shl(unit_bits.into())?, algorithm.size() as u64);
    let units = match direction {
        IoDirection::Read => {
            let each = unit.checked_add(digest)?;
            if !room.is_multiple_of(each) {
                return None;
            }
            room / each
        }
        // Sizes of digests are powers of two. A division would take longer than the rest.
        IoDirection::Write if room & (digest - 1) != 0 => return None,
        IoDirection::Write => room >> digest.trailing_zeros(),
    };
    units.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with a search through all numbers of data units.
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
