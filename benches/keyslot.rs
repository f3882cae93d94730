// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo bench --bench keyslot`: the time to program a key, and to acquire a slot's key for a request. Also the whole
//! cost of a key in a request: copied, expanded, wiped. Nanoseconds, one thread.

mod common;

use std::hint::black_box;

use common::{fewest_nanoseconds, nanoseconds};
use scattered_xts::{Implementation, KEY_BYTES};
use vhost_user_blk_crypto::keyslot::{KeyConfig, KeyslotTable, RequestKeys};
use vhost_user_blk_crypto::secret::{EXPANSION_STACK, PROGRAM_STACK, with_wiped_stack};

fn main() {
    programs();
    requests();
}

fn programs() {
    let key: [u8; KEY_BYTES] = std::array::from_fn(|i| i as u8);
    let config = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };
    println!("ns             program  program, wiped stack  acquire and release");
    for implementation in Implementation::available() {
        let table = KeyslotTable::new(32, implementation).expect("locked memory");
        let mut slots = (0..32).cycle();
        let mut program = || {
            let slot = slots.next().unwrap_or(0);
            pollster::block_on(async {
                let mut claim = table.claim(slot).await.expect("slot");
                claim.publish(table.next_generation(), black_box(&key), config);
                claim.drained().await;
            });
        };
        let programmed = nanoseconds(&mut program);
        let wiped = nanoseconds(|| with_wiped_stack::<PROGRAM_STACK, _>(&mut program));
        let acquire = nanoseconds(|| drop(black_box(table.acquire(3))));
        println!("{:<14}{programmed:>8.0}{wiped:>22.0}{acquire:>21.0}", implementation.name());
    }
}

fn requests() {
    let key: [u8; KEY_BYTES] = std::array::from_fn(|i| i as u8);
    let config = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };
    println!("ns, fewest     key of a request  without wiping the stack  the same key again");
    for implementation in Implementation::available() {
        let mut keys = RequestKeys::new(2, implementation).expect("locked memory");
        let whole = fewest_nanoseconds(|| {
            let mut place = keys.take().expect("a place");
            *place.raw_mut() = *black_box(&key);
            let (place, _) = with_wiped_stack::<EXPANSION_STACK, _>(|| keys.expand(place, config));
            keys.give_back(black_box(place));
        });
        let without = fewest_nanoseconds(|| {
            let mut place = keys.take().expect("a place");
            *place.raw_mut() = *black_box(&key);
            let (place, _) = keys.expand(place, config);
            keys.give_back(black_box(place));
        });
        let again = fewest_nanoseconds(|| {
            let mut place = keys.take().expect("a place");
            *place.raw_mut() = *black_box(&key);
            let (place, _) = with_wiped_stack::<EXPANSION_STACK, _>(|| keys.expand(place, config));
            keys.keep(black_box(place));
        });
        println!("{:<15}{whole:>16.0}{without:>26.0}{again:>20.0}", implementation.name());
    }
}
