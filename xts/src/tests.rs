// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tests that also run under Miri: pieces and the portable implementation, against the `xts-mode` crate. (`tests/xts`
//! has the rest.)

use std::cell::RefCell;
use std::ops::Range;

use proptest::prelude::*;
use vm_memory::VolatileSlice;

use super::*;
use crate::pieces::{Cipher, Direction, Hints, run};
use crate::tweak::StartTweaks;

pub fn cases() -> ProptestConfig {
    if cfg!(miri) {
        // Miri is a thousand times slower, and has no files.
        return ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() };
    }
    ProptestConfig::with_cases(300)
}

/// Lengths of pieces, adding up to `total`.
fn cut(lengths: &[usize], total: usize) -> Vec<usize> {
    let mut left = total;
    let mut pieces = Vec::new();
    for &len in lengths {
        pieces.push(len.min(left));
        left -= len.min(left);
    }
    pieces.push(left);
    pieces
}

/// The memory in pieces of those lengths.
fn slices<'m>(memory: &'m mut [u8], lengths: &[usize]) -> Vec<VolatileSlice<'m>> {
    let whole = VolatileSlice::from(memory);
    let mut at = 0;
    let slice = |&len: &usize| {
        at += len;
        whole.subslice(at - len, len).expect("inside")
    };
    lengths.iter().map(slice).collect()
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![0usize..20, 0usize..200], 0..12)
}

fn xts_mode(key: &[u8; KEY_BYTES], first: u128, unit: usize, data: &mut [u8]) {
    use aes::cipher::{Array, KeyInit};
    let half = |bytes: &[u8]| aes::Aes256::new(&Array::try_from(bytes).expect("32 bytes"));
    let xts = xts_mode::Xts128::<aes::Aes256>::new(half(&key[..32]), half(&key[32..]));
    for (index, unit) in data.chunks_mut(unit).enumerate() {
        xts.encrypt_sector(unit, first.wrapping_add(index as u128).to_le_bytes().into());
    }
}

fn crcs_of(bytes: &[u8], unit: usize) -> Vec<[u8; 4]> {
    bytes.chunks(unit).map(|unit| crc32c(unit).to_le_bytes()).collect()
}

/// Bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc: u32, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Large data units and long requests.
#[test]
#[cfg_attr(miri, ignore)] // slow
fn crcs_of_large_data_units() {
    let mut plain: Vec<u8> = (0u32..1 << 18).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
    for implementation in Implementation::available() {
        let key = XtsKey::new(implementation, &std::array::from_fn(|i| i as u8));
        for unit_bits in [8, 9, 10, 12, 16, 18] {
            let (mut output, mut crcs) = (vec![0; 1 << 18], vec![[0; 4]; 1 << (18 - unit_bits)]);
            let (from, to) = ([VolatileSlice::from(&mut plain[..])], [VolatileSlice::from(&mut output[..])]);
            let made = key.encrypt_with_crc32c(Dun::new([1, 0, 0, 0]), unit_bits, &from, &to, false, &mut crcs);
            assert_eq!(made, key.has_crc32c());
            assert!(!made || crcs == crcs_of(&output, 1 << unit_bits), "{implementation} {unit_bits}");
            let mut expected = plain.clone();
            xts_mode(&std::array::from_fn(|i| i as u8), 1, 1 << unit_bits, &mut expected);
            assert!(!made || output == expected, "{implementation} {unit_bits}");
        }
    }
}

/// Not all pieces of a write lie where non-temporal stores can go.
#[test]
#[cfg_attr(miri, ignore)] // slow
fn crcs_of_pieces_on_and_off_boundaries() {
    const PIECES: usize = 8;
    let mut plain: Vec<u8> = (0u32..1 << 12).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
    let (key, piece) = ([3; KEY_BYTES], plain.len() / PIECES);
    let mut expected = plain.clone();
    xts_mode(&key, 1, 1 << 12, &mut expected);
    for implementation in Implementation::available() {
        let key = XtsKey::new(implementation, &key);
        for nontemporal in [false, true] {
            for odd in 0..1 << PIECES {
                let (mut output, mut crcs) = (vec![0; 2 * plain.len() + 32], [[0; 4]]);
                let skew = output.as_ptr().align_offset(32);
                let places = output[skew..].chunks_mut(2 * piece).take(PIECES).enumerate();
                let mut places: Vec<_> = places.map(|(i, place)| &mut place[(odd >> i & 1) * 16..][..piece]).collect();
                let to: Vec<_> = places.iter_mut().map(|place| VolatileSlice::from(&mut place[..])).collect();
                let from = [VolatileSlice::from(&mut plain[..])];
                let made = key.encrypt_with_crc32c(Dun::new([1, 0, 0, 0]), 12, &from, &to, nontemporal, &mut crcs);
                store_fence();
                assert!(!made || crcs == crcs_of(&expected, 1 << 12)[..], "{implementation} {odd:b}");
                assert!(!made || places.concat() == expected, "{implementation} {odd:b}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn any_cuts_equal_xts_mode(
        from in lengths(), to in lengths(), unit_bits in 4u8..=9, units in 1usize..4, first in any::<u128>(), seed in any::<u8>(),
    ) {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|i| seed.wrapping_mul(i as u8 ^ 0x55));
        let unit = 1usize << unit_bits;
        let mut plain: Vec<_> = (0..unit * units).map(|i| (i as u8).wrapping_mul(seed | 1)).collect();
        let mut expected = plain.clone();
        xts_mode(&key, first, unit, &mut expected);
        let dun = Dun::new([first as u64, (first >> 64) as u64, 0, 0]);
        let (from, to) = (cut(&from, plain.len()), cut(&to, plain.len()));
        for implementation in Implementation::available() {
            let key = XtsKey::new(implementation, &key);
            let mut output = vec![0; plain.len()];
            key.encrypt(dun, unit_bits, &slices(&mut plain, &from), &slices(&mut output, &to));
            prop_assert!(output == expected, "{}", implementation);
            let place = slices(&mut output, &to);
            key.decrypt(dun, unit_bits, &place, &place);
            prop_assert!(output == plain, "{}", implementation);
        }
    }

    /// CRCs are of the ciphertext in both directions. Without room for all of them, nothing happens.
    #[test]
    fn crcs_of_any_cuts(
        from in lengths(), to in lengths(), unit_bits in 4u8..=11, units in 1usize..5, seed in any::<u8>(),
    ) {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|i| seed.wrapping_mul(i as u8 ^ 0x55));
        let unit = 1usize << unit_bits;
        let mut plain: Vec<_> = (0..unit * units).map(|i| (i as u8).wrapping_mul(seed | 1) ^ (i >> 8) as u8).collect();
        let mut expected = plain.clone();
        xts_mode(&key, 7, unit, &mut expected);
        let right = crcs_of(&expected, unit);
        let dun = Dun::new([7, 0, 0, 0]);
        let (from, to) = (cut(&from, plain.len()), cut(&to, plain.len()));
        for implementation in Implementation::available() {
            let key = XtsKey::new(implementation, &key);
            prop_assert_eq!(key.has_crc32c(), implementation == Implementation::Vaes256);
            for nontemporal in [false, true] {
                for room in [units - 1, units, units + 1] {
                    let (mut output, mut crcs) = (vec![0; plain.len()], vec![[0xee; 4]; room]);
                    let (source, place) = (slices(&mut plain, &from), slices(&mut output, &to));
                    let made = key.encrypt_with_crc32c(dun, unit_bits, &source, &place, nontemporal, &mut crcs);
                    store_fence();
                    prop_assert_eq!(made, key.has_crc32c() && room >= units);
                    let there = if made { expected.clone() } else { vec![0; plain.len()] };
                    prop_assert!(output == there);
                    prop_assert!(!made || crcs[..units] == right && crcs[units..].iter().all(|crc| *crc == [0xee; 4]));
                }
            }
            let (mut output, mut crcs, mut source) = (vec![0; plain.len()], vec![[0; 4]; units], expected.clone());
            let (from, to) = (slices(&mut source, &from), slices(&mut output, &to));
            let made = key.decrypt_with_crc32c(dun, unit_bits, &from, &to, Prefetch::default(), &mut crcs);
            prop_assert_eq!(made, key.has_crc32c());
            prop_assert!(!made || output == plain && crcs == right);
            prop_assert!(source == expected);
            // In place.
            for place in [[0, 3, plain.len() - 3], [plain.len(), 0, 0]] {
                let place = slices(&mut source, &place);
                let made = key.decrypt_with_crc32c(dun, unit_bits, &place, &place, Prefetch::default(), &mut crcs);
                prop_assert!(!made || source == plain && crcs == right);
                for nontemporal in [false, true] {
                    source.copy_from_slice(&plain);
                    let place = slices(&mut source, &[0, 3, plain.len() - 3]);
                    let made = key.encrypt_with_crc32c(dun, unit_bits, &place, &place, nontemporal, &mut crcs);
                    store_fence();
                    prop_assert!(!made || source == expected && crcs == right);
                }
            }
        }
    }

    /// Each byte goes to the cipher once: directly, or in a block that straddles a cut.
    #[test]
    fn every_byte_is_passed_on_once_and_in_order(
        from in lengths(), to in lengths(), unit_bits in 4u8..=9, units in 1usize..4,
    ) {
        let total = units << unit_bits;
        let (from, to) = (cut(&from, total), cut(&to, total));
        let (mut source, mut target) = (vec![1; total], vec![0; total]);
        let (source_at, target_at) = (source.as_ptr().addr(), target.as_ptr().addr());
        let recorder = Recorder::default();
        let (sources, targets) = (slices(&mut source, &from), slices(&mut target, &to));
        run(&recorder, Direction::Encrypt, 5, unit_bits, &sources, &targets, Hints::default());
        let mut next = 0;
        for (read, written) in recorder.calls.into_inner() {
            if (source_at..source_at + total).contains(&read.start) {
                prop_assert_eq!(read.start - source_at, next);
                prop_assert_eq!(written.start - target_at, next);
            } else {
                // A buffer: there must be a cut in the block, at least on one side.
                prop_assert_eq!(read.len(), 16);
                let ends = |lengths: &[usize]| {
                    lengths.iter().scan(0, |end, len| { *end += len; Some(*end) }).any(|end| (next + 1..next + 16).contains(&end))
                };
                prop_assert!(ends(&from) || ends(&to));
            }
            next += read.len();
        }
        prop_assert_eq!(next, total);
        prop_assert!(target.iter().all(|&byte| byte == 2));
    }
}

/// Turns 1 into 2, and records where.
#[derive(Default)]
struct Recorder {
    calls: RefCell<Vec<(Range<usize>, Range<usize>)>>,
}

impl Cipher for Recorder {
    fn start_tweaks(&self, _number: u128, _tweaks: &mut StartTweaks, _count: usize) {}

    fn crypt(
        &self,
        _: Direction,
        tweaks: &[u128],
        blocks: usize,
        from: VolatileSlice<'_>,
        to: VolatileSlice<'_>,
        _: &mut Hints<'_>,
    ) {
        let range = |slice: &VolatileSlice<'_>| {
            let start = slice.ptr_guard().as_ptr().addr();
            start..start + slice.len()
        };
        assert_eq!(from.len(), tweaks.len() * blocks * 16);
        assert_eq!(to.len(), from.len());
        self.calls.borrow_mut().push((range(&from), range(&to)));
        let mut bytes = vec![0u8; from.len()];
        from.copy_to(&mut bytes[..]);
        assert!(bytes.iter().all(|&byte| byte == 1));
        to.copy_from(&vec![2u8; bytes.len()][..]);
    }
}
