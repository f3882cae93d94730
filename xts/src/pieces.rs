// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From scattered memory to scattered memory.
//!
//! Both sides are lists of pieces, cut at any byte. The cipher gets runs of whole AES blocks that are contiguous on
//! both sides, as long as possible. A block that straddles a cut goes through a buffer.

use vm_memory::VolatileSlice;
use zeroize::Zeroize;

use crate::crc32c::Crc32c;
use crate::key::BLOCK_BYTES;
use crate::prefetch::Prefetch;
use crate::tweak::{StartTweaks, UnitTweaks, advance};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
}

/// AES-XTS on contiguous memory.
pub(super) trait Cipher {
    /// Encrypts the numbers of `count` data units from `number` on, at most as many as there is room for.
    fn start_tweaks(&self, number: u128, tweaks: &mut StartTweaks, count: usize);

    /// `blocks` blocks of each of some data units, beginning with the block whose tweak is given. Loads every byte of
    /// `from` once and stores only results to `to`, which may be the same memory. Nothing happens if either is too short.
    fn crypt(
        &self,
        direction: Direction,
        tweaks: &[u128],
        blocks: usize,
        from: VolatileSlice<'_>,
        to: VolatileSlice<'_>,
        hints: &mut Hints<'_>,
    );

    /// Completes the CRCs of [`Hints::crc`], and what [`crypt`](Self::crypt) has not moved to its target.
    fn finish_crc(&self, _: &mut Crc32c<'_>) {}
}

/// What the caller knows about the memory. It does not change the result, and a cipher may ignore it.
#[derive(Debug, Default)]
pub(super) struct Hints<'c> {
    /// What to prefetch meanwhile.
    pub prefetch: Prefetch,
    /// CRCs to compute as well. This is more than a hint: only for a cipher that computes them.
    pub crc: Option<&'c mut Crc32c<'c>>,
    /// The output need not be in the caches: nobody reads it soon.
    #[cfg_attr(any(not(target_arch = "x86_64"), miri), expect(dead_code, reason = "no kernel makes use of it"))]
    pub nontemporal: bool,
}

/// A place in a list of pieces.
struct Cursor<'p, 'm> {
    /// The current piece from the current byte on. It is empty only at the end.
    piece: Option<VolatileSlice<'m>>,
    rest: std::slice::Iter<'p, VolatileSlice<'m>>,
}

impl<'p, 'm> Cursor<'p, 'm> {
    fn new(pieces: &'p [VolatileSlice<'m>]) -> Self {
        let mut this = Self { piece: None, rest: pieces.iter() };
        this.next_piece();
        this
    }

    fn next_piece(&mut self) {
        self.piece = self.rest.find(|piece| !piece.is_empty()).copied();
    }

    /// Bytes up to the next cut; 0 at the end.
    fn contiguous(&self) -> usize {
        self.piece.as_ref().map_or(0, VolatileSlice::len)
    }

    /// Advances by at most `bytes`, and not past the next cut. Returns what was passed.
    fn take(&mut self, bytes: usize) -> Option<VolatileSlice<'m>> {
        let piece = self.piece?;
        let (taken, rest) = piece.split_at(bytes.min(piece.len())).ok()?;
        self.piece = Some(rest);
        if rest.is_empty() {
            self.next_piece();
        }
        Some(taken)
    }

    fn read(&mut self, mut block: &mut [u8]) {
        while let Some(piece) = self.take(block.len()).filter(|piece| !piece.is_empty()) {
            let copied = piece.copy_to(block);
            block = block.get_mut(copied..).unwrap_or_default();
        }
    }

    fn write(&mut self, mut block: &[u8]) {
        while let Some(piece) = self.take(block.len()).filter(|piece| !piece.is_empty()) {
            piece.copy_from(block);
            block = block.get(piece.len()..).unwrap_or_default();
        }
    }
}

/// Bytes of the pieces.
pub(super) fn total(pieces: &[VolatileSlice<'_>]) -> usize {
    pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len()))
}

/// Encrypts or decrypts whole data units of `1 << unit_bits` bytes, the first with number `first`: as many as both sides
/// have room for. `unit_bits` below 4 counts as 4, an AES block.
pub(super) fn run<C: Cipher>(
    cipher: &C,
    direction: Direction,
    first: u128,
    unit_bits: u8,
    from: &[VolatileSlice<'_>],
    to: &[VolatileSlice<'_>],
    mut hints: Hints<'_>,
) {
    debug_assert!((4..=31).contains(&unit_bits));
    let Some(unit) = 1usize.checked_shl(unit_bits.max(4).into()) else { return };
    let unit_blocks = unit / BLOCK_BYTES;
    let units = total(from).min(total(to)) / unit;
    let (mut from, mut to) = (Cursor::new(from), Cursor::new(to));
    let mut tweaks = UnitTweaks::new(cipher, first, units);
    let mut blocks_left = units * unit_blocks;
    // For a data unit that was begun and not finished: its remaining blocks, and the tweak of the first of them.
    let (mut unit_left, mut tweak) = (0, 0);
    while blocks_left > 0 {
        let run = blocks_left.min(from.contiguous() / BLOCK_BYTES).min(to.contiguous() / BLOCK_BYTES);
        if unit_left == 0 {
            if run >= unit_blocks {
                let starts = tweaks.take(run / unit_blocks);
                let bytes = starts.len() * unit;
                let (Some(from), Some(to)) = (from.take(bytes), to.take(bytes)) else { return };
                blocks_left -= starts.len() * unit_blocks;
                cipher.crypt(direction, starts, unit_blocks, from, to, &mut hints);
                continue;
            }
            let Some(&start) = tweaks.take(1).first() else { return };
            (unit_left, tweak) = (unit_blocks, start);
        }
        let blocks = if run == 0 {
            straddling(cipher, direction, tweak, &mut from, &mut to, &mut hints);
            1
        } else {
            let blocks = run.min(unit_left);
            let bytes = blocks * BLOCK_BYTES;
            let (Some(from), Some(to)) = (from.take(bytes), to.take(bytes)) else { return };
            cipher.crypt(direction, &[tweak], blocks, from, to, &mut hints);
            blocks
        };
        unit_left -= blocks;
        blocks_left -= blocks;
        if unit_left > 0 {
            tweak = advance(tweak, blocks);
        }
    }
    hints.prefetch.finish();
    if let Some(crc) = &mut hints.crc {
        cipher.finish_crc(crc);
    }
}

/// One block with a cut in it.
fn straddling<C: Cipher>(
    cipher: &C,
    direction: Direction,
    tweak: u128,
    from: &mut Cursor<'_, '_>,
    to: &mut Cursor<'_, '_>,
    hints: &mut Hints<'_>,
) {
    let mut block = [0; BLOCK_BYTES];
    from.read(&mut block);
    let place = VolatileSlice::from(&mut block[..]);
    cipher.crypt(direction, &[tweak], 1, place, place, hints);
    to.write(&block);
    block.zeroize();
}
