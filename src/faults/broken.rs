// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A broken engine, which replaces the healthy one for requests that a fault strikes.
//!
//! It works on a copy of the data, one data unit after the other. That is slow, which is acceptable for a fault.

use vm_memory::VolatileSlice;
use zeroize::Zeroizing;

use super::fate::{Breakage, WhichKey};
use super::kept::Kept;
use super::{Fate, Faults};
use crate::keyslot::ProgrammedKey;
use scattered_xts::{Dun, XtsKey};

/// A broken engine, for one request.
pub struct BrokenEngine {
    breakage: Breakage,
    /// Other keys of the slot, if the breakage needs them and they are known.
    kept: Option<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CipherDirection {
    Encrypt,
    Decrypt,
}

impl Faults {
    /// The engine for a request with this fate; `None`: the healthy one. Call this before the request takes the key of
    /// `slot`, so that it delays neither programming nor eviction.
    pub fn engine(&self, fate: Option<&Fate>, slot: u32) -> Option<Box<BrokenEngine>> {
        let breakage = fate?.broken?;
        let kept = if breakage.key == WhichKey::Right { None } else { self.kept.get(slot) };
        Some(Box::new(BrokenEngine { breakage, kept }))
    }
}

impl BrokenEngine {
    /// The request uses the key of this generation. Kept keys of another one are useless.
    pub fn with_generation(mut self: Box<Self>, generation: u64) -> Box<Self> {
        self.kept = self.kept.filter(|kept| kept.generation == generation);
        self
    }

    /// Encrypts the data `offset` bytes into a request whose first data unit is `first`. See [`XtsKey::encrypt`] for
    /// `from` and `to`.
    pub fn encrypt(
        &self,
        key: &ProgrammedKey,
        first: Dun,
        offset: u64,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
    ) {
        self.crypt(CipherDirection::Encrypt, key, first, offset, from, to);
    }

    /// Decrypts; otherwise as [`BrokenEngine::encrypt`].
    pub fn decrypt(
        &self,
        key: &ProgrammedKey,
        first: Dun,
        offset: u64,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
    ) {
        self.crypt(CipherDirection::Decrypt, key, first, offset, from, to);
    }

    fn crypt(
        &self,
        direction: CipherDirection,
        key: &ProgrammedKey,
        first: Dun,
        offset: u64,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
    ) {
        let unit_bits = self.breakage.unit_bits.unwrap_or(key.config.data_unit_bits);
        let Some(unit) = 1usize.checked_shl(unit_bits.into()) else { return };
        let mut data = Zeroizing::new(vec![0; total(from).min(total(to))]);
        gather(from, &mut data);
        // A data unit of the wrong size may begin before this piece of the request, or end after it. Its blocks keep
        // their place in it, and the rest of it does not matter.
        let mut place = Zeroizing::new(vec![0; unit]);
        let mut number = offset >> unit_bits;
        let mut skip = usize::try_from(offset & (unit as u64 - 1)).unwrap_or(0); // less than a usize
        let mut rest = data.as_mut_slice();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at_mut(rest.len().min(unit - skip));
            if let Some(there) = place.get_mut(skip..skip + piece.len()) {
                there.copy_from_slice(piece);
            }
            self.unit(direction, self.key(key), first, number, unit_bits, &mut place);
            if let Some(there) = place.get(skip..skip + piece.len()) {
                piece.copy_from_slice(there);
            }
            rest = later;
            number = number.wrapping_add(1);
            skip = 0;
        }
        scatter(&data, to);
    }

    /// One data unit, number `number` of the request.
    fn unit(&self, direction: CipherDirection, key: &XtsKey, first: Dun, number: u64, unit_bits: u8, place: &mut [u8]) {
        let right = first.low_128().wrapping_add(number.into());
        if direction == CipherDirection::Decrypt {
            self.flip(right, place);
        }
        if !self.breakage.plaintext {
            let dun = self.dun(if self.breakage.not_incremented { first.low_128() } else { right });
            match direction {
                CipherDirection::Encrypt => key.encrypt_in_place(dun, unit_bits, place),
                CipherDirection::Decrypt => key.decrypt_in_place(dun, unit_bits, place),
            }
        }
        if direction == CipherDirection::Encrypt {
            self.flip(right, place);
        }
    }

    fn dun(&self, mut number: u128) -> Dun {
        if self.breakage.truncated {
            number &= u128::from(u32::MAX);
        }
        if self.breakage.big_endian {
            number = number.swap_bytes();
        }
        Dun::new([number as u64, (number >> 64) as u64, 0, 0])
    }

    fn flip(&self, number: u128, ciphertext: &mut [u8]) {
        if let Some((every, bit)) = self.breakage.flip
            && number.is_multiple_of(every.into())
            && let Some(byte) = ciphertext.get_mut(bit as usize / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// The wrong key, if there is one; else the right one.
    fn key<'k>(&'k self, right: &'k ProgrammedKey) -> &'k XtsKey {
        let wrong = self.kept.as_ref().and_then(|kept| match self.breakage.key {
            WhichKey::Right => None,
            WhichKey::Swapped => kept.keys.swapped.as_ref(),
            WhichKey::Previous => kept.keys.previous.as_ref(),
        });
        wrong.unwrap_or(&right.xts)
    }
}

fn total(pieces: &[VolatileSlice<'_>]) -> usize {
    pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len()))
}

fn gather(from: &[VolatileSlice<'_>], mut data: &mut [u8]) {
    for piece in from {
        let copied = piece.copy_to(data);
        data = data.get_mut(copied..).unwrap_or_default();
    }
}

fn scatter(mut data: &[u8], to: &[VolatileSlice<'_>]) {
    for piece in to {
        piece.copy_from(data);
        data = data.get(piece.len()..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyslot::{KeyConfig, KeyslotTable};
    use openssl::symm::{Cipher, Crypter, Mode};
    use scattered_xts::Implementation;

    /// A request may be encrypted in steps that are not multiples of the wrong data unit size.
    #[test]
    fn a_wrong_data_unit_goes_on_in_the_next_step() {
        let mut key = [0; 64];
        key.iter_mut().zip(1u8..).for_each(|(byte, i)| *byte = i.wrapping_mul(73));
        let plain: Vec<u8> = (0..20 * 4096u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        // One data unit of 64 KiB and the front of another.
        let expected: Vec<u8> = plain
            .chunks(65536)
            .zip(7u128..)
            .flat_map(|(unit, dun)| {
                let tweak = Some(&dun.to_le_bytes()[..]);
                let mut crypter = Crypter::new(Cipher::aes_256_xts(), Mode::Encrypt, &key, tweak).expect("OpenSSL");
                let mut out = vec![0; unit.len() + 16];
                let len = crypter.update(unit, &mut out).expect("OpenSSL");
                out.truncate(len);
                out
            })
            .collect();
        let table = KeyslotTable::new(1, Implementation::detect()).expect("keyslot");
        table.program_now(0, &key, KeyConfig { data_unit_bits: 12, dun_bytes: 8 }).expect("slot");
        let handle = table.acquire(0).expect("slot").expect("key");
        let engine = BrokenEngine { breakage: Breakage { unit_bits: Some(16), ..Breakage::default() }, kept: None };
        let mut data = plain.clone();
        let mut offset = 0;
        for piece in data.chunks_mut(3 * 4096) {
            let len = piece.len() as u64;
            let place = [VolatileSlice::from(piece)];
            engine.encrypt(handle.key(), Dun::new([7, 0, 0, 0]), offset, &place, &place);
            offset += len;
        }
        assert!(data == expected);
        let mut offset = 0;
        for piece in data.chunks_mut(7 * 4096) {
            let len = piece.len() as u64;
            let place = [VolatileSlice::from(piece)];
            engine.decrypt(handle.key(), Dun::new([7, 0, 0, 0]), offset, &place, &place);
            offset += len;
        }
        assert!(data == plain);
    }
}
