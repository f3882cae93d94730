// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A search for round keys on the stack. The tests of the device use this file, too.

use std::fs::File;
use std::os::unix::fs::FileExt;

use scattered_xts::{Implementation, KEY_BYTES, XtsKey};

/// Bytes of the stack that are searched.
const LOOK_AT: usize = 64 << 10;

fn memory(from: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let memory = File::open("/proc/self/mem").expect("own memory");
    memory.read_exact_at(&mut bytes, from as u64).expect("own memory");
    bytes
}

/// Halves of round keys found below the caller's frame.
#[inline(never)]
pub fn found(round_keys: &[u8]) -> usize {
    let marker = 0u8;
    let here = std::hint::black_box(&raw const marker) as usize;
    let stack = memory(here - LOOK_AT, LOOK_AT);
    round_keys.chunks_exact(8).filter(|half| stack.windows(8).any(|bytes| bytes == *half)).count()
}

/// An expanded key. Its copies on the stack are below the caller's frame, where [`wipe`] gets at them: a value that the
/// caller makes later may take over, in its padding, what is left in the caller's own frame.
#[inline(never)]
pub fn boxed(implementation: Implementation, key: impl FnOnce() -> [u8; KEY_BYTES]) -> Box<XtsKey> {
    Box::new(XtsKey::new(implementation, &key()))
}

/// The round keys of all three schedules of a key, which is wiped, and then set again.
pub fn round_keys(key: &mut XtsKey, raw: impl FnOnce() -> [u8; KEY_BYTES]) -> Vec<u8> {
    fn bytes(key: &XtsKey) -> Vec<u8> {
        memory((&raw const *key).addr(), size_of::<XtsKey>())
    }
    // A schedule has each round key in one lane or in all four; anything else is something else, or padding.
    let of_a_schedule = |row: &[u8]| {
        let (first, others) = row.split_at(16);
        first != [0; 16] && (others == [0; 48] || others.chunks_exact(16).all(|lane| lane == first))
    };
    // What is there without a key is no round key either; in the same place, so that the padding is the same.
    let all = bytes(key);
    key.wipe();
    let blank = bytes(key);
    key.set(&raw());
    let rows = all.chunks_exact(64).zip(blank.chunks_exact(64)).filter(|(row, blank)| row != blank);
    let round_keys: Vec<u8> =
        rows.map(|(row, _)| row).filter(|row| of_a_schedule(row)).flat_map(|row| &row[..16]).copied().collect();
    assert_eq!(round_keys.len(), 3 * 15 * 16);
    round_keys
}

/// What was on the stack before is not the question.
#[inline(never)]
pub fn wipe() {
    std::hint::black_box([0u8; 2 * LOOK_AT]);
}
