// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VAES on AVX2: two blocks in a register, eight registers at a time.

mod crc;
mod tweaks;

use std::arch::asm;
use std::arch::x86_64::*;
use std::ptr::null_mut;

use super::expand::expand_avx2;
use super::opaque;
use crate::key::BLOCK_BYTES;
use crate::native::{Kernel, RoundKeys, Schedule};
use crate::pieces::Hints;
use crate::tweak::StartTweaks;
use crc::{Beside, Halves, digest_rest, finish_group};
use tweaks::{spread, times_alpha_bits, times_alpha_bytes};

const GROUP: usize = 8;
const LANES: usize = 2;
const GROUP_BLOCKS: usize = GROUP * LANES;
static KERNEL: Kernel = Kernel {
    one_lane: true,
    expand: expand_avx2,
    start_tweaks,
    finish_crc: Some(finish_group),
    encrypt: crypt::<true>,
    decrypt: crypt::<false>,
};

/// The kernel, if the CPU can run it.
pub fn kernel() -> Option<&'static Kernel> {
    let can = is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    can.then_some(&KERNEL)
}

/// A round key, in both lanes.
///
/// # Safety
/// `keys` points to round keys; `round` is at most 14.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn round_key(keys: *const RoundKeys, round: usize) -> __m256i {
    // A broadcast measured 3 % faster than a load of two lanes, and expanding a key must store only one.
    // SAFETY: the key is there, aligned.
    _mm256_broadcastsi128_si256(unsafe { _mm_load_si128(keys.cast::<[__m128i; 4]>().add(round).cast()) })
}

/// AES over some blocks, to which the tweaks have been added; adds them again at the end. Calls `beside` in each round.
///
/// A macro, because the compiler may not inline a function of this length. The blocks would then go through memory.
macro_rules! rounds {
    ($encrypt:expr, $keys:expr, $blocks:ident, $tweaks:expr, $beside:expr) => {{
        let key = round_key($keys, 0);
        $beside.round::<0>();
        for block in $blocks.iter_mut() {
            *block = _mm256_xor_si256(*block, key);
        }
        rounds!(@middle $encrypt, $keys, $blocks, $beside, 1 2 3 4 5 6 7 8 9 10 11 12 13);
        let key = round_key($keys, 14);
        $beside.round::<14>();
        for (block, tweak) in $blocks.iter_mut().zip($tweaks) {
            let key = _mm256_xor_si256(key, *tweak);
            *block =
                if $encrypt { _mm256_aesenclast_epi128(*block, key) } else { _mm256_aesdeclast_epi128(*block, key) };
        }
    }};
    // Written out: the compiler keeps a loop if there is assembly in it.
    (@middle $encrypt:expr, $keys:expr, $blocks:ident, $beside:expr, $($round:literal)*) => {$(
        let key = round_key($keys, $round);
        $beside.round::<$round>();
        for block in $blocks.iter_mut() {
            *block = if $encrypt { _mm256_aesenc_epi128(*block, key) } else { _mm256_aesdec_epi128(*block, key) };
        }
    )*};
}

/// Stores a register.
macro_rules! store {
    ($instruction:literal, $to:expr, $at:expr, $block:expr) => {
        asm!(
            concat!($instruction, " [{to}], {block}"),
            to = in(reg) $to.wrapping_add($at * LANES * BLOCK_BYTES),
            block = in(ymm_reg) $block,
            options(nostack, preserves_flags),
        )
    };
}

/// Whether ciphertext goes to the target only after it is digested. Non-temporal stores measured slower so.
const fn moves(encrypts: bool, nontemporal: bool) -> bool {
    encrypts && !nontemporal
}

/// `N` registers. `NONTEMPORAL`: with non-temporal stores. `CRC`: the ciphertext goes to `keep`, too; only there if it is to
/// be [moved](moves). `beside`: see [`Beside`].
///
/// # Safety
/// As for [`round_key`]; the blocks can be read and written, with `CRC` in `keep`, too. With `NONTEMPORAL`, `to` is a multiple of 32.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn group<const ENCRYPT: bool, const NONTEMPORAL: bool, const CRC: bool, const N: usize>(
    keys: *const RoundKeys,
    tweaks: &[__m256i; N],
    from: *const u8,
    to: *mut u8,
    keep: *mut u8,
    beside: &mut impl Beside,
) {
    let keys = opaque(keys);
    let mut blocks = *tweaks;
    for (at, block) in blocks.iter_mut().enumerate() {
        let loaded: __m256i;
        // SAFETY: the blocks can be read.
        unsafe {
            asm!(
                "vmovdqu {loaded}, [{from}]",
                from = in(reg) from.wrapping_add(at * LANES * BLOCK_BYTES),
                loaded = out(ymm_reg) loaded,
                options(readonly, nostack, preserves_flags),
            );
        }
        *block = _mm256_xor_si256(*block, loaded);
        if CRC && !ENCRYPT {
            // SAFETY: the blocks can be written.
            unsafe { store!("vmovdqu", keep, at, loaded) }
        }
    }
    // SAFETY: as for this function.
    unsafe { rounds!(ENCRYPT, keys, blocks, tweaks, beside) };
    let to = if CRC && moves(ENCRYPT, NONTEMPORAL) { keep } else { to };
    for (at, block) in blocks.iter().enumerate() {
        // SAFETY: the blocks can be written, and lie on a boundary of 32 bytes for non-temporal stores.
        unsafe { if NONTEMPORAL { store!("vmovntdq", to, at, *block) } else { store!("vmovdqu", to, at, *block) } }
    }
    if CRC && ENCRYPT && NONTEMPORAL {
        // After all others: a CPU combines non-temporal stores only if nothing comes between them.
        for (at, block) in blocks.iter().enumerate() {
            // SAFETY: the blocks can be written.
            unsafe { store!("vmovdqu", keep, at, *block) }
        }
    }
}

/// One block. The upper lane is computed in vain. `CRC`: see [`group`].
///
/// # Safety
/// As for [`round_key`]; a block can be read and written, with `CRC` in `keep`, too.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn single<const ENCRYPT: bool, const NONTEMPORAL: bool, const CRC: bool>(
    keys: *const RoundKeys,
    tweak: __m256i,
    from: *const u8,
    to: *mut u8,
    keep: *mut u8,
) {
    let keys = opaque(keys);
    let loaded: __m128i;
    // SAFETY: the block can be read.
    unsafe {
        asm!(
            "vmovdqu {loaded}, [{from}]",
            from = in(reg) from,
            loaded = out(xmm_reg) loaded,
            options(readonly, nostack, preserves_flags),
        );
    }
    let mut blocks = [_mm256_xor_si256(tweak, _mm256_zextsi128_si256(loaded))];
    // SAFETY: as for this function.
    unsafe { rounds!(ENCRYPT, keys, blocks, &[tweak], ()) };
    let done = _mm256_castsi256_si128(blocks[0]);
    let store = |to: *mut u8, block: __m128i| {
        // SAFETY: the block can be written.
        unsafe {
            asm!(
                "vmovdqu [{to}], {block}",
                to = in(reg) to,
                block = in(xmm_reg) block,
                options(nostack, preserves_flags),
            );
        }
    };
    if !CRC || !moves(ENCRYPT, NONTEMPORAL) {
        store(to, done);
    }
    if CRC {
        store(keep, if ENCRYPT { done } else { loaded });
    }
}

/// See [`Kernel`].
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn crypt<const ENCRYPT: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    from: *const u8,
    to: *mut u8,
    hints: &mut Hints<'_>,
) {
    // Aligns the stack frame. A spilled register that crosses a page is slow, above all between non-temporal stores.
    let frame = _mm256_setzero_si256();
    opaque(&raw const frame);
    let on_boundary = to.addr().is_multiple_of(32) && blocks.is_multiple_of(LANES);
    // SAFETY: as for this function.
    unsafe {
        match (ENCRYPT && hints.nontemporal && on_boundary, hints.crc.is_some()) {
            (true, false) => crypt_to::<ENCRYPT, true, false>(schedule, tweaks, blocks, from, to, hints),
            (false, false) => crypt_to::<ENCRYPT, false, false>(schedule, tweaks, blocks, from, to, hints),
            (true, true) => crypt_to::<ENCRYPT, true, true>(schedule, tweaks, blocks, from, to, hints),
            (false, true) => crypt_to::<ENCRYPT, false, true>(schedule, tweaks, blocks, from, to, hints),
        }
    }
    wipe_registers();
}

/// `CRC`: computes the CRCs of `hints`, too.
///
/// # Safety
/// As for [`Kernel`]. With `NONTEMPORAL`, `to` is a multiple of 32, and so are the bytes of the blocks.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn crypt_to<const ENCRYPT: bool, const NONTEMPORAL: bool, const CRC: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    mut from: *const u8,
    mut to: *mut u8,
    Hints { prefetch, crc, .. }: &mut Hints<'_>,
) {
    macro_rules! pass {
        ($blocks:expr) => {
            (from, to) = (from.wrapping_add($blocks * BLOCK_BYTES), to.wrapping_add($blocks * BLOCK_BYTES));
        };
    }
    let keys = if ENCRYPT { &raw const schedule.encrypt } else { &raw const schedule.decrypt };
    let mut keep = to;
    for first in tweaks {
        let mut tweaks = spread(first);
        let mut left = blocks;
        macro_rules! beside {
            ($crc:ident, $halves:expr) => {{
                let mut halves = $halves;
                group::<ENCRYPT, NONTEMPORAL, true, GROUP>(keys, &tweaks, from, to, keep, &mut halves);
                $crc.group_done(halves.finish());
            }};
        }
        while left >= GROUP_BLOCKS {
            prefetch.advance(GROUP_BLOCKS * BLOCK_BYTES);
            // SAFETY: the caller guarantees the blocks that are left. A pending group is stored, and its target has room.
            unsafe {
                if CRC && let Some(crc) = crc.as_deref_mut() {
                    keep = crc.place();
                    match crc.pending() {
                        // The piece before may have had another kind of stores.
                        Some(pending) if ENCRYPT && !pending.to.is_null() => beside!(crc, Halves::<true>::new(pending)),
                        Some(pending) => beside!(crc, Halves::<false>::new(pending)),
                        None => group::<ENCRYPT, NONTEMPORAL, true, GROUP>(keys, &tweaks, from, to, keep, &mut ()),
                    }
                    crc.group_stored(if moves(ENCRYPT, NONTEMPORAL) { to } else { null_mut() });
                } else {
                    group::<ENCRYPT, NONTEMPORAL, false, GROUP>(keys, &tweaks, from, to, to, &mut ());
                }
            }
            pass!(GROUP_BLOCKS);
            left -= GROUP_BLOCKS;
            if left > 0 {
                for tweak in &mut tweaks {
                    *tweak = times_alpha_bytes::<2, 14>(*tweak);
                }
            }
        }
        let [a, b, c, d, e, f, ..] = tweaks;
        let [mut a, mut b] = [a, b];
        // Few requests have blocks that are less than a group: pieces can be cut so, and data units can be small.
        if CRC
            && left > 0
            && let Some(crc) = crc.as_deref_mut()
        {
            // SAFETY: the caller guarantees the target.
            unsafe { finish_group(crc) };
            keep = crc.place();
        }
        macro_rules! rest {
            ($blocks:literal, $action:expr) => {
                if left & $blocks != 0 {
                    // SAFETY: as above.
                    unsafe { $action };
                    pass!($blocks);
                    keep = keep.wrapping_add($blocks * BLOCK_BYTES);
                }
            };
        }
        rest!(8, {
            group::<ENCRYPT, NONTEMPORAL, CRC, 4>(keys, &[a, b, c, d], from, to, keep, &mut ());
            [a, b] = [e, f];
        });
        rest!(4, {
            group::<ENCRYPT, NONTEMPORAL, CRC, 2>(keys, &[a, b], from, to, keep, &mut ());
            a = times_alpha_bits(a, _mm256_set1_epi64x(4));
        });
        rest!(2, {
            group::<ENCRYPT, NONTEMPORAL, CRC, 1>(keys, &[a], from, to, keep, &mut ());
            a = times_alpha_bits(a, _mm256_set1_epi64x(2));
        });
        rest!(1, single::<ENCRYPT, NONTEMPORAL, CRC>(keys, a, from, to, keep));
        if CRC
            && left > 0
            && let Some(crc) = crc.as_deref_mut()
        {
            // SAFETY: they were stored there, and there is room for them.
            unsafe {
                let bytes = left * BLOCK_BYTES;
                let to = if moves(ENCRYPT, NONTEMPORAL) { to.wrapping_sub(bytes) } else { null_mut() };
                digest_rest(crc, keep.wrapping_sub(bytes), to, bytes);
            }
        }
    }
}

/// See [`Kernel`].
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn start_tweaks(schedule: &Schedule, number: u128, tweaks: &mut StartTweaks, count: usize) {
    let mut at = 0;
    while at < count {
        // SAFETY: the array has room for a multiple of either.
        unsafe {
            if count - at <= 4 {
                encrypt_numbers::<2>(schedule, number.wrapping_add(at as u128), tweaks, at);
            } else {
                encrypt_numbers::<GROUP>(schedule, number.wrapping_add(at as u128), tweaks, at);
            }
        }
        at += GROUP_BLOCKS;
    }
    wipe_registers();
}

/// # Safety
/// There is room for `N` registers at `at`, which is a multiple of 2.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn encrypt_numbers<const N: usize>(schedule: &Schedule, number: u128, tweaks: &mut StartTweaks, at: usize) {
    let mut blocks = [_mm256_setzero_si256(); N];
    for (register, block) in blocks.iter_mut().enumerate() {
        let [a, b] = [0, 1].map(|lane| number.wrapping_add((register * LANES + lane) as u128));
        *block = _mm256_set_epi64x((b >> 64) as i64, b as i64, (a >> 64) as i64, a as i64);
    }
    let to = tweaks.0.as_mut_ptr().cast::<__m256i>();
    // SAFETY: the keys are there, and so is the room; `StartTweaks` is aligned.
    unsafe {
        let keys = opaque(&raw const schedule.tweak);
        rounds!(true, keys, blocks, &[_mm256_setzero_si256(); N], ());
        for (register, block) in blocks.iter().enumerate() {
            _mm256_store_si256(to.add(at / LANES + register), *block);
        }
    }
}

/// Leaves no key, tweak or data in registers that somebody may save.
#[inline]
#[target_feature(enable = "avx2")]
fn wipe_registers() {
    _mm256_zeroall();
}
