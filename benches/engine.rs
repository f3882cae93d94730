// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo bench --bench engine`: AES-256-XTS and programming a key, beside OpenSSL in the same run.
//!
//! The two take turns, so that a drift of the machine favours neither; medians of the rounds are printed. Look at the
//! ratios: absolute figures of a shared machine mean little.

use std::hint::black_box;
use std::time::{Duration, Instant};

use openssl::symm::{Cipher, Crypter, Mode};
use vhost_user_blk_crypto::crypto::{Dun, KEY_BYTES, XtsKey};
use vhost_user_blk_crypto::keyslot::{KeyConfig, KeyslotTable};

const ROUNDS: usize = 15;
/// Time of one measurement.
const SLICE: Duration = Duration::from_millis(40);
/// Bytes of a request; fits in the cache with room to spare.
const REQUEST: usize = 128 << 10;

/// Calls per second.
fn rate(mut action: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0u32;
    while start.elapsed() < SLICE {
        for _ in 0..8 {
            action();
        }
        calls += 8;
    }
    f64::from(calls) / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of two actions that take turns.
fn compare(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> (f64, f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.push(rate(&mut ours));
        b.push(rate(&mut theirs));
    }
    (median(a), median(b))
}

fn main() {
    let key: [u8; KEY_BYTES] = std::array::from_fn(|i| i as u8);
    let xts = XtsKey::new(&key);
    println!("AES-256-XTS, requests of {} KiB, one thread, GB/s", REQUEST >> 10);
    println!("{:>9} {:>9} {:>8} {:>8} {:>7}", "", "data unit", "ours", "OpenSSL", "ratio");
    for encrypt in [true, false] {
        for unit_bits in [9u8, 12, 16] {
            let unit = 1usize << unit_bits;
            let mut data = vec![0x5au8; REQUEST];
            let mut source = vec![0x5au8; REQUEST];
            let mut out = vec![0u8; unit + 16];
            let mode = if encrypt { Mode::Encrypt } else { Mode::Decrypt };
            let (ours, theirs) = compare(
                || {
                    let dun = Dun::new([7, 0, 0, 0]);
                    if encrypt {
                        xts.encrypt(dun, unit_bits, black_box(&mut data));
                    } else {
                        xts.decrypt(dun, unit_bits, black_box(&mut data));
                    }
                },
                || {
                    // OpenSSL's Rust binding can give a new tweak only with the key: the larger the data unit, the
                    // less that counts.
                    for (number, piece) in black_box(&mut source).chunks(unit).enumerate() {
                        let tweak = (number as u128).to_le_bytes();
                        let mut crypter =
                            Crypter::new(Cipher::aes_256_xts(), mode, &key, Some(&tweak)).expect("OpenSSL");
                        crypter.update(piece, &mut out).expect("OpenSSL");
                    }
                },
            );
            let gigabytes = |rate: f64| rate * REQUEST as f64 / 1e9;
            println!(
                "{:>9} {unit:>9} {:>8.2} {:>8.2} {:>7.2}",
                if encrypt { "encrypt" } else { "decrypt" },
                gigabytes(ours),
                gigabytes(theirs),
                ours / theirs
            );
        }
    }

    let table = KeyslotTable::new(32).expect("locked memory");
    let config = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };
    let mut slot = 0;
    let (program, expand) = compare(
        || {
            slot = (slot + 1) % 32;
            table.program(slot, black_box(&key), config).expect("slot");
        },
        || drop(black_box(XtsKey::new(black_box(&key)))),
    );
    println!("\nprogramming a keyslot: {:.0} ns, of which expanding the key: {:.0} ns", 1e9 / program, 1e9 / expand);
    let (acquire, _) = compare(|| drop(black_box(table.acquire(3))), || {});
    println!("taking and releasing a keyslot's key: {:.0} ns", 1e9 / acquire);
}
