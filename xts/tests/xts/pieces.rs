// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From one memory to another, in pieces.

use proptest::prelude::*;
use proptest::sample::Index;
use scattered_xts::Prefetch;
use scattered_xts::{Implementation, XtsKey};
use vm_memory::VolatileSlice;

use crate::reference::{dun, expand, key, noise, openssl};

/// What is around the pieces, and must stay there.
const GUARD: u8 = 0xa7;

/// Memory in which pieces lie at given places, with guard bytes everywhere else.
struct Scattered {
    memory: Vec<u8>,
    /// Place and length.
    places: Vec<(usize, usize)>,
}

impl Scattered {
    /// Pieces of the given lengths, each that far from the last one's end.
    fn new(pieces: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut end = 0;
        let places: Vec<_> = pieces
            .into_iter()
            .map(|(gap, len)| {
                let at = end + gap;
                end = at + len;
                (at, len)
            })
            .collect();
        Self { memory: vec![GUARD; end + 64], places }
    }

    fn holding(mut self, mut data: &[u8]) -> Self {
        for &(at, len) in &self.places {
            let (now, later) = data.split_at(len.min(data.len()));
            self.memory[at..at + now.len()].copy_from_slice(now);
            data = later;
        }
        self
    }

    fn slices(&mut self) -> Vec<VolatileSlice<'_>> {
        let whole = VolatileSlice::from(&mut self.memory[..]);
        self.places.iter().map(|&(at, len)| whole.subslice(at, len).expect("inside")).collect()
    }

    /// What the pieces hold; everything else must be as it was.
    fn bytes(&self) -> Vec<u8> {
        let mut outside = self.memory.clone();
        let mut bytes = Vec::new();
        for &(at, len) in &self.places {
            bytes.extend_from_slice(&self.memory[at..at + len]);
            outside[at..at + len].fill(GUARD);
        }
        assert!(outside.iter().all(|&byte| byte == GUARD), "bytes outside of the pieces were changed");
        bytes
    }
}

fn between(key: &XtsKey, encrypt: bool, first: u128, bits: u8, from: &mut Scattered, to: &mut Scattered) {
    let before = (from.memory.clone(), to.memory.clone());
    if encrypt {
        key.encrypt(dun(first), bits, &from.slices(), &to.slices());
    } else {
        key.decrypt(dun(first), bits, &from.slices(), &to.slices());
    }
    assert!(from.memory == before.0, "the source was changed");
    // The same with hints.
    let result = std::mem::replace(&mut to.memory, before.1);
    if encrypt {
        key.encrypt_nontemporal(dun(first), bits, &from.slices(), &to.slices());
    } else {
        let soon = Prefetch::new(&VolatileSlice::from(&mut vec![0; 700][..]));
        key.decrypt_prefetching(dun(first), bits, &from.slices(), &to.slices(), soon);
    }
    assert!(from.memory == before.0, "the source was changed");
    assert!(to.memory == result, "a hint has changed the result");
}

pub fn every_alignment(implementation: Implementation) {
    let raw = key(4);
    let key = expand(implementation, &raw);
    // A group and a part of one, in all implementations.
    let plain = noise(1024, 5);
    let cipher = openssl(true, &raw, 5, 1024, &plain);
    for from in 0..64 {
        for to in 0..64 {
            for (encrypt, input, output) in [(true, &plain, &cipher), (false, &cipher, &plain)] {
                let mut source = Scattered::new([(from, 1024)]).holding(input);
                let mut target = Scattered::new([(to, 1024)]);
                between(&key, encrypt, 5, 10, &mut source, &mut target);
                assert!(target.bytes() == *output, "from {from} to {to}");
            }
        }
    }
}

/// Lengths of pieces: mostly odd ones, some empty, some of whole pages.
fn cuts() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let len = prop_oneof![4 => 0usize..40, 3 => 0usize..700, 1 => Just(512), 1 => Just(4096)];
    proptest::collection::vec((0usize..70, len), 0..30)
}

/// The pieces, cut off or with one more, so that they hold `total` bytes.
fn cut_to(mut pieces: Vec<(usize, usize)>, total: usize) -> Vec<(usize, usize)> {
    let mut left = total;
    for (_, len) in &mut pieces {
        *len = left.min(*len);
        left -= *len;
    }
    pieces.push((3, left));
    pieces
}

pub fn any_cuts(implementation: Implementation) {
    let portable = expand(Implementation::Portable, &key(6));
    let ours = expand(implementation, &key(6));
    proptest!(ProptestConfig::with_cases(600), |(
        from in cuts(),
        to in cuts(),
        bits in 4u8..=13,
        units in any::<Index>(),
        first in any::<u128>(),
    )| {
        let unit = 1usize << bits;
        let len = (1 + units.index((12 << 10 >> bits).max(2))) * unit;
        let (from, to) = (cut_to(from, len), cut_to(to, len));
        let plain = noise(len, first as u32);
        let cipher = openssl(true, &key(6), first, unit, &plain);
        for (encrypt, input, output) in [(true, &plain, &cipher), (false, &cipher, &plain)] {
            let mut source = Scattered::new(from.clone()).holding(input);
            for key in [&ours, &portable] {
                let mut target = Scattered::new(to.clone());
                between(key, encrypt, first, bits, &mut source, &mut target);
                prop_assert!(target.bytes() == *output, "{}", key.implementation());
            }
        }
    });
}

pub fn in_place(implementation: Implementation) {
    let raw = key(7);
    let key = expand(implementation, &raw);
    proptest!(ProptestConfig::with_cases(200), |(pieces in cuts(), bits in 4u8..=12, units in 1usize..40)| {
        let unit = 1usize << bits;
        let plain = noise(unit * units, 8);
        let mut memory = Scattered::new(cut_to(pieces, plain.len())).holding(&plain);
        let slices = memory.slices();
        key.encrypt(dun(77), bits, &slices, &slices);
        prop_assert!(memory.bytes() == openssl(true, &raw, 77, unit, &plain));
        let slices = memory.slices();
        key.decrypt(dun(77), bits, &slices, &slices);
        prop_assert!(memory.bytes() == plain);
    });
}

pub fn sides_of_unequal_length(implementation: Implementation) {
    let raw = key(9);
    let key = expand(implementation, &raw);
    let plain = noise(4096, 10);
    let cipher = openssl(true, &raw, 1, 512, &plain);
    let sides: [&[usize]; 9] = [&[], &[0], &[511], &[512], &[513], &[100, 0, 900], &[1, 2, 3], &[1024, 3000], &[4096]];
    for from in sides {
        for to in sides {
            let lengths = |side: &[usize]| side.iter().map(|&len| (5, len)).collect::<Vec<_>>();
            let mut source = Scattered::new(lengths(from)).holding(&plain);
            let mut target = Scattered::new(lengths(to));
            between(&key, true, 1, 9, &mut source, &mut target);
            let whole = from.iter().sum::<usize>().min(to.iter().sum()) / 512 * 512;
            let output = target.bytes();
            assert!(output[..whole] == cipher[..whole], "from {from:?} to {to:?}");
            assert!(output[whole..].iter().all(|&byte| byte == GUARD), "from {from:?} to {to:?}: rest was changed");
        }
    }
}
