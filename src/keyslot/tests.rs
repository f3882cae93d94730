// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

const CONFIG: KeyConfig = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };

/// Encrypts a block of zeroes: tells keys apart.
fn fingerprint(key: &ProgrammedKey) -> [u8; 16] {
    let mut block = [0; 16];
    key.xts.encrypt(Dun::new([0; 4]), 4, &mut block);
    block
}

fn expected(byte: u8) -> [u8; 16] {
    fingerprint(&ProgrammedKey {
        xts: crate::crypto::XtsKey::new(Engine::detect(), &[byte; KEY_BYTES]),
        config: CONFIG,
    })
}

#[test]
fn slots_start_empty_and_out_of_range_is_an_error() {
    let table = KeyslotTable::new(2, Engine::detect()).expect("table");
    assert!(table.acquire(0).expect("slot").is_none());
    assert!(table.acquire(1).expect("slot").is_none());
    assert_eq!(table.acquire(2).map(|_| ()), Err(NoSuchSlot));
    assert_eq!(table.acquire(u32::MAX).map(|_| ()), Err(NoSuchSlot));
    assert_eq!(table.evict(0), Ok(Evicted::Nothing));
    assert_eq!(table.evict(2), Err(NoSuchSlot));
    assert_eq!(table.program(2, &[1; KEY_BYTES], CONFIG), Err(NoSuchSlot));
}

#[test]
fn program_replace_evict_clear() {
    let table = KeyslotTable::new(3, Engine::detect()).expect("table");
    assert_eq!(table.program(1, &[1; KEY_BYTES], CONFIG), Ok(Evicted::Nothing));
    assert_eq!(table.program(1, &[2; KEY_BYTES], CONFIG), Ok(Evicted::Key));
    let handle = table.acquire(1).expect("slot").expect("key");
    assert_eq!(fingerprint(handle.key()), expected(2));
    assert_eq!(handle.generation(), 2);
    drop(handle);
    assert_eq!(table.evict(1), Ok(Evicted::Key));
    assert!(table.acquire(1).expect("slot").is_none());
    for slot in 0..3 {
        table.program(slot, &[3; KEY_BYTES], CONFIG).expect("slot");
    }
    assert_eq!(table.clear(), 3);
    assert!((0..3).all(|slot| table.acquire(slot).expect("slot").is_none()));
}

/// Protocol, "Meaning": a request in flight keeps its key, and the command waits for it; new requests get the new key.
#[test]
fn programming_waits_for_requests_in_flight_and_does_not_change_them() {
    let table = Arc::new(KeyslotTable::new(1, Engine::detect()).expect("table"));
    table.program(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    let in_flight = table.acquire(0).expect("slot").expect("key");
    let (done, finished) = mpsc::channel();
    let programmer = thread::spawn({
        let table = Arc::clone(&table);
        move || {
            table.program(0, &[2; KEY_BYTES], CONFIG).expect("slot");
            done.send(()).expect("test is there");
        }
    });
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
    drop(in_flight);
    finished.recv_timeout(Duration::from_secs(10)).expect("program returns once the old key is free");
    programmer.join().expect("no panic");
    assert_eq!(fingerprint(fresh.key()), expected(2));
}

#[test]
fn evict_waits_for_requests_in_flight() {
    let table = Arc::new(KeyslotTable::new(1, Engine::detect()).expect("table"));
    table.program(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    let in_flight = table.acquire(0).expect("slot").expect("key");
    let evictor = thread::spawn({
        let table = Arc::clone(&table);
        move || table.evict(0)
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

/// Whatever the interleaving, a handle shows one of the keys that were programmed, whole.
#[test]
fn keys_are_never_torn_under_contention() {
    let table = Arc::new(KeyslotTable::new(1, Engine::detect()).expect("table"));
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
        for round in 0..20_000u32 {
            match round % 5 {
                4 => drop(table.evict(0)),
                byte => drop(table.program(0, &[byte as u8; KEY_BYTES], CONFIG)),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// The cell of an evicted or replaced key holds nothing of it.
#[test]
fn keys_are_wiped_when_they_go() {
    let table = KeyslotTable::new(1, Engine::detect()).expect("table");
    let slot = &table.slots[0];
    table.program(0, &[1; KEY_BYTES], CONFIG).expect("slot");
    table.program(0, &[2; KEY_BYTES], CONFIG).expect("slot");
    assert_eq!(slot.cells_in_use(), [false, true]);
    table.evict(0).expect("slot");
    assert_eq!(slot.cells_in_use(), [false, false]);
}

#[test]
fn a_handle_prints_no_key() {
    let table = KeyslotTable::new(1, Engine::detect()).expect("table");
    table.program(0, &[0xa5; KEY_BYTES], CONFIG).expect("slot");
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
