// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tests the slot under a scheduler that chooses the next thread at every access to an atomic, a lock or a condition.
//! All of the slot's accesses are sequentially consistent, so this covers all that can happen. A lost wake-up shows as
//! a deadlock.
//!
//! `RUSTFLAGS=--cfg=shuttle cargo test --lib interleavings`

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use shuttle::future::block_on;
use shuttle::thread;

use super::slot::{KeyHandle, Slot};
use super::{Dun, Evicted, Implementation, KeyConfig, KeyslotTable, RecentKeys};
use scattered_xts::KEY_BYTES;

const CONFIG: KeyConfig = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };

/// A slot, and how many requests hold the key of each generation. The scheduler does not switch at these counters.
struct Watched {
    slot: Slot,
    holders: [AtomicU32; 8],
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self { slot: Slot::new(Implementation::Portable).expect("memory"), holders: Default::default() })
    }

    fn holders(&self, generation: u64) -> &AtomicU32 {
        &self.holders[generation as usize]
    }

    /// Programs a key whose bytes are its generation.
    fn program(&self, generation: u64) -> Evicted {
        let evicted = block_on(async {
            let mut claim = self.slot.claim().await;
            claim.publish(generation, &[generation as u8; KEY_BYTES], CONFIG);
            claim.drained().await
        });
        // Nobody may hold an older key.
        for old in 1..generation {
            assert_eq!(self.holders(old).load(Ordering::Relaxed), 0, "generation {old} is in use after {generation}");
        }
        evicted
    }

    fn evict(&self, newest: u64) -> Evicted {
        let evicted = block_on(async {
            let mut claim = self.slot.claim().await;
            claim.empty();
            claim.drained().await
        });
        for old in 1..=newest {
            assert_eq!(self.holders(old).load(Ordering::Relaxed), 0, "generation {old} is in use after an evict");
        }
        evicted
    }

    /// A request: takes the key, yields, uses it.
    fn request(&self) -> Option<u64> {
        let handle = self.slot.acquire()?;
        let generation = handle.generation();
        self.holders(generation).fetch_add(1, Ordering::Relaxed);
        assert_eq!(fingerprint(&handle), expected(generation));
        thread::yield_now();
        assert_eq!(fingerprint(&handle), expected(generation), "the key has changed under a request");
        self.holders(generation).fetch_sub(1, Ordering::Relaxed);
        Some(generation)
    }
}

fn fingerprint(handle: &KeyHandle<'_>) -> [u8; 16] {
    let mut block = [0; 16];
    handle.key().xts.encrypt_in_place(Dun::new([0; 4]), 4, &mut block);
    block
}

fn expected(generation: u64) -> [u8; 16] {
    thread_local! {
        static KNOWN: std::cell::RefCell<std::collections::HashMap<u64, [u8; 16]>> = std::cell::RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        *known.entry(generation).or_insert_with(|| {
            let mut block = [0; 16];
            let key = scattered_xts::XtsKey::new(Implementation::Portable, &[generation as u8; KEY_BYTES]);
            key.encrypt_in_place(Dun::new([0; 4]), 4, &mut block);
            block
        })
    })
}

/// One request beside one command.
fn one_of_each(command: fn(&Watched)) {
    let watched = Watched::new();
    watched.program(1);
    let request = thread::spawn({
        let watched = Arc::clone(&watched);
        move || watched.request()
    });
    command(&watched);
    assert!(matches!(request.join().expect("no panic"), None | Some(1 | 2)));
    watched.evict(2);
    assert_eq!(watched.slot.cells_in_use(), [false, false]);
}

fn busy() {
    let watched = Watched::new();
    let requests: Vec<_> = (0..2)
        .map(|_| {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let seen: Vec<_> = (0..3).filter_map(|_| watched.request()).collect();
                assert!(seen.is_sorted(), "an older key after a newer one: {seen:?}");
            })
        })
        .collect();
    for generation in [1, 2, 3] {
        watched.program(generation);
    }
    watched.evict(3);
    watched.program(4);
    requests.into_iter().for_each(|request| request.join().expect("no panic"));
    watched.evict(4);
    assert_eq!(watched.slot.cells_in_use(), [false, false]);
}

/// A worker that keeps its key between requests, beside commands.
fn kept() {
    let table = Arc::new(KeyslotTable::new(1, Implementation::Portable).expect("memory"));
    // The slot was evicted for good. The scheduler does not switch at this flag.
    let gone = Arc::new(AtomicBool::new(false));
    let worker = thread::spawn({
        let (table, gone) = (Arc::clone(&table), Arc::clone(&gone));
        move || {
            let mut recent = RecentKeys::new(Arc::clone(&table));
            let (mut last, mut keeps) = (0, false);
            for _ in 0..3 {
                assert!(!(keeps && gone.load(Ordering::Relaxed)), "evicted while the key was kept");
                keeps = false;
                let Some(handle) = recent.acquire(&table, 0).expect("slot") else { continue };
                let generation = handle.generation();
                assert!(generation >= last, "an older key after a newer one");
                last = generation;
                assert_eq!(fingerprint(&handle), expected(generation));
                thread::yield_now();
                assert_eq!(fingerprint(&handle), expected(generation), "the key has changed under a request");
                assert!(!gone.load(Ordering::Relaxed), "evicted under a request");
                recent.keep(0, handle);
                keeps = true;
                thread::yield_now();
            }
            assert!(!(keeps && gone.load(Ordering::Relaxed)), "evicted while the key was kept");
            recent.release_all();
        }
    });
    for generation in [1, 2] {
        block_on(async {
            let mut claim = table.claim(0).await.expect("slot");
            claim.publish(table.next_generation(), &[generation; KEY_BYTES], CONFIG);
            claim.drained().await
        });
    }
    assert_eq!(block_on(table.evict(0)), Ok(Evicted::Key));
    gone.store(true, Ordering::Relaxed);
    worker.join().expect("no panic");
}

/// Even one request and one command have millions of orders. This tries random ones, and those that need few switches
/// at certain places (PCT), which find most bugs of this kind.
fn orders(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, 10_000);
    for switches in 1..=4 {
        shuttle::check_pct(test, 3_000, switches);
    }
}

#[test]
fn a_request_and_an_evict() {
    orders(|| one_of_each(|watched| assert_eq!(watched.evict(1), Evicted::Key)));
}

#[test]
fn a_request_and_a_program() {
    orders(|| one_of_each(|watched| assert_eq!(watched.program(2), Evicted::Key)));
}

#[test]
fn a_worker_that_keeps_its_key() {
    orders(kept);
}

#[test]
fn many_requests_and_commands() {
    orders(busy);
}
