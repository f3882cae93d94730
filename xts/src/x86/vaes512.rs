// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VAES on AVX-512: four blocks in a register, eight registers at a time.
//!
//! What limits it, once enough blocks are in flight, is every vector instruction beside the 14 of AES: they share the
//! execution units. So tweaks have the last round key added once and for all (`Veil`): AESENCLAST adds that sum as it
//! would the key, and before the first round it is taken back with the first key in one three-way XOR.

use std::arch::asm;
use std::arch::x86_64::*;

use zeroize::Zeroize;

use super::expand::expand_four;
use super::opaque;
use crate::key::BLOCK_BYTES;
use crate::native::{Kernel, RoundKeys, Schedule};
use crate::pieces::Hints;
use crate::prefetch::Prefetch;
use crate::tweak::StartTweaks;

/// Registers of a group.
const GROUP: usize = 8;
/// Blocks of a register.
const LANES: usize = 4;
const GROUP_BLOCKS: usize = GROUP * LANES;
const GROUP_BYTES: usize = GROUP_BLOCKS * BLOCK_BYTES;

static KERNEL: Kernel = Kernel {
    one_lane: false,
    expand: expand_four,
    start_tweaks,
    finish_crc: None,
    encrypt: crypt::<true>,
    decrypt: crypt::<false>,
};

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

/// Sums of a tweak and the last round key.
type Veils = [__m512i; GROUP];

/// What is computed from round keys at the beginning of a call. It has a place of its own on the stack, from which it is
/// loaded when it is needed, and is wiped at the end: a register could be spilled.
#[repr(C)]
struct Derived {
    /// The sum of the first and the last round key.
    ends: u128,
    /// What to add to a veil that was multiplied by alpha^32 or alpha^64, for its key to be the last one again.
    after_32: u128,
    after_64: u128,
}

impl Derived {
    /// # Safety
    /// As for [`round_key`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    unsafe fn new(keys: *const RoundKeys) -> Self {
        // SAFETY: as for this function.
        let (first, last) = unsafe { (round_key(keys, 0), round_key(keys, 14)) };
        // SAFETY: both are 16 bytes of any value.
        let lane = |lanes| unsafe { std::mem::transmute::<__m128i, u128>(_mm512_castsi512_si128(lanes)) };
        Self {
            ends: lane(_mm512_xor_si512(first, last)),
            after_32: lane(times_alpha_bytes::<4, 12>(last, last)),
            after_64: lane(times_alpha_64(last, last)),
        }
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        self.ends.zeroize();
        self.after_32.zeroize();
        self.after_64.zeroize();
    }
}

/// The value, in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(value: &u128) -> __m512i {
    // SAFETY: a `u128` is 16 bytes, aligned.
    _mm512_broadcast_i32x4(unsafe { _mm_load_si128(opaque(value).cast()) })
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

/// 0x87, what alpha^128 is, in the low half of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduction() -> __m512i {
    _mm512_maskz_set1_epi64(0x55, 0x87)
}

/// Multiplies each lane by alpha^(8 * BYTES), 7 bytes at most, and adds `sum`.
///
/// `REST` is 16 - BYTES. What is shifted out at the top comes back multiplied by 0x87.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_alpha_bytes<const BYTES: i32, const REST: i32>(tweak: __m512i, sum: __m512i) -> __m512i {
    let back = _mm512_clmulepi64_epi128::<0x00>(_mm512_bsrli_epi128::<REST>(tweak), reduction());
    _mm512_ternarylogic_epi64::<0x96>(_mm512_bslli_epi128::<BYTES>(tweak), back, sum)
}

/// Multiplies each lane by alpha^64 and adds `sum`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_alpha_64(tweak: __m512i, sum: __m512i) -> __m512i {
    let back = _mm512_clmulepi64_epi128::<0x01>(tweak, reduction());
    _mm512_ternarylogic_epi64::<0x96>(_mm512_bslli_epi128::<8>(tweak), back, sum)
}

/// Multiplies each lane by a power of alpha of its own: `bits` has it, 0 to 56, in both halves of the lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_alpha_bits(tweak: __m512i, bits: __m512i) -> __m512i {
    let swapped = _mm512_shuffle_epi32::<0x4e>(tweak);
    // Shifted out of the high half, in the low one, and the other way round. A shift by 64 gives 0.
    let out = _mm512_srlv_epi64(swapped, _mm512_sub_epi64(_mm512_set1_epi64(64), bits));
    let back = _mm512_clmulepi64_epi128::<0x00>(out, reduction());
    let carried = _mm512_maskz_mov_epi64(0xaa, out);
    _mm512_ternarylogic_epi64::<0x96>(_mm512_sllv_epi64(tweak, bits), back, carried)
}

/// The veils of a group from the tweak of its first block and the last round key.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn spread(first: &u128, last: __m512i) -> Veils {
    let first = broadcast(first);
    let a = times_alpha_bits(first, _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0));
    let b = times_alpha_bits(first, _mm512_set_epi64(7, 7, 6, 6, 5, 5, 4, 4));
    [
        _mm512_xor_si512(a, last),
        _mm512_xor_si512(b, last),
        times_alpha_bytes::<1, 15>(a, last),
        times_alpha_bytes::<1, 15>(b, last),
        times_alpha_bytes::<2, 14>(a, last),
        times_alpha_bytes::<2, 14>(b, last),
        times_alpha_bytes::<3, 13>(a, last),
        times_alpha_bytes::<3, 13>(b, last),
    ]
}

/// Bytes that are asked for at the beginning of a call: a page. Data of random requests is seldom in the cache; and the CPU
/// sees by itself how it goes on, but not over the end of a page.
const FETCHED_AHEAD: usize = 4096;

/// Asks for the first bytes of the source and, unless stores are non-temporal, the target, all at once. No address is
/// accessed.
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
    hints: &mut Hints<'_>,
) {
    let bytes = tweaks.len().saturating_mul(blocks).saturating_mul(BLOCK_BYTES);
    // What is decrypted comes from the disk. What is encrypted was just written by the guest.
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
/// As for [`Kernel`]. With `NONTEMPORAL`, `to` is a multiple of 64, and so are the bytes of the blocks. `prefetch` is
/// fetched meanwhile.
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
                    // SAFETY: so many blocks are left of what the caller vouches for.
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
        // Two groups in turn: going 64 blocks on takes fewer instructions than 32.
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
    // Number `register * 4 + lane` further on, with the carry into the high half.
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

/// Leaves no key, tweak or data behind for whoever saves the registers next.
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
