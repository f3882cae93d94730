// SPDX-License-Identifier: Apache-2.0 OR MIT

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use std::sync::Arc;

use pollster::block_on;

use super::*;
use scattered_xts::KEY_BYTES;

impl KeyslotTable {
    fn evict_now(&self, slot: u32) -> Result<Evicted, NoSuchSlot> {
        block_on(self.evict(slot))
    }

    fn clear_now(&self) -> usize {
        (0..self.slots.len()).filter(|&slot| self.evict_now(slot as u32) == Ok(Evicted::Key)).count()
    }

    fn is_in_use(&self, slot: u32) -> bool {
        self.slot(slot).is_ok_and(|slot| slot.is_in_use())
    }
}

const CONFIG: KeyConfig = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };

/// Encrypts a block of zeroes: tells keys apart.
fn fingerprint(key: &ProgrammedKey) -> [u8; 16] {
    let mut block = [0; 16];
    key.xts.encrypt_in_place(Dun::new([0; 4]), 4, &mut block);
    block
}

fn expected(byte: u8) -> [u8; 16] {
    fingerprint(&ProgrammedKey {
        xts: scattered_xts::XtsKey::new(Implementation::detect(), &[byte; KEY_BYTES]),
        config: CONFIG,
    })
}

/// Programs slot 0 in another thread, which sends a message when the command is complete.
fn program_second_key(table: &Arc<KeyslotTable>) -> (thread::JoinHandle<()>, mpsc::Receiver<()>) {
    let (done, finished) = mpsc::channel();
    let table = Arc::clone(table);
    let programmer = thread::spawn(move || {
        table.program_now(0, &[2; KEY_BYTES], CONFIG).expect("slot");
        done.send(()).expect("test is there");
    });
    (programmer, finished)
}

#[test]
fn slots_start_empty_and_out_of_range_is_an_error() {
    let table = KeyslotTable::new(2, Implementation::detect()).expect("table");
    assert!(table.acquire(0).expect("slot").is_none());
    assert!(table.acquire(1).expect("slot").is_none());
    assert_eq!(table.acquire(2).map(|_| ()), Err(NoSuchSlot));
    assert_eq!(table.acquire(u32::MAX).map(|_| ()), Err(NoSuchSlot));
    assert_eq!(table.evict_now(0), Ok(Evicted::Nothing));
    assert_eq!(table.evict_now(2), Err(NoSuchSlot));
    assert_eq!(table.program_now(2, &[1; KEY_BYTES], CONFIG), Err(NoSuchSlot));
}

#[test]
fn program_replace_evict_clear() {
    let table = KeyslotTable::new(3, Implementation::detect()).expect("table");
    assert_eq!(table.program_now(1, &[1; KEY_BYTES], CONFIG), Ok(Evicted::Nothing));
    assert_eq!(table.program_now(1, &[2; KEY_BYTES], CONFIG), Ok(Evicted::Key));
    let handle = table.acquire(1).expect("slot").expect("key");
    assert_eq!(fingerprint(handle.key()), expected(2));
    assert_eq!(handle.generation(), 2);
    drop(handle);
    assert_eq!(table.evict_now(1), Ok(Evicted::Key));
    assert!(table.acquire(1).expect("slot").is_none());
    for slot in 0..3 {
        table.program_now(slot, &[3; KEY_BYTES], CONFIG).expect("slot");
    }
    assert_eq!(table.clear_now(), 3);
    assert!((0..3).all(|slot| table.acquire(slot).expect("slot").is_none()));
}

/// Protocol, "Meaning": a request in flight keeps its key, and the command waits for it; new requests get the new key.
#[test]
fn programming_waits_for_requests_in_flight_and_does_not_change_them() {
    let table = Arc::new(KeyslotTable::new(1, Implementation::detect()).expect("table"));
    table.program_now(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    let in_flight = table.acquire(0).expect("slot").expect("key");
    let (programmer, finished) = program_second_key(&table);
    // The new key is there for new requests before the old one is released.
    let fresh = loop {
        let handle = table.acquire(0).expect("slot").expect("never empty while it is reprogrammed");
        if handle.generation() == 2 {
            break handle;
        }
        thread::yield_now();
    };
    assert!(finished.recv_timeout(Duration::from_millis(50)).is_err(), "program returned before the request");
    assert_eq!(fingerprint(in_flight.key()), expected(1));
    assert_eq!(fingerprint(fresh.key()), expected(2));
    assert!(fresh.is_current() && !in_flight.is_current());
    drop(in_flight);
    finished.recv_timeout(Duration::from_secs(10)).expect("program returns once the old key is free");
    programmer.join().expect("no panic");
    assert_eq!(fingerprint(fresh.key()), expected(2));
}

/// A worker checks this before it executes a command, because it would wait forever for its own requests. That includes
/// a command of another thread that waits for them (a reset of the engine), and a slot that is empty or has a new key
/// by then.
#[test]
fn a_slot_is_in_use_until_the_last_request_with_an_older_key_is_done() {
    for (command, new_key) in [(0, false), (1, true)] {
        let table = Arc::new(KeyslotTable::new(1, Implementation::detect()).expect("table"));
        table.program_now(0, &[1; KEY_BYTES], CONFIG).expect("slot");
        let in_flight = table.acquire(0).expect("slot").expect("key");
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || match command {
                0 => drop(table.clear_now()),
                _ => drop(table.program_now(0, &[2; KEY_BYTES], CONFIG)),
            }
        });
        // It has begun when the slot no longer names the old key.
        while table.acquire(0).expect("slot").map(|key| key.generation()) == Some(1) {
            thread::yield_now();
        }
        assert_eq!(table.acquire(0).expect("slot").is_some(), new_key);
        assert!(table.is_in_use(0));
        drop(in_flight);
        other.join().expect("no panic");
        assert!(!table.is_in_use(0));
    }
}

/// A worker that keeps keys holds their slots as a request does, and never uses an old key.
#[test]
fn a_kept_key_is_used_again_as_long_as_the_slot_holds_it() {
    let table = Arc::new(KeyslotTable::new(20, Implementation::detect()).expect("table"));
    table.program_now(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    let mut recent = RecentKeys::new(Arc::clone(&table));
    let acquire = |recent: &mut RecentKeys, slot| {
        let key = recent.acquire(&table, slot).expect("slot").expect("key");
        let generation = key.generation();
        recent.keep(slot, key);
        generation
    };
    assert_eq!((acquire(&mut recent, 0), acquire(&mut recent, 0)), (1, 1));
    assert!(table.is_in_use(0) && !table.is_in_use(1));
    let (programmer, finished) = program_second_key(&table);
    // The command waits, but nobody gets the old key.
    while acquire(&mut recent, 0) == 1 {
        thread::yield_now();
    }
    finished.recv().expect("the old key was let go when it was not current any more");
    programmer.join().expect("no panic");
    recent.release_all();
    assert!(!table.is_in_use(0));
    assert_eq!(table.evict_now(0), Ok(Evicted::Key));
    assert!(recent.acquire(&table, 0).expect("slot").is_none());
    assert_eq!(recent.acquire(&table, 99).map(|_| ()), Err(NoSuchSlot));
    // Few slots are held, however many are used in turn.
    for slot in 0..20 {
        table.program_now(slot, &[3; KEY_BYTES], CONFIG).expect("slot");
        acquire(&mut recent, slot);
        assert_eq!((0..20).filter(|&slot| table.is_in_use(slot)).count() as u32, slot % 8 + 1);
    }
    drop(recent);
    assert_eq!(table.clear_now(), 20);
}

/// The same slot of another device has the same state, but another key.
#[test]
fn a_key_of_another_table_is_neither_kept_nor_taken_for_a_kept_one() {
    let table = |byte| {
        let table = Arc::new(KeyslotTable::new(1, Implementation::detect()).expect("table"));
        table.program_now(0, &[byte; KEY_BYTES], CONFIG).expect("slot");
        table
    };
    let (own, other) = (table(1), table(2));
    let mut recent = RecentKeys::new(Arc::clone(&own));
    for _ in 0..2 {
        let key = recent.acquire(&other, 0).expect("slot").expect("key");
        assert_eq!(fingerprint(key.key()), expected(2));
        recent.keep(0, key);
        assert!(!other.is_in_use(0));
        let key = recent.acquire(&own, 0).expect("slot").expect("key");
        assert_eq!(fingerprint(key.key()), expected(1));
        recent.keep(0, key);
    }
}

#[test]
fn evict_waits_for_requests_in_flight() {
    let table = Arc::new(KeyslotTable::new(1, Implementation::detect()).expect("table"));
    table.program_now(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    let in_flight = table.acquire(0).expect("slot").expect("key");
    let evictor = thread::spawn({
        let table = Arc::clone(&table);
        move || table.evict_now(0)
    });
    while table.acquire(0).expect("slot").is_some() {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(20));
    assert!(!evictor.is_finished());
    assert_eq!(fingerprint(in_flight.key()), expected(1));
    drop(in_flight);
    assert_eq!(evictor.join().expect("no panic"), Ok(Evicted::Key));
}

/// Two commands for one slot come one after the other.
#[test]
fn a_slot_is_claimed_by_one_command_at_a_time() {
    use std::task::{Context, Poll, Waker};
    let table = KeyslotTable::new(2, Implementation::detect()).expect("table");
    let mut context = Context::from_waker(Waker::noop());
    let first = block_on(table.claim(0)).expect("slot");
    let mut second = std::pin::pin!(table.claim(0));
    for _ in 0..3 {
        assert!(second.as_mut().poll(&mut context).is_pending());
    }
    drop(block_on(table.claim(1)).expect("another slot"));
    drop(first);
    assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
}

/// Whatever the interleaving, a handle shows one of the keys that were programmed, whole.
#[test]
fn keys_are_never_torn_under_contention() {
    let table = Arc::new(KeyslotTable::new(1, Implementation::detect()).expect("table"));
    let keys: Vec<_> = (0..4u8).map(expected).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(handle) = table.acquire(0).expect("slot") {
                        let seen = fingerprint(handle.key());
                        assert!(keys.contains(&seen));
                        assert_eq!(fingerprint(handle.key()), seen);
                    }
                }
            });
        }
        for round in 0..if cfg!(miri) { 30 } else { 20_000u32 } {
            match round % 5 {
                4 => drop(table.evict_now(0)),
                byte => drop(table.program_now(0, &[byte as u8; KEY_BYTES], CONFIG)),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// The cell of an evicted or replaced key holds nothing of it.
#[test]
#[cfg_attr(miri, ignore = "it looks at padding, which Miri takes for unwritten")]
fn keys_are_wiped_when_they_go() {
    let table = KeyslotTable::new(1, Implementation::detect()).expect("table");
    let slot = &table.slots[0];
    table.program_now(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    table.program_now(0, &[2; KEY_BYTES], CONFIG).expect("slot");
    assert_eq!(slot.cells_in_use(), [false, true]);
    table.evict_now(0).expect("slot");
    assert_eq!(slot.cells_in_use(), [false, false]);
}

#[test]
fn a_handle_prints_no_key() {
    let table = KeyslotTable::new(1, Implementation::detect()).expect("table");
    table.program_now(0, &[0xa5; KEY_BYTES], CONFIG).expect("slot");
    let handle = table.acquire(0).expect("slot").expect("key");
    assert_eq!(format!("{handle:?}"), "KeyHandle { generation: 1, .. }");
    assert_eq!(format!("{:?}", handle.key().xts), "XtsKey([redacted])");
}

#[test]
fn transfers_are_whole_data_units_with_duns_that_fit() {
    let dun = |low| Dun::new([low, 0, 0, 0]);
    let config = KeyConfig { data_unit_bits: 12, dun_bytes: 4 };
    assert_eq!(config.check(dun(0), 4096), Ok(1));
    assert_eq!(config.check(dun(0), 0), Err(TransferError::Length));
    assert_eq!(config.check(dun(0), 512), Err(TransferError::Length));
    assert_eq!(config.check(dun(0), 4096 + 512), Err(TransferError::Length));
    assert_eq!(config.check(dun(u32::MAX.into()), 4096), Ok(1));
    assert_eq!(config.check(dun(u32::MAX.into()), 8192), Err(TransferError::Dun));
    assert_eq!(config.check(dun(1 << 32), 4096), Err(TransferError::Dun));
    let widest = KeyConfig { data_unit_bits: 9, dun_bytes: 32 };
    assert_eq!(widest.check(Dun::new([u64::MAX; 4]), 512), Ok(1));
    assert_eq!(widest.check(Dun::new([u64::MAX; 4]), 1024), Err(TransferError::Dun));
}

/// Around every edge, with 256-bit numbers as bytes.
#[test]
fn duns_fit_around_every_edge() {
    for dun_bytes in 1..=32u8 {
        for before_edge in 0..6u64 {
            // 2^(8 * dun_bytes) - 1 - before_edge, so `before_edge + 1` data units fit, and no more.
            let mut bytes = [0u8; 32];
            bytes.iter_mut().take(dun_bytes.into()).for_each(|byte| *byte = 0xff);
            bytes[0] -= before_edge as u8;
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[8 * at + i]));
            let dun = Dun::new([word(0), word(1), word(2), word(3)]);
            for data_unit_bits in 9..=16 {
                let config = KeyConfig { data_unit_bits, dun_bytes };
                for units in 1..10u64 {
                    let expected = if units <= before_edge + 1 { Ok(units) } else { Err(TransferError::Dun) };
                    assert_eq!(
                        config.check(dun, units << data_unit_bits),
                        expected,
                        "{dun_bytes} {before_edge} {units}"
                    );
                    assert_eq!(config.check(dun, (units << data_unit_bits) - 1), Err(TransferError::Length));
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Program,
    Evict,
    Clear,
    Acquire,
    Release,
}

/// Every sequence of six steps on one slot, against a model of two variables. The interleavings test covers commands
/// that would wait.
#[test]
fn every_sequence_of_six_steps() {
    const STEPS: [Step; 5] = [Step::Program, Step::Evict, Step::Clear, Step::Acquire, Step::Release];
    let length = if cfg!(miri) { 3 } else { 6 };
    for mut number in 0..STEPS.len().pow(length) {
        let table = KeyslotTable::new(1, Implementation::Portable).expect("table");
        let (mut key, mut programmed) = (None, 0);
        let mut handles = Vec::new();
        for _ in 0..length {
            let step = STEPS[number % STEPS.len()];
            number /= STEPS.len();
            let evicted = if key.is_some() { Evicted::Key } else { Evicted::Nothing };
            match step {
                Step::Program | Step::Evict | Step::Clear if !handles.is_empty() => continue,
                Step::Program => {
                    programmed += 1;
                    assert_eq!(table.program_now(0, &[programmed as u8; KEY_BYTES], CONFIG), Ok(evicted));
                    key = Some(programmed);
                }
                Step::Evict => assert_eq!(table.evict_now(0), Ok(evicted)),
                Step::Clear => assert_eq!(table.clear_now(), usize::from(key.is_some())),
                Step::Acquire => {
                    let handle = table.acquire(0).expect("slot");
                    assert_eq!(handle.as_ref().map(KeyHandle::generation), key);
                    handles.extend(handle);
                }
                Step::Release => drop(handles.pop()),
            }
            if matches!(step, Step::Evict | Step::Clear) {
                key = None;
            }
            if cfg!(not(miri)) {
                // It reads padding, which Miri takes for uninitialised.
                let cells = table.slots[0].cells_in_use();
                assert_eq!(cells.iter().filter(|used| **used).count(), usize::from(key.is_some()), "one key, or none");
            }
        }
    }
}
