// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VAES on AVX-512: four blocks in a register, eight registers at a time.
//!
//! Once enough blocks are in flight, every vector instruction besides the 14 of AES limits the speed: they share the
//! execution units. So the last round key is added to the tweaks in advance (`Veil`): AESENCLAST adds that sum instead
//! of the key, and before the first round one three-way XOR adds the first key and removes the last one.

mod veil;

use std::arch::asm;
use std::arch::x86_64::*;

use super::expand::expand_four;
use super::opaque;
use crate::key::BLOCK_BYTES;
use crate::native::{Kernel, RoundKeys, Schedule};
use crate::pieces::Hints;
use crate::prefetch::Prefetch;
use crate::tweak::StartTweaks;
use veil::{Derived, Veils, broadcast, spread, times_alpha_64, times_alpha_bytes};

const GROUP: usize = 8;
const LANES: usize = 4;
const GROUP_BLOCKS: usize = GROUP * LANES;
const GROUP_BYTES: usize = GROUP_BLOCKS * BLOCK_BYTES;

static KERNEL: Kernel =
    Kernel { one_lane: false, expand: expand_four, start_tweaks, encrypt: crypt::<true>, decrypt: crypt::<false> };

/// The kernel, if the CPU can run it.
pub fn kernel() -> Option<&'static Kernel> {
    let can = is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    can.then_some(&KERNEL)
}

/// A round key, in all lanes.
///
/// # Safety
/// `keys` points to round keys; `round` is at most 14.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn round_key(keys: *const RoundKeys, round: usize) -> __m512i {
    // SAFETY: the key is there, for four lanes and aligned to as many.
    unsafe { _mm512_load_si512(keys.cast::<__m512i>().add(round)) }
}

/// Middle rounds and last round; each register has a last round key of its own.
///
/// # Safety
/// As for [`round_key`].
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn rounds<const ENCRYPT: bool, const N: usize>(
    keys: *const RoundKeys,
    blocks: &mut [__m512i; N],
    last: &[__m512i; N],
) {
    for round in 1..14 {
        // SAFETY: as for this function.
        let key = unsafe { round_key(keys, round) };
        for block in blocks.iter_mut() {
            *block = if ENCRYPT { _mm512_aesenc_epi128(*block, key) } else { _mm512_aesdec_epi128(*block, key) };
        }
    }
    for (block, &last) in blocks.iter_mut().zip(last) {
        *block = if ENCRYPT { _mm512_aesenclast_epi128(*block, last) } else { _mm512_aesdeclast_epi128(*block, last) };
    }
}

/// A whole group. `ends` is the sum of the first and the last round key. `NONTEMPORAL`: with non-temporal stores.
///
/// # Safety
/// As for [`round_key`]; 512 bytes can be read and written. With `NONTEMPORAL`, `to` is a multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn group<const ENCRYPT: bool, const NONTEMPORAL: bool>(
    keys: *const RoundKeys,
    ends: &u128,
    veils: &Veils,
    from: *const u8,
    to: *mut u8,
) {
    let (keys, ends) = (opaque(keys), broadcast(ends));
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h]: [__m512i; GROUP];
    // SAFETY: the bytes can be read.
    unsafe {
        asm!(
            "vmovdqu64 {a}, [{from}]",
            "vmovdqu64 {b}, [{from} + 64]",
            "vmovdqu64 {c}, [{from} + 128]",
            "vmovdqu64 {d}, [{from} + 192]",
            "vmovdqu64 {e}, [{from} + 256]",
            "vmovdqu64 {f}, [{from} + 320]",
            "vmovdqu64 {g}, [{from} + 384]",
            "vmovdqu64 {h}, [{from} + 448]",
            from = in(reg) from,
            a = out(zmm_reg) a, b = out(zmm_reg) b, c = out(zmm_reg) c, d = out(zmm_reg) d,
            e = out(zmm_reg) e, f = out(zmm_reg) f, g = out(zmm_reg) g, h = out(zmm_reg) h,
            options(readonly, nostack, preserves_flags),
        );
    }
    let mut blocks = [a, b, c, d, e, f, g, h];
    for (block, veil) in blocks.iter_mut().zip(veils) {
        *block = _mm512_ternarylogic_epi64::<0x96>(*block, *veil, ends);
    }
    // SAFETY: as for this function.
    unsafe { rounds::<ENCRYPT, GROUP>(keys, &mut blocks, veils) };
    [a, b, c, d, e, f, g, h] = blocks;
    macro_rules! store {
        ($instruction:literal) => {
            asm!(
                concat!($instruction, " [{to}], {a}"),
                concat!($instruction, " [{to} + 64], {b}"),
                concat!($instruction, " [{to} + 128], {c}"),
                concat!($instruction, " [{to} + 192], {d}"),
                concat!($instruction, " [{to} + 256], {e}"),
                concat!($instruction, " [{to} + 320], {f}"),
                concat!($instruction, " [{to} + 384], {g}"),
                concat!($instruction, " [{to} + 448], {h}"),
                to = in(reg) to,
                a = in(zmm_reg) a, b = in(zmm_reg) b, c = in(zmm_reg) c, d = in(zmm_reg) d,
                e = in(zmm_reg) e, f = in(zmm_reg) f, g = in(zmm_reg) g, h = in(zmm_reg) h,
                options(nostack, preserves_flags),
            )
        };
    }
    // SAFETY: the bytes can be written, and lie on a boundary of 64 bytes for non-temporal stores.
    unsafe { if NONTEMPORAL { store!("vmovntdq") } else { store!("vmovdqu64") } }
}

/// Less than a whole group: loads and stores are masked, the rest is the same.
///
/// # Safety
/// As for [`round_key`]; `count` blocks, at most 31, can be read and written.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn part<const ENCRYPT: bool>(
    keys: *const RoundKeys,
    ends: &u128,
    veils: &Veils,
    from: *const u8,
    to: *mut u8,
    count: usize,
) {
    let (keys, ends) = (opaque(keys), broadcast(ends));
    // Two bits for each block: lanes of 64 bits.
    let all = (1u64 << (2 * count)).wrapping_sub(1);
    let mask = |register: usize| (all >> (2 * LANES * register)) as u8;
    let mut blocks = [_mm512_setzero_si512(); GROUP];
    for (register, (block, veil)) in blocks.iter_mut().zip(veils).enumerate() {
        let loaded: __m512i;
        // SAFETY: what the mask leaves out is not accessed, the rest can be read.
        unsafe {
            asm!(
                "vmovdqu64 {loaded} {{{mask}}} {{z}}, [{from}]",
                from = in(reg) from.wrapping_add(register * LANES * BLOCK_BYTES),
                mask = in(kreg) mask(register),
                loaded = out(zmm_reg) loaded,
                options(readonly, nostack, preserves_flags),
            );
        }
        *block = _mm512_ternarylogic_epi64::<0x96>(loaded, *veil, ends);
    }
    // SAFETY: as for this function.
    unsafe { rounds::<ENCRYPT, GROUP>(keys, &mut blocks, veils) };
    for (register, block) in blocks.iter().enumerate() {
        // SAFETY: what the mask leaves out is not accessed, the rest can be written.
        unsafe {
            asm!(
                "vmovdqu64 [{to}] {{{mask}}}, {block}",
                to = in(reg) to.wrapping_add(register * LANES * BLOCK_BYTES),
                mask = in(kreg) mask(register),
                block = in(zmm_reg) *block,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Bytes to prefetch at the beginning of a call: a page. Data of random requests is seldom in the cache. The CPU
/// recognises how it continues, but not across the end of a page.
const FETCHED_AHEAD: usize = 4096;

/// Prefetches the first bytes of the source and, unless stores are non-temporal, of the target. No address is accessed.
#[inline]
fn fetch_ahead<const NONTEMPORAL: bool>(bytes: usize, from: *const u8, to: *mut u8) {
    for at in (0..bytes.min(FETCHED_AHEAD)).step_by(64) {
        // SAFETY: a prefetch has no effect but on the caches, whatever the address.
        unsafe {
            asm!("prefetcht0 [{at}]", at = in(reg) from.wrapping_add(at), options(readonly, nostack, preserves_flags));
            if !NONTEMPORAL {
                asm!("prefetchw [{at}]", at = in(reg) to.wrapping_add(at), options(readonly, nostack, preserves_flags));
            }
        }
    }
}

/// See [`Kernel`].
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
unsafe fn crypt<const ENCRYPT: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    from: *const u8,
    to: *mut u8,
    hints: &mut Hints,
) {
    let bytes = tweaks.len().saturating_mul(blocks).saturating_mul(BLOCK_BYTES);
    // Data to decrypt comes from the disk. Data to encrypt was just written by the guest.
    let mut rest = Prefetch::at(from.addr().wrapping_add(FETCHED_AHEAD), bytes.saturating_sub(FETCHED_AHEAD));
    let prefetch = if ENCRYPT || rest.is_done() { &mut hints.prefetch } else { &mut rest };
    let on_boundary = to.addr().is_multiple_of(64) && blocks.is_multiple_of(LANES);
    // SAFETY: as for this function.
    unsafe {
        if ENCRYPT && hints.nontemporal && on_boundary {
            fetch_ahead::<true>(bytes, from, to);
            crypt_to::<ENCRYPT, true>(schedule, tweaks, blocks, from, to, prefetch);
        } else {
            fetch_ahead::<false>(bytes, from, to);
            crypt_to::<ENCRYPT, false>(schedule, tweaks, blocks, from, to, prefetch);
        }
    }
    wipe_registers();
}

/// # Safety
/// As for [`Kernel`]. With `NONTEMPORAL`, `to` is a multiple of 64, and so are the bytes of the blocks. Advances
/// `prefetch` meanwhile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
unsafe fn crypt_to<const ENCRYPT: bool, const NONTEMPORAL: bool>(
    schedule: &Schedule,
    tweaks: &[u128],
    blocks: usize,
    mut from: *const u8,
    mut to: *mut u8,
    prefetch: &mut Prefetch,
) {
    let keys = if ENCRYPT { &raw const schedule.encrypt } else { &raw const schedule.decrypt };
    // SAFETY: the keys are there.
    let derived = unsafe { Derived::new(keys) };
    for tweak in tweaks {
        // SAFETY: the keys are there.
        let mut even = spread(tweak, unsafe { round_key(opaque(keys), 14) });
        let mut left = blocks;
        macro_rules! group {
            ($veils:ident) => {
                prefetch.advance(GROUP_BYTES);
                if left < GROUP_BLOCKS {
                    // SAFETY: the caller guarantees the blocks that are left.
                    unsafe { part::<ENCRYPT>(keys, &derived.ends, &$veils, from, to, left) };
                    (from, to) = (from.wrapping_add(left * BLOCK_BYTES), to.wrapping_add(left * BLOCK_BYTES));
                    break;
                }
                // SAFETY: as above.
                unsafe { group::<ENCRYPT, NONTEMPORAL>(keys, &derived.ends, &$veils, from, to) };
                (from, to) = (from.wrapping_add(GROUP_BYTES), to.wrapping_add(GROUP_BYTES));
                left -= GROUP_BLOCKS;
                if left == 0 {
                    break;
                }
            };
        }
        if left <= GROUP_BLOCKS {
            #[allow(clippy::never_loop, reason = "the macro leaves a loop")]
            loop {
                group!(even);
            }
            continue;
        }
        // Two groups alternate: advancing by 64 blocks takes fewer instructions than by 32.
        let mut odd = even;
        let sum = broadcast(&derived.after_32);
        for veil in &mut odd {
            *veil = times_alpha_bytes::<4, 12>(*veil, sum);
        }
        loop {
            group!(even);
            let sum = broadcast(&derived.after_64);
            for veil in &mut even {
                *veil = times_alpha_64(*veil, sum);
            }
            group!(odd);
            let sum = broadcast(&derived.after_64);
            for veil in &mut odd {
                *veil = times_alpha_64(*veil, sum);
            }
        }
    }
}

/// See [`Kernel`].
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
unsafe fn start_tweaks(schedule: &Schedule, number: u128, tweaks: &mut StartTweaks, count: usize) {
    let first = _mm512_broadcast_i32x4(_mm_set_epi64x((number >> 64) as i64, number as i64));
    let one = _mm512_set1_epi64(1);
    // The number `register * 4 + lane` further on, with the carry into the high half.
    let mut at = _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0);
    let mut numbers = [_mm512_setzero_si512(); GROUP];
    for slot in &mut numbers {
        let sum = _mm512_add_epi64(first, at);
        let carry = _mm512_cmplt_epu64_mask(sum, first);
        *slot = _mm512_mask_add_epi64(sum, carry << 1, sum, one);
        at = _mm512_add_epi64(at, _mm512_maskz_set1_epi64(0x55, LANES as i64));
    }
    let keys = opaque(&raw const schedule.tweak);
    let to = (&raw mut tweaks.0).cast::<u8>();
    // SAFETY: the array has room for all 8 registers.
    unsafe {
        match count.div_ceil(LANES) {
            0 | 1 => encrypt_numbers::<1>(keys, &numbers, to),
            2 => encrypt_numbers::<2>(keys, &numbers, to),
            3 | 4 => encrypt_numbers::<4>(keys, &numbers, to),
            _ => encrypt_numbers::<GROUP>(keys, &numbers, to),
        }
    }
    wipe_registers();
}

/// # Safety
/// As for [`round_key`]; `N` registers, aligned, can be written.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn encrypt_numbers<const N: usize>(keys: *const RoundKeys, numbers: &[__m512i; GROUP], to: *mut u8) {
    let mut blocks = [_mm512_setzero_si512(); N];
    // SAFETY: as for this function.
    unsafe {
        let key = round_key(keys, 0);
        for (block, number) in blocks.iter_mut().zip(numbers) {
            *block = _mm512_xor_si512(*number, key);
        }
        rounds::<true, N>(keys, &mut blocks, &[round_key(keys, 14); N]);
        for (at, block) in blocks.iter().enumerate() {
            _mm512_store_si512(to.add(at * LANES * BLOCK_BYTES).cast(), *block);
        }
    }
}

/// Leaves no key, tweak or data in registers that somebody may save.
#[inline]
#[target_feature(enable = "avx512f")]
fn wipe_registers() {
    macro_rules! zero {
        ($($register:tt)*) => {
            // SAFETY: all of the registers are declared as overwritten.
            unsafe {
                asm!(
                    $(concat!("vpxord ", $register, ", ", $register, ", ", $register),)*
                    $(out($register) _,)*
                    options(nomem, nostack, preserves_flags),
                );
            }
        };
    }
    zero!("zmm0" "zmm1" "zmm2" "zmm3" "zmm4" "zmm5" "zmm6" "zmm7" "zmm8" "zmm9" "zmm10" "zmm11" "zmm12" "zmm13" "zmm14" "zmm15" "zmm16" "zmm17" "zmm18" "zmm19" "zmm20" "zmm21" "zmm22" "zmm23" "zmm24" "zmm25" "zmm26" "zmm27" "zmm28" "zmm29" "zmm30" "zmm31");
}
