// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests leave no round key on the stack. Holds for the kernels of this project, when they are optimised.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vhost_user_blk_crypto::crypto::{Engine, XtsKey};

use crate::reference::{dun, expand, key};

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
fn found(round_keys: &[u8]) -> usize {
    let marker = 0u8;
    let here = std::hint::black_box(&raw const marker) as usize;
    let stack = memory(here - LOOK_AT, LOOK_AT);
    round_keys.chunks_exact(8).filter(|half| stack.windows(8).any(|bytes| bytes == *half)).count()
}

pub fn no_key_stays_on_the_stack(engine: Engine) {
    let key = Box::new(expand(engine, &key(11)));
    // A schedule has each round key four times; what is there less often is something else, or padding.
    let words: Vec<[u8; 8]> = memory((&raw const *key).addr(), size_of::<XtsKey>())
        .chunks_exact(8)
        .filter_map(|word| word.try_into().ok())
        .collect();
    let often = |word: &&[u8; 8]| **word != [0; 8] && words.iter().filter(|other| other == word).count() >= 4;
    let round_keys: Vec<u8> = words.iter().filter(often).flatten().copied().collect();
    assert_eq!(round_keys.len(), 3 * 15 * 64);
    let mut data = vec![0; 65536];
    #[inline(never)]
    fn use_key(key: &XtsKey, data: &mut [u8]) {
        for bits in [4, 9, 12, 16] {
            key.encrypt(dun(1), bits, data);
            key.decrypt(dun(1), bits, data);
        }
    }
    /// What expanding the key left on the stack is not the question here.
    #[inline(never)]
    fn wipe() {
        std::hint::black_box([0u8; 2 * LOOK_AT]);
    }
    wipe();
    assert_eq!(found(&round_keys), 0, "the test itself leaves round keys");
    use_key(&key, &mut data);
    assert_eq!(found(&round_keys), 0);
}
