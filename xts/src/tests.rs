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
        for unit_bits in [9, 10, 12, 16, 18] {
            let (mut output, mut kept, mut made) = (vec![0; 1 << 18], vec![0; 1 << 18], [0; 512]);
            let tee = Tee::new(&mut kept).with_crc32c(unit_bits, &mut made);
            let (from, to) = ([VolatileSlice::from(&mut plain[..])], [VolatileSlice::from(&mut output[..])]);
            let count = key.encrypt_with_tee(Dun::new([1, 0, 0, 0]), unit_bits, &from, &to, false, tee);
            assert!(output == kept && output != plain);
            let crcs: Vec<u32> = output.chunks(1 << unit_bits).map(crc32c).collect();
            assert!(count == 0 || made[..count] == crcs, "{implementation} {unit_bits}");
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

    /// The ciphertext is in both places, and nothing else; its CRCs are right, or not there.
    #[test]
    fn ciphertext_goes_to_a_second_place(
        from in lengths(), to in lengths(), unit_bits in 4u8..=9, units in 1usize..5, seed in any::<u8>(),
    ) {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|i| seed.wrapping_mul(i as u8 ^ 0x55));
        let unit = 1usize << unit_bits;
        let mut plain: Vec<_> = (0..unit * units).map(|i| (i as u8).wrapping_mul(seed | 1) ^ (i >> 8) as u8).collect();
        let mut expected = plain.clone();
        xts_mode(&key, 7, unit, &mut expected);
        let crcs: Vec<u32> = expected.chunks(unit).map(crc32c).collect();
        let dun = Dun::new([7, 0, 0, 0]);
        let (from, to) = (cut(&from, plain.len()), cut(&to, plain.len()));
        for implementation in Implementation::available() {
            let key = XtsKey::new(implementation, &key);
            for nontemporal in [false, true] {
                let (mut output, mut kept, mut made) = (vec![0; plain.len()], vec![0xee; plain.len() + 3], [0; 5]);
                let tee = Tee::new(&mut kept).with_crc32c(unit_bits, &mut made);
                let (source, place) = (slices(&mut plain, &from), slices(&mut output, &to));
                let count = key.encrypt_with_tee(dun, unit_bits, &source, &place, nontemporal, tee);
                store_fence();
                prop_assert!(output == expected && kept[..plain.len()] == expected && kept[plain.len()..] == [0xee; 3]);
                prop_assert!(count == 0 || count == units && made[..units] == crcs, "{implementation} {made:x?}");
                prop_assert!(count != 0 || unit < 256 || implementation != Implementation::Vaes256);
            }
            // Only the CRC, of what is in one place.
            let (mut output, mut made) = (vec![0; plain.len()], [0; 5]);
            let count = key.encrypt_with_crc32c(dun, unit_bits, &slices(&mut plain, &from), &mut output, &mut made);
            prop_assert!(output == expected);
            prop_assert!(count == 0 || count == units && made[..units] == crcs, "{implementation} {made:x?}");
            let (mut output, mut made, mut source) = (vec![0; plain.len()], [0; 5], expected.clone());
            let count = key.decrypt_with_crc32c(dun, unit_bits, &mut source, &slices(&mut output, &to), &mut made);
            prop_assert!(output == plain && source == expected);
            prop_assert!(count == 0 || count == units && made[..units] == crcs, "{implementation} {made:x?}");

            let (mut output, mut kept, mut made) = (vec![0; plain.len()], vec![0xee; plain.len() + 3], [0; 5]);
            let tee = Tee::new(&mut kept).with_crc32c(unit_bits, &mut made);
            let (source, place) = (slices(&mut expected, &from), slices(&mut output, &to));
            let count = key.decrypt_with_tee(dun, unit_bits, &source, &place, Prefetch::default(), tee);
            prop_assert!(output == plain && kept[..plain.len()] == expected && kept[plain.len()..] == [0xee; 3]);
            prop_assert!(count == 0 || count == units && made[..units] == crcs, "{implementation} {made:x?}");
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
