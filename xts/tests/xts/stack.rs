// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No call leaves a round key on the stack. Holds for the kernels of this project, when they are optimised.

use scattered_xts::{Engine, Soon, XtsKey};
use vm_memory::VolatileSlice;

use crate::reference::{dun, key};
use crate::search::{boxed, found, round_keys, wipe};

pub fn no_key_stays_on_the_stack(engine: Engine) {
    let key = boxed(engine, || key(11));
    let round_keys = round_keys(&key);
    let mut data = vec![0; 65536 + 64];
    // On the boundary that stores past the caches need.
    let start = data.as_ptr().align_offset(64);
    let data = &mut data[start..][..65536];
    assert!(data.as_ptr().addr().is_multiple_of(64));
    #[inline(never)]
    fn use_key(key: &XtsKey, data: &mut [u8]) {
        for bits in [4, 9, 12, 16] {
            key.encrypt(dun(1), bits, data);
            key.decrypt(dun(1), bits, data);
        }
    }
    #[inline(never)]
    fn use_key_as_the_device(key: &XtsKey, data: &mut [u8]) {
        let data = [VolatileSlice::from(data)];
        for bits in [4, 9, 12, 16] {
            key.encrypt_past_caches(dun(1), bits, &data, &data);
            key.decrypt_meanwhile(dun(1), bits, &data, &data, Soon::new(&data[0]));
        }
    }
    wipe();
    assert_eq!(found(&round_keys), 0, "the test itself leaves round keys");
    use_key(&key, data);
    assert_eq!(found(&round_keys), 0);
    use_key_as_the_device(&key, data);
    assert_eq!(found(&round_keys), 0);
}
