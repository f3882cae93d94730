// SPDX-License-Identifier: Apache-2.0 OR MIT

//! AES-256-XTS (IEEE 1619-2018) over whole data units.
//!
//! Data units are multiples of an AES block, so ciphertext stealing never happens.

use vm_memory::VolatileSlice;

use crate::native::Native;
use crate::pieces::{Direction, Hints, run};
use crate::portable::Portable;
use crate::prefetch::Soon;
use crate::{Dun, Engine};

/// Bytes of an AES-256-XTS key: one AES-256 key for the data, then one for the tweak.
pub const KEY_BYTES: usize = 64;

/// Bytes of an AES block.
pub(super) const BLOCK_BYTES: usize = 16;

/// An expanded AES-256-XTS key, wiped when dropped.
///
/// The calls take whole data units of `1 << unit_bits` bytes, the first of them number `dun`; `unit_bits` is 4 to 31.
/// What is left over, shorter than a data unit, is not touched. The caller has checked that the DUN of the last data
/// unit exists.
pub struct XtsKey {
    engine: Engine,
    expanded: Expanded,
}

#[allow(clippy::large_enum_variant, reason = "a keyslot has room for either, and nothing of a key goes to the heap")]
enum Expanded {
    Native(Native),
    Portable(Portable),
}

impl std::fmt::Debug for XtsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XtsKey([redacted])")
    }
}

impl XtsKey {
    /// Expands a key for an engine; for [`Engine::Portable`] when this CPU cannot run that one.
    pub fn new(engine: Engine, key: &[u8; KEY_BYTES]) -> Self {
        let mut this = Self::blank(engine);
        this.set(key);
        this
    }

    /// Room for a key: a key of zeroes, or no key at all.
    pub fn blank(engine: Engine) -> Self {
        match engine.kernel() {
            Some(kernel) => Self { engine, expanded: Expanded::Native(Native::blank(kernel)) },
            None => Self { engine: Engine::Portable, expanded: Expanded::Portable(Portable::blank()) },
        }
    }

    /// Puts another key in the place of this one, where it lies.
    pub fn set(&mut self, key: &[u8; KEY_BYTES]) {
        match &mut self.expanded {
            Expanded::Native(native) => native.set(key),
            Expanded::Portable(portable) => *portable = Portable::new(key),
        }
    }

    /// Forgets the key. What is left is as [`XtsKey::blank`] makes it.
    pub fn wipe(&mut self) {
        match &mut self.expanded {
            Expanded::Native(native) => native.wipe(),
            Expanded::Portable(portable) => *portable = Portable::blank(),
        }
    }

    /// Whether it is as [`XtsKey::blank`] makes it: a test can see that a key was wiped.
    pub fn is_blank(&self) -> bool {
        match &self.expanded {
            Expanded::Native(native) => native.is_blank(),
            Expanded::Portable(_) => {
                let [mut ours, mut blank] = [[0; BLOCK_BYTES]; 2];
                self.encrypt(Dun::new([0; 4]), 4, &mut ours);
                Self::blank(self.engine).encrypt(Dun::new([0; 4]), 4, &mut blank);
                ours == blank
            }
        }
    }

    /// The engine that works with this key.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Encrypts in place.
    pub fn encrypt(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        self.in_place(Direction::Encrypt, dun, unit_bits, data);
    }

    /// Decrypts in place.
    pub fn decrypt(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        self.in_place(Direction::Decrypt, dun, unit_bits, data);
    }

    /// Encrypts from one memory to another in one pass.
    ///
    /// Either side is a list of pieces, cut at any byte, and may be memory that others read and write at any moment:
    /// each byte of `from` is read once, and nothing but ciphertext is stored to `to`. If one side is longer, the rest of
    /// it is not touched. The two may be the same memory; if they overlap otherwise, the output is of no use.
    pub fn encrypt_between(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        self.between(Direction::Encrypt, dun, unit_bits, from, to, Hints::default());
    }

    /// As [`XtsKey::encrypt_between`], to memory that nobody is going to look at soon: engines that can do it store past the
    /// caches, so that the CPU need not read what is there before. Other CPUs may see it later than what is stored after
    /// it, unless [`settle`](crate::settle) is called in between.
    pub fn encrypt_past_caches(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        let hints = Hints { past_caches: true, ..Hints::default() };
        self.between(Direction::Encrypt, dun, unit_bits, from, to, hints);
    }

    /// Decrypts from one memory to another in one pass; otherwise as [`XtsKey::encrypt_between`].
    pub fn decrypt_between(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        self.decrypt_meanwhile(dun, unit_bits, from, to, Soon::default());
    }

    /// As [`XtsKey::decrypt_between`], while the CPU fetches other memory.
    pub fn decrypt_meanwhile(
        &self,
        dun: Dun,
        unit_bits: u8,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        soon: Soon,
    ) {
        self.between(Direction::Decrypt, dun, unit_bits, from, to, Hints { soon, ..Hints::default() });
    }

    fn in_place(&self, direction: Direction, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        let place = [VolatileSlice::from(data)];
        self.between(direction, dun, unit_bits, &place, &place, Hints::default());
    }

    fn between(
        &self,
        direction: Direction,
        dun: Dun,
        unit_bits: u8,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        hints: Hints,
    ) {
        match &self.expanded {
            Expanded::Native(cipher) => run(cipher, direction, dun.low_128(), unit_bits, from, to, hints),
            Expanded::Portable(cipher) => run(cipher, direction, dun.low_128(), unit_bits, from, to, hints),
        }
    }
}
