// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whatever a driver sends: no head is lost, and heads taken before a queue broke are returned. The guest cases `13?-*`
//! do the same from a real guest.

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::*;
use test_driver::{Descriptor, INDIRECT, NEXT, WRITE};
use vhost_user_blk_crypto::disk::Aio;
use vm_memory::{Bytes, GuestAddress};

/// Where attacks have their descriptors and data: behind the rings' memory.
const PLACE: u64 = MEMORY_START + (100 << 20);
/// Bytes there that the device may overwrite in a race.
const PLACE_BYTES: u64 = 8 << 20;

fn put(guest: &Guest, queue: usize, table: Option<u64>, index: u16, descriptor: (u64, u32, u16, u16)) {
    let (address, len, flags, next) = descriptor;
    let ring = &guest.rings[queue];
    let table = table.unwrap_or(ring.descriptors);
    ring.write_descriptor(table, index, Descriptor { address, len, flags, next });
}

/// Puts all heads of the queue in flight at once, which shows that none was lost. Each returns once. Two rounds of the
/// ring.
fn all_heads_work(guest: &mut Guest, queue: usize) {
    let size = guest.rings[queue].size;
    let table = PLACE + PLACE_BYTES;
    for _ in 0..2 {
        guest.memory.write_slice(&header(99, 0), GuestAddress(table + 32)).expect("header");
        put(guest, queue, Some(table), 0, (table + 32, 16, NEXT, 1));
        put(guest, queue, Some(table), 1, (table + 48, 1, WRITE, 0));
        for head in 0..size {
            put(guest, queue, None, head, (table, 32, INDIRECT, 0));
            guest.rings[queue].publish(head);
        }
        guest.rings[queue].kick();
        let returned: HashSet<(u16, u32)> = (0..size).map(|_| guest.rings[queue].wait()).collect();
        let all: HashSet<(u16, u32)> = (0..size).map(|head| (head, 1)).collect();
        assert_eq!(returned, all);
    }
}

/// Requests that the device must refuse: readable bytes, and room to write.
fn nonsense(control: bool) -> Vec<(Vec<u8>, usize)> {
    let program = Program::new(0, &key(1), 12);
    let whole = if control { program.bytes() } else { crypto_write(0, 3, [0; 4], &[1; 4096]) };
    let mut requests: Vec<_> = (0..57).flat_map(|len| [0, 1, 513].map(|room| (whole[..len].to_vec(), room))).collect();
    // Every chain has a descriptor.
    requests.retain(|(bytes, room)| bytes.len() + room > 0);
    if control {
        requests.extend([0, 27, 28, 36, u32::MAX].map(|request_type| (header(request_type, 0), 1)));
        for program in [
            Program { slot: u32::MAX, ..program.clone() },
            Program { key_size: u32::MAX, ..program.clone() },
            Program { unit_bits: u32::MAX, ..program.clone() },
            Program { dun_bytes: 0, ..program.clone() },
            Program { mode: u32::MAX, ..program.clone() },
            Program { key_type: 2, ..program },
        ] {
            requests.push((program.bytes(), 1));
        }
        return requests;
    }
    for request_type in [IN, CRYPTO_IN, OUT, CRYPTO_OUT] {
        for sector in [1 << 14, u64::MAX, u64::MAX - 1, 1 << 55] {
            requests.push((crypto_header(request_type, sector, 0, [u64::MAX; 4]), 4097));
        }
        requests.push((crypto_header(request_type, 0, u32::MAX, [0; 4]), 4097));
        requests.push((crypto_header(request_type, 0, 3, [0; 4]), 514));
    }
    for request_type in [DISCARD, WRITE_ZEROES] {
        for ranges in [vec![], vec![0; 15], range(u64::MAX, 8, 0), range(0, u32::MAX, 0), vec![0; 65 * 16]] {
            requests.push(([header(request_type, 0), ranges].concat(), 1));
        }
    }
    requests.push((program.bytes(), 1));
    requests.push((header(GET_ID, 0), 1));
    requests
}

#[test]
fn no_head_is_lost_to_nonsense() {
    let mut guest = Guest::new();
    guest.request(0, &write_request(0, &[7; 4096]), 1).assert_only_status(OK);
    for queue in [0, guest.control()] {
        for (bytes, room) in nonsense(queue == guest.control()) {
            for indirect in [false, true] {
                guest.request_cut(queue, &bytes, room, &Cut { indirect, ..Cut::default() });
            }
        }
        all_heads_work(&mut guest, queue);
    }
    assert_eq!(guest.stat("events.broken_queue"), 0);
    assert_eq!(guest.image_bytes(0, 4096), [7; 4096]);
}

/// An empty descriptor does not end a chain, and is neither a status nor a header.
#[test]
fn descriptors_of_no_bytes() {
    let mut guest = Guest::new();
    for chain in [
        vec![(0, 0, 0)],
        vec![(0, 0, WRITE)],
        vec![(PLACE, 0, 0), (PLACE, 0, WRITE)],
        vec![(PLACE, 16, 0), (PLACE, 0, WRITE), (PLACE, 0, WRITE)],
        vec![(PLACE, 0, 0), (PLACE, 512, WRITE), (PLACE, 0, WRITE)],
    ] {
        for (index, &(address, len, flags)) in chain.iter().enumerate() {
            let next = if index + 1 < chain.len() { NEXT } else { 0 };
            put(&guest, 0, None, index as u16, (address, len, flags | next, index as u16 + 1));
        }
        guest.rings[0].publish(0);
        guest.rings[0].kick();
        assert_eq!(guest.rings[0].wait(), (0, 0), "{chain:?}");
    }
    all_heads_work(&mut guest, 0);
}

/// The disk has requests when the queue breaks: these return, and nothing else. After a reset, all heads work.
#[test]
fn what_waits_for_the_disk_comes_back_from_a_broken_queue() {
    const BROKEN: u16 = 60;
    for disk in [DiskKind::File(Aio::Sync), DiskKind::File(Aio::Threads), DiskKind::Memory] {
        let mut guest = Guest::with(Options { disk, ..Options::default() });
        let good: HashSet<u16> = (0..20)
            .map(|n| {
                let request = if n % 4 == 0 { header(FLUSH, 0) } else { write_request(n * 8, &[1; 4096]) };
                guest.rings[0].add(&request, 1).head
            })
            .collect();
        // A loop, in a descriptor that no request uses.
        put(&guest, 0, None, BROKEN, (PLACE, 16, NEXT, BROKEN));
        guest.rings[0].publish(BROKEN);
        // A request after the broken chain. The device may have taken it together with that chain.
        let after = guest.rings[0].add(&header(99, 0), 1);
        guest.rings[0].kick();
        let mut heads = HashSet::new();
        let until = Instant::now() + ring::PATIENCE;
        while (!good.is_subset(&heads) || !heads.contains(&BROKEN)) && Instant::now() < until {
            if let Some((head, used)) = guest.rings[0].take_used() {
                assert!(heads.insert(head), "head {head} comes back twice");
                assert_eq!(used, u32::from(head != BROKEN));
            }
        }
        heads.remove(&after.head);
        assert_eq!(heads.len(), good.len() + 1, "{disk:?}");
        guest.restart();
        all_heads_work(&mut guest, 0);
    }
}

/// The driver makes the device write the disk's data over the rings. If that breaks a ring, its queue stops.
#[test]
fn data_over_the_rings() {
    for (what, breaks) in [("descriptors", true), ("available", true), ("index", true), ("used", false)] {
        let mut guest = Guest::new();
        guest.request(0, &write_request(0, &[0xff; 4096]), 1).assert_only_status(OK);
        let ring = &guest.rings[0];
        let data = match what {
            "descriptors" => (ring.descriptors, 1024, NEXT | WRITE, 2),
            "available" => (ring.avail, 512, NEXT | WRITE, 2),
            // The status overwrites the driver's index.
            "index" => (ring.avail + 2, 1, WRITE, 0),
            _ => (ring.used, 1024, NEXT | WRITE, 2),
        };
        let request_type = if what == "index" { FLUSH } else { IN };
        guest.memory.write_slice(&header(request_type, 0), GuestAddress(PLACE)).expect("header");
        put(&guest, 0, None, 0, (PLACE, 16, NEXT, 1));
        put(&guest, 0, None, 1, data);
        put(&guest, 0, None, 2, (PLACE + 16, 1, WRITE, 0));
        guest.rings[0].publish(0);
        guest.rings[0].kick();
        // The device may overwrite the used index for a moment.
        let until = Instant::now() + ring::PATIENCE;
        while guest.rings[0].used_index() != 2 {
            assert!(Instant::now() < until, "{what}: not answered");
        }
        assert_eq!(guest.rings[0].take_used().map(|(head, _)| head), Some(0), "{what}");
        if what == "descriptors" {
            guest.rings[0].publish(1);
            guest.rings[0].kick();
            assert_eq!(guest.rings[0].wait(), (1, 0));
        }
        while breaks && guest.stat("events.broken_queue") == 0 {
            assert!(Instant::now() < until, "{what}: the queue goes on");
            std::thread::yield_now();
        }
        if !breaks {
            all_heads_work(&mut guest, 0);
        }
        guest.request(1, &write_request(8, &[1; 512]), 1).assert_only_status(OK);
        guest.restart();
        all_heads_work(&mut guest, 0);
    }
}

/// Descriptors, tables, headers and the available ring change while the device uses them. Queue 1 works all the time.
fn race(disk: DiskKind, seed: u64) {
    let mut guest = Guest::with(Options { disk, ..Options::default() });
    let (memory, stop) = (guest.memory.clone(), AtomicBool::new(false));
    let (descriptors, avail, size) = (guest.rings[0].descriptors, guest.rings[0].avail, guest.rings[0].size);
    let control = guest.control();
    let mut served = 0u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = machine::random(seed);
            // What the device writes must not hit the other rings.
            let mut address = move || match random(200) {
                0 => u64::MAX - 100,
                1 => 0,
                n => PLACE + n * 16384,
            };
            let mut random = machine::random(seed + 1);
            while !stop.load(Ordering::Relaxed) {
                let at = [descriptors, PLACE][random(2) as usize] + 16 * random(u64::from(size));
                let place = at / 16 % 8;
                match random(6) {
                    0 => memory.write_obj(address(), GuestAddress(at)),
                    1 => memory.write_obj([0u32, 1, 16, 56, 512, 513, 65536][random(7) as usize], GuestAddress(at + 8)),
                    2 => {
                        let next = if place < 6 { NEXT * u16::from(random(3) > 0) } else { 0 };
                        let table = if place == 7 { INDIRECT } else { 0 };
                        let write = WRITE * u16::from((4..7).contains(&place) ^ (random(300) == 0));
                        memory.write_obj(next | table | write, GuestAddress(at + 12))
                    }
                    3 => memory.write_obj(at as u16 / 16 % size + 1, GuestAddress(at + 14)),
                    4 => memory
                        .write_obj([0u32, 1, 4, 8, 27, 28, 29, 30][random(8) as usize], GuestAddress(address() & !1)),
                    _ if random(1000) == 0 => {
                        memory.write_obj(random(70) as u16, GuestAddress(avail + 4 + 2 * random(u64::from(size))))
                    }
                    _ => Ok(()),
                }
                // The addresses outside are for descriptors only.
                .unwrap_or_default();
            }
        });
        let mut random = machine::random(seed + 2);
        let until = Instant::now() + Duration::from_millis(700);
        while Instant::now() < until {
            let broken = guest.stat("events.broken_queue");
            let mut in_flight = HashSet::new();
            let round = Instant::now() + Duration::from_millis(50);
            while guest.stat("events.broken_queue") == broken && Instant::now() < round {
                let head = random(u64::from(size)) as u16;
                if in_flight.insert(head) || random(5000) == 0 {
                    guest.rings[0].publish(head);
                    guest.rings[0].kick();
                }
                while let Some((head, _)) = guest.rings[0].take_used() {
                    in_flight.remove(&head);
                    served += 1;
                }
            }
            let plain = pattern(served, 4096);
            guest.request(control, &Program::new(3, &key(1), 12).bytes(), 1).assert_only_status(OK);
            guest.request(1, &crypto_write(8192, 3, [9, 0, 0, 0], &plain), 1).assert_only_status(OK);
            let found = guest.request(1, &header(IN, 8192), 4097).data;
            assert!(found == openssl_xts(&key(1), 9, 4096, &plain));
            guest.restart();
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{disk:?}, seed {seed}: {served} heads, {} queues broken", guest.stat("events.broken_queue"));
    assert!(served > 0);
    guest.restart();
    for queue in [0, 1, control] {
        all_heads_work(&mut guest, queue);
    }
}

#[test]
fn rings_that_change_under_the_device() {
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("time").as_nanos() as u64;
    for disk in [DiskKind::File(Aio::Sync), DiskKind::File(Aio::Threads), DiskKind::Memory] {
        race(disk, seed);
    }
}
