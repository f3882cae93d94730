// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VAES on AVX2: two blocks in a register, eight registers at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::expand::expand_avx2;
use super::opaque;
use crate::key::BLOCK_BYTES;
use crate::native::{Kernel, RoundKeys, Schedule};
use crate::pieces::Hints;
use crate::tee::{CRC_BYTES, Tee, power_of_x};
use crate::tweak::StartTweaks;

const GROUP: usize = 8;
const LANES: usize = 2;
const GROUP_BLOCKS: usize = GROUP * LANES;
/// Groups that are not digested yet beside the next one. What the group just before stores is not there when the CPU comes to
/// digest it: it would wait.
const LAG: usize = 1;

static KERNEL: Kernel = Kernel {
    one_lane: true,
    expand: expand_avx2,
    start_tweaks,
    finish_crc: Some(finish_crc),
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

/// Multiplies a CRC by what so many bytes after it do to it, but for the last step, which `crc32` does.
const fn shift(bytes: usize) -> i64 {
    power_of_x(8 * bytes - 33) as i64
}

/// The CRC-32C of the [`CRC_BYTES`] bytes from a place on, after a state: four chains of a quarter each, as a CPU takes three
/// cycles for a step, and can begin one in each. A macro, so that nothing is called for which the caller's registers, with
/// tweaks in them, would be stored.
macro_rules! crc32c {
    ($state:expr, $at:expr) => {{
        const QUARTER: usize = CRC_BYTES / 4;
        let (mut a, mut b, mut c, mut d) = (u64::from($state), 0, 0, 0);
        let mut at: *const u8 = $at;
        for _ in 0..QUARTER / 8 {
            // SAFETY: so many bytes have been stored there, in memory that nobody else writes.
            unsafe {
                a = _mm_crc32_u64(a, at.cast::<u64>().read_unaligned());
                b = _mm_crc32_u64(b, at.add(QUARTER).cast::<u64>().read_unaligned());
                c = _mm_crc32_u64(c, at.add(2 * QUARTER).cast::<u64>().read_unaligned());
                d = _mm_crc32_u64(d, at.add(3 * QUARTER).cast::<u64>().read_unaligned());
            }
            at = at.wrapping_add(8);
        }
        let shifted = |crc: u64, by: i64| {
            _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(crc as i64), _mm_cvtsi64_si128(by)) // as bits
        };
        let abc = _mm_xor_si128(
            _mm_xor_si128(shifted(a, const { shift(3 * QUARTER) }), shifted(b, const { shift(2 * QUARTER) })),
            shifted(c, const { shift(QUARTER) }),
        );
        (_mm_crc32_u64(0, _mm_cvtsi128_si64(abc) as u64) ^ d) as u32 // a CRC has 32 bits
    }};
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

/// AES over some blocks, to which the tweaks have been added; adds them again at the end.
///
/// # Safety
/// As for [`round_key`].
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn rounds<const ENCRYPT: bool, const N: usize>(
    keys: *const RoundKeys,
    blocks: &mut [__m256i; N],
    tweaks: &[__m256i; N],
) {
    // SAFETY: as for this function.
    unsafe {
        let key = round_key(keys, 0);
        for block in blocks.iter_mut() {
            *block = _mm256_xor_si256(*block, key);
        }
        for round in 1..14 {
            let key = round_key(keys, round);
            for block in blocks.iter_mut() {
                *block = if ENCRYPT { _mm256_aesenc_epi128(*block, key) } else { _mm256_aesdec_epi128(*block, key) };
            }
        }
        let key = round_key(keys, 14);
        for (block, tweak) in blocks.iter_mut().zip(tweaks) {
            let key = _mm256_xor_si256(key, *tweak);
            *block =
                if ENCRYPT { _mm256_aesenclast_epi128(*block, key) } else { _mm256_aesdeclast_epi128(*block, key) };
        }
    }
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

/// `N` registers. `NONTEMPORAL`: with non-temporal stores. `TEE`: the ciphertext goes to `tee`, too.
///
/// # Safety
/// As for [`round_key`]; the blocks can be read and written. With `NONTEMPORAL`, `to` is a multiple of 32.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn group<const ENCRYPT: bool, const NONTEMPORAL: bool, const TEE: bool, const N: usize>(
    keys: *const RoundKeys,
    tweaks: &[__m256i; N],
    from: *const u8,
    to: *mut u8,
    tee: *mut u8,
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
        if TEE && !ENCRYPT {
            // SAFETY: the blocks can be written.
            unsafe { store!("vmovdqu", tee, at, loaded) }
        }
    }
    // SAFETY: as for this function.
    unsafe { rounds::<ENCRYPT, N>(keys, &mut blocks, tweaks) };
    for (at, block) in blocks.iter().enumerate() {
        // SAFETY: the blocks can be written, and lie on a boundary of 32 bytes for non-temporal stores.
        unsafe { if NONTEMPORAL { store!("vmovntdq", to, at, *block) } else { store!("vmovdqu", to, at, *block) } }
    }
    if TEE && ENCRYPT {
        // After all others: a CPU combines non-temporal stores only if nothing comes between them.
        for (at, block) in blocks.iter().enumerate() {
            // SAFETY: the blocks can be written.
            unsafe { store!("vmovdqu", tee, at, *block) }
        }
    }
}

/// One block. The upper lane is computed in vain.
///
/// # Safety
/// As for [`round_key`]; a block can be read and written.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn single<const ENCRYPT: bool, const TEE: bool>(
    keys: *const RoundKeys,
    tweak: __m256i,
    from: *const u8,
    to: *mut u8,
    tee: *mut u8,
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
    unsafe { rounds::<ENCRYPT, 1>(keys, &mut blocks, &[tweak]) };
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
    if TEE {
        // Before the result: both may be the same place.
        store(tee, if ENCRYPT { done } else { loaded });
    }
    store(to, done);
}

/// 0x87 (alpha^128), in the low half of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn reduction() -> __m256i {
    _mm256_set_epi64x(0, 0x87, 0, 0x87)
}

/// Multiplies each lane by alpha^(8 * BYTES); 8 bytes at most.
///
/// `REST` is 16 - BYTES. What is shifted out at the top comes back multiplied by 0x87.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
fn times_alpha_bytes<const BYTES: i32, const REST: i32>(tweak: __m256i) -> __m256i {
    let back = _mm256_clmulepi64_epi128::<0x00>(_mm256_bsrli_epi128::<REST>(tweak), reduction());
    _mm256_xor_si256(_mm256_bslli_epi128::<BYTES>(tweak), back)
}

/// Multiplies each lane by a power of alpha of its own, 0 to 56, which `bits` has in both halves of the lane.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
fn times_alpha_bits(tweak: __m256i, bits: __m256i) -> __m256i {
    let swapped = _mm256_shuffle_epi32::<0x4e>(tweak);
    // Bits that are shifted out of one half, in the other one. A shift by 64 gives 0.
    let out = _mm256_srlv_epi64(swapped, _mm256_sub_epi64(_mm256_set1_epi64x(64), bits));
    let back = _mm256_clmulepi64_epi128::<0x00>(out, reduction());
    let carried = _mm256_blend_epi32::<0xcc>(_mm256_setzero_si256(), out);
    _mm256_xor_si256(_mm256_sllv_epi64(tweak, bits), _mm256_xor_si256(back, carried))
}

/// The tweaks of a group from that of its first block.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
fn spread(first: &u128) -> [__m256i; GROUP] {
    // SAFETY: a `u128` is 16 bytes, aligned.
    let first = _mm256_broadcastsi128_si256(unsafe { _mm_load_si128(std::ptr::from_ref(first).cast()) });
    let a = times_alpha_bits(first, _mm256_set_epi64x(1, 1, 0, 0));
    let b = times_alpha_bits(first, _mm256_set_epi64x(3, 3, 2, 2));
    let c = times_alpha_bits(first, _mm256_set_epi64x(5, 5, 4, 4));
    let d = times_alpha_bits(first, _mm256_set_epi64x(7, 7, 6, 6));
    let next = |tweak| times_alpha_bytes::<1, 15>(tweak);
    [a, b, c, d, next(a), next(b), next(c), next(d)]
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
    let on_boundary = to.addr().is_multiple_of(32) && blocks.is_multiple_of(LANES);
    // SAFETY: as for this function.
    unsafe {
        match (ENCRYPT && hints.nontemporal && on_boundary, hints.tee.is_some()) {
            (true, false) => crypt_to::<ENCRYPT, true, false>(schedule, tweaks, blocks, from, to, hints),
            (false, false) => crypt_to::<ENCRYPT, false, false>(schedule, tweaks, blocks, from, to, hints),
            (true, true) => crypt_to::<ENCRYPT, true, true>(schedule, tweaks, blocks, from, to, hints),
            (false, true) => crypt_to::<ENCRYPT, false, true>(schedule, tweaks, blocks, from, to, hints),
        }
    }
    wipe_registers();
}

/// # Safety
/// As for [`Kernel`]. With `NONTEMPORAL`, `to` is a multiple of 32, and so are the bytes of the blocks.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn crypt_to<const ENCRYPT: bool, const NONTEMPORAL: bool, const TEE: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    mut from: *const u8,
    mut to: *mut u8,
    hints: &mut Hints<'_>,
) {
    let mut tee = match &mut hints.tee {
        // What is stored there is there already.
        Some(tee) if TEE && tee.is_in_place() => {
            if ENCRYPT {
                to
            } else {
                from.cast_mut()
            }
        }
        Some(tee) if TEE => {
            tee.place(tweaks.len() * blocks * BLOCK_BYTES).map_or(to, |place| place.ptr_guard_mut().as_ptr())
        }
        _ => to,
    };
    macro_rules! pass {
        ($blocks:expr) => {
            (from, to) = (from.wrapping_add($blocks * BLOCK_BYTES), to.wrapping_add($blocks * BLOCK_BYTES));
            if TEE {
                tee = tee.wrapping_add($blocks * BLOCK_BYTES);
                if let Some(tee) = &mut hints.tee {
                    tee.advance($blocks * BLOCK_BYTES);
                }
            }
        };
    }
    let keys = if ENCRYPT { &raw const schedule.encrypt } else { &raw const schedule.decrypt };
    for first in tweaks {
        let mut tweaks = spread(first);
        let mut left = blocks;
        while left >= GROUP_BLOCKS {
            hints.prefetch.advance(GROUP_BLOCKS * BLOCK_BYTES);
            if TEE
                && let Some(tee) = &mut hints.tee
                && let Some((at, state)) = tee.next_crc(LAG * CRC_BYTES)
            {
                tee.crc_done(crc32c!(state, at));
            }
            // SAFETY: the caller guarantees the blocks that are left.
            unsafe { group::<ENCRYPT, NONTEMPORAL, TEE, GROUP>(keys, &tweaks, from, to, tee) };
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
        macro_rules! rest {
            ($blocks:literal, $action:expr) => {
                if left & $blocks != 0 {
                    // SAFETY: as above.
                    unsafe { $action };
                    pass!($blocks);
                }
            };
        }
        rest!(8, {
            group::<ENCRYPT, NONTEMPORAL, TEE, 4>(keys, &[a, b, c, d], from, to, tee);
            [a, b] = [e, f];
        });
        rest!(4, {
            group::<ENCRYPT, NONTEMPORAL, TEE, 2>(keys, &[a, b], from, to, tee);
            a = times_alpha_bits(a, _mm256_set1_epi64x(4));
        });
        rest!(2, {
            group::<ENCRYPT, NONTEMPORAL, TEE, 1>(keys, &[a], from, to, tee);
            a = times_alpha_bits(a, _mm256_set1_epi64x(2));
        });
        rest!(1, single::<ENCRYPT, TEE>(keys, a, from, to, tee));
    }
}

/// See [`Kernel`].
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn finish_crc(tee: &mut Tee<'_>) {
    while let Some((at, state)) = tee.next_crc(0) {
        tee.crc_done(crc32c!(state, at));
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
        rounds::<true, N>(opaque(&raw const schedule.tweak), &mut blocks, &[_mm256_setzero_si256(); N]);
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
