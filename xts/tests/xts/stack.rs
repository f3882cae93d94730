// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No call leaves a round key on the stack. Holds for the kernels of this project, when they are optimised.

use scattered_xts::{Implementation, Prefetch, XtsKey};
use vm_memory::VolatileSlice;

use crate::reference::{dun, key};
use crate::search::{boxed, found, round_keys, wipe};

pub fn no_key_stays_on_the_stack(implementation: Implementation) {
    let mut boxed_key = boxed(implementation, || key(11));
    let round_keys = round_keys(&mut boxed_key, || key(11));
    let key = boxed_key;
    let mut data = vec![0; 65536 + 64];
    // On the boundary that non-temporal stores need.
    let start = data.as_ptr().align_offset(64);
    let data = &mut data[start..][..65536];
    assert!(data.as_ptr().addr().is_multiple_of(64));
    #[inline(never)]
    fn use_key(key: &XtsKey, data: &mut [u8]) {
        for bits in [4, 9, 12, 16] {
            key.encrypt_in_place(dun(1), bits, data);
            key.decrypt_in_place(dun(1), bits, data);
        }
    }
    #[inline(never)]
    fn use_key_with_hints(key: &XtsKey, data: &mut [u8]) {
        let data = [VolatileSlice::from(data)];
        for bits in [4, 9, 12, 16] {
            key.encrypt_nontemporal(dun(1), bits, &data, &data);
            key.decrypt_prefetching(dun(1), bits, &data, &data, Prefetch::new(&data[0]));
        }
    }
    #[inline(never)]
    fn use_key_with_crc32c(key: &XtsKey, data: &mut [u8]) {
        let data = [VolatileSlice::from(data)];
        let mut crcs = [[0; 4]; 4096];
        for (bits, nontemporal) in [4, 9, 12, 16].into_iter().flat_map(|bits| [(bits, false), (bits, true)]) {
            let made = key.encrypt_with_crc32c(dun(1), bits, &data, &data, nontemporal, &mut crcs)
                && key.decrypt_with_crc32c(dun(1), bits, &data, &data, Prefetch::default(), &mut crcs);
            assert_eq!(made, key.has_crc32c());
        }
    }
    wipe();
    assert_eq!(found(&round_keys), 0, "the test itself leaves round keys");
    use_key(&key, data);
    assert_eq!(found(&round_keys), 0);
    use_key_with_hints(&key, data);
    assert_eq!(found(&round_keys), 0);
    use_key_with_crc32c(&key, data);
    assert_eq!(found(&round_keys), 0);
}
