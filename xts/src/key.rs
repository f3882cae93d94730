// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key, and the calls that users make.
//!
//! Data units are multiples of an AES block, so ciphertext stealing never happens.

use vm_memory::VolatileSlice;

use crate::crc32c::{Crc32c, LastGroups};
use crate::native::Native;
use crate::pieces::{Direction, Hints, run, total};
use crate::portable::Portable;
use crate::prefetch::Prefetch;
use crate::{Dun, Implementation};

/// Bytes of an AES-256-XTS key: one AES-256 key for the data, then one for the tweak.
pub const KEY_BYTES: usize = 64;

pub(crate) const BLOCK_BYTES: usize = 16;

/// An expanded AES-256-XTS key, wiped when dropped.
///
/// It is one value of about 3 KiB, with nothing on the heap. To expand a key where it should stay, in locked memory for
/// example, put a [`blank`](Self::blank) one there and [`set`](Self::set) it: moving a value leaves a copy behind.
/// There is no `Clone`, and `Debug` does not show the key.
///
/// All calls that encrypt or decrypt take these arguments:
///
/// - `dun`: the number of the first data unit. Those that follow count up from it. Only the low 128 bits make the tweak,
///   and after 2^128 - 1 comes 0; [`Dun::checked_add`] tells the caller whether the last data unit has a number at all.
/// - `unit_bits`: a data unit has `1 << unit_bits` bytes, from 4 (one AES block) to 31, which debug builds assert.
///   SP 800-38E allows 24 at the most.
/// - The data. As many whole data units are encrypted or decrypted as both sides have room for. A rest that is shorter
///   than a data unit is not touched.
pub struct XtsKey {
    implementation: Implementation,
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
    /// Expands a key for an implementation, or for [`Implementation::Portable`] if this CPU cannot run that one.
    ///
    /// Any 64 bytes are a key. SP 800-38E and FIPS 140 require different halves, which the maker of keys must ensure.
    pub fn new(implementation: Implementation, key: &[u8; KEY_BYTES]) -> Self {
        let mut this = Self::blank(implementation);
        this.set(key);
        this
    }

    /// A key of zeroes, or no key at all. Call [`set`](Self::set) before using it.
    pub fn blank(implementation: Implementation) -> Self {
        match implementation.kernel() {
            Some(kernel) => Self { implementation, expanded: Expanded::Native(Native::blank(kernel)) },
            None => Self { implementation: Implementation::Portable, expanded: Expanded::Portable(Portable::blank()) },
        }
    }

    /// Replaces the key in place.
    pub fn set(&mut self, key: &[u8; KEY_BYTES]) {
        match &mut self.expanded {
            Expanded::Native(native) => native.set(key),
            Expanded::Portable(portable) => *portable = Portable::new(key),
        }
    }

    /// Wipes the key. What is left is as [`XtsKey::blank`] makes it.
    pub fn wipe(&mut self) {
        match &mut self.expanded {
            Expanded::Native(native) => native.wipe(),
            Expanded::Portable(portable) => *portable = Portable::blank(),
        }
    }

    /// Whether it is as [`XtsKey::blank`] makes it. Tests check with this that a key was wiped.
    pub fn is_blank(&self) -> bool {
        match &self.expanded {
            Expanded::Native(native) => native.is_blank(),
            Expanded::Portable(_) => {
                let [mut ours, mut blank] = [[0; BLOCK_BYTES]; 2];
                self.encrypt_in_place(Dun::new([0; 4]), 4, &mut ours);
                Self::blank(self.implementation).encrypt_in_place(Dun::new([0; 4]), 4, &mut blank);
                ours == blank
            }
        }
    }

    /// The implementation that works with this key.
    pub fn implementation(&self) -> Implementation {
        self.implementation
    }

    /// Encrypts from one memory to another in one pass.
    ///
    /// Either side is a list of pieces, cut at any byte. It may be memory that others read and write at any moment:
    /// each byte of `from` is read once, and only ciphertext is stored to `to`. The two may be the same memory. If they
    /// overlap in another way, the output is useless.
    pub fn encrypt(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        self.crypt(Direction::Encrypt, dun, unit_bits, from, to, Hints::default());
    }

    /// As [`encrypt`](Self::encrypt), with non-temporal stores if the implementation has them: for a target that nobody
    /// reads soon. The CPU then need not read its cache lines first.
    ///
    /// Call [`store_fence`](crate::store_fence) before you tell another thread or process that the data is there.
    pub fn encrypt_nontemporal(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        let hints = Hints { nontemporal: true, ..Hints::default() };
        self.crypt(Direction::Encrypt, dun, unit_bits, from, to, hints);
    }

    /// Decrypts from one memory to another in one pass; otherwise as [`encrypt`](Self::encrypt).
    pub fn decrypt(&self, dun: Dun, unit_bits: u8, from: &[VolatileSlice<'_>], to: &[VolatileSlice<'_>]) {
        self.decrypt_prefetching(dun, unit_bits, from, to, Prefetch::default());
    }

    /// As [`decrypt`](Self::decrypt), while the CPU prefetches other memory: what the caller decrypts next.
    pub fn decrypt_prefetching(
        &self,
        dun: Dun,
        unit_bits: u8,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        prefetch: Prefetch,
    ) {
        self.crypt(Direction::Decrypt, dun, unit_bits, from, to, Hints { prefetch, ..Hints::default() });
    }

    /// Whether [`encrypt_with_crc32c`](Self::encrypt_with_crc32c) and [`decrypt_with_crc32c`](Self::decrypt_with_crc32c) do
    /// anything. Only [`Implementation::Vaes256`] has them.
    pub fn has_crc32c(&self) -> bool {
        matches!(&self.expanded, Expanded::Native(native) if native.has_crc32c())
    }

    /// As [`encrypt`](Self::encrypt), or with `nontemporal` as [`encrypt_nontemporal`](Self::encrypt_nontemporal). Also computes
    /// the CRC-32C of each data unit of the ciphertext, little-endian. These are the CRCs of what was stored, even if others
    /// write the memory meanwhile.
    ///
    /// Returns false, and does nothing, if the implementation does not [have this](Self::has_crc32c) or `crcs` is shorter than
    /// the number of data units.
    #[must_use]
    pub fn encrypt_with_crc32c(
        &self,
        dun: Dun,
        unit_bits: u8,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        nontemporal: bool,
        crcs: &mut [[u8; 4]],
    ) -> bool {
        let hints = Hints { nontemporal, ..Hints::default() };
        self.crypt_with_crc32c(Direction::Encrypt, dun, unit_bits, (from, to), hints, crcs)
    }

    /// As [`decrypt_prefetching`](Self::decrypt_prefetching). Also computes the CRC-32C of each data unit of the ciphertext that
    /// it decrypts; see [`encrypt_with_crc32c`](Self::encrypt_with_crc32c).
    #[must_use]
    pub fn decrypt_with_crc32c(
        &self,
        dun: Dun,
        unit_bits: u8,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        prefetch: Prefetch,
        crcs: &mut [[u8; 4]],
    ) -> bool {
        let hints = Hints { prefetch, ..Hints::default() };
        self.crypt_with_crc32c(Direction::Decrypt, dun, unit_bits, (from, to), hints, crcs)
    }

    /// Encrypts memory that nobody else uses, in place.
    pub fn encrypt_in_place(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        let data = [VolatileSlice::from(data)];
        self.encrypt(dun, unit_bits, &data, &data);
    }

    /// Decrypts memory that nobody else uses, in place.
    pub fn decrypt_in_place(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        let data = [VolatileSlice::from(data)];
        self.decrypt(dun, unit_bits, &data, &data);
    }

    #[inline(never)]
    fn crypt_with_crc32c(
        &self,
        direction: Direction,
        dun: Dun,
        unit_bits: u8,
        (from, to): (&[VolatileSlice<'_>], &[VolatileSlice<'_>]),
        hints: Hints<'_>,
        crcs: &mut [[u8; 4]],
    ) -> bool {
        let units = total(from).min(total(to)).checked_shr(unit_bits.max(4).into()).unwrap_or(0);
        if !self.has_crc32c() || crcs.len() < units {
            return false;
        }
        let mut groups = LastGroups::new();
        let mut crc = Crc32c::new(unit_bits, &mut groups, crcs);
        let Hints { prefetch, nontemporal, .. } = hints;
        let hints = Hints { prefetch, nontemporal, crc: Some(&mut crc) };
        self.crypt(direction, dun, unit_bits, from, to, hints);
        true
    }

    fn crypt(
        &self,
        direction: Direction,
        dun: Dun,
        unit_bits: u8,
        from: &[VolatileSlice<'_>],
        to: &[VolatileSlice<'_>],
        hints: Hints<'_>,
    ) {
        match &self.expanded {
            Expanded::Native(cipher) => run(cipher, direction, dun.low_128(), unit_bits, from, to, hints),
            Expanded::Portable(cipher) => run(cipher, direction, dun.low_128(), unit_bits, from, to, hints),
        }
    }
}
