// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Faults: each does what `docs/faults.md` says, to the requests that it applies to, until it is cleared.

mod common;

use std::time::{Duration, Instant};

use common::ring::Buffers;
use common::*;
use test_driver::WRITE;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};

fn add(guest: &Guest, spec: &str) -> u64 {
    guest.device.faults().add(spec).unwrap_or_else(|error| panic!("{spec}: {error}"))
}

fn clear(guest: &Guest) {
    guest.device.faults().clear(None).expect("clear");
    assert!(guest.device.faults().list().is_empty());
}

fn write(guest: &mut Guest, sector: u64, seed: u64) -> u8 {
    let answer = guest.request(0, &write_request(sector, &pattern(seed, 4096)), 1);
    answer.assert_only_status(answer.status);
    answer.status
}

fn program(guest: &mut Guest, slot: u32, seed: u64) -> u8 {
    let control = guest.control();
    guest.request(control, &Program::new(slot, &key(seed), 12).bytes(), 1).status
}

fn crypto_status(guest: &mut Guest, slot: u32) -> u8 {
    guest.request(0, &crypto_write(0, slot, [0; 4], &[1; 4096]), 1).status
}

/// Makes a request available that may not complete.
fn submit(guest: &mut Guest, queue: usize, readable: &[u8], writable: usize) -> Buffers {
    let ring = &mut guest.rings[queue];
    let buffers = ring.add(readable, writable);
    ring.kick();
    buffers
}

/// The next completed request.
fn next(guest: &mut Guest, queue: usize) -> u16 {
    guest.rings[queue].wait().0
}

fn status(guest: &Guest, queue: usize, buffers: &Buffers) -> u8 {
    *guest.rings[queue].read_writable(buffers).last().expect("a status")
}

#[test]
fn errors_strike_what_they_are_limited_to_and_nothing_is_done() {
    let mut guest = Guest::new();
    add(&guest, "io-error,op=write,sector=8-15,nth=2,count=2");
    let statuses: Vec<_> = (0..5).map(|i| write(&mut guest, 8, i)).collect();
    assert_eq!(statuses, [OK, IOERR, IOERR, OK, OK]);
    assert_eq!(guest.image_bytes(4096, 4096), pattern(4, 4096));
    // The fault does not strike other writes, or reads.
    assert_eq!((write(&mut guest, 0, 9), write(&mut guest, 16, 9)), (OK, OK));
    assert_eq!(guest.request(0, &header(IN, 8), 4097).status, OK);
    let list = guest.device.faults().list();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].matched, list[0].struck), (5, 2));
    assert_eq!(list[0].spec, "io-error,op=write,sector=8-15,nth=2,count=2");
    assert_eq!((guest.stat("events.fault"), guest.stat("requests.failed")), (2, 2));

    // A failed request changes nothing.
    clear(&guest);
    add(&guest, "io-error,op=write");
    assert_eq!(write(&mut guest, 8, 77), IOERR);
    assert_eq!(guest.image_bytes(4096, 4096), pattern(4, 4096));
    let id = add(&guest, "io-error,op=read");
    guest.request(0, &header(IN, 8), 4097).assert_only_status(IOERR);
    assert_eq!(guest.device.faults().clear(Some(id)), Ok(1));
    assert!(guest.device.faults().clear(Some(id)).is_err());
    assert_eq!(guest.request(0, &header(IN, 8), 4097).data, pattern(4, 4096));
}

/// All but secure erase, which no image file has.
#[test]
fn errors_of_every_operation() {
    let requests = [
        ("read", header(IN, 0), 4097),
        ("write", write_request(0, &[1; 4096]), 1),
        ("flush", header(FLUSH, 0), 1),
        ("discard", [header(DISCARD, 0), range(0, 8, 0)].concat(), 1),
        ("write-zeroes", [header(WRITE_ZEROES, 0), range(0, 8, 0)].concat(), 1),
    ];
    let mut guest = Guest::new();
    assert_eq!(write(&mut guest, 0, 1), OK);
    for (op, _, _) in &requests {
        let id = add(&guest, &format!("io-error,op={op}"));
        for (other, request, writable) in &requests {
            if other == op {
                guest.request(0, request, *writable).assert_only_status(IOERR);
            }
        }
        assert_eq!(guest.image_bytes(0, 4096), pattern(1, 4096), "{op} did something");
        guest.device.faults().clear(Some(id)).expect("clear");
    }
    for (op, request, writable) in &requests {
        let others: Vec<_> = requests.iter().map(|(other, ..)| *other).filter(|other| other != op).collect();
        add(&guest, &format!("io-error,op={}", others.join("+")));
        assert_eq!(guest.request(0, request, *writable).status, OK, "{op}");
        clear(&guest);
    }
}

#[test]
fn queues_and_times() {
    let mut guest = Guest::new();
    add(&guest, "io-error,queue=1");
    assert_eq!(guest.request(0, &header(FLUSH, 0), 1).status, OK);
    assert_eq!(guest.request(1, &header(FLUSH, 0), 1).status, IOERR);
    clear(&guest);
    let begin = Instant::now();
    add(&guest, "io-error,after=200ms");
    let first = guest.request(0, &header(FLUSH, 0), 1).status;
    assert!(first == OK || begin.elapsed() >= Duration::from_millis(200));
    std::thread::sleep(Duration::from_millis(201));
    assert_eq!(guest.request(0, &header(FLUSH, 0), 1).status, IOERR);
}

#[test]
fn chance_is_the_same_for_the_same_seed() {
    let run = |spec: &str| -> Vec<u8> {
        let mut guest = Guest::new();
        add(&guest, spec);
        (0..100).map(|_| guest.request(0, &header(FLUSH, 0), 1).status).collect()
    };
    let first = run("io-error,op=flush,probability=0.3,seed=7");
    assert_eq!(first, run("io-error,op=flush,probability=0.3,seed=7"));
    assert_ne!(first, run("io-error,op=flush,probability=0.3,seed=8"));
    let failed = first.iter().filter(|&&status| status == IOERR).count();
    assert!((15..45).contains(&failed), "{failed} of 100");
}

#[test]
fn delayed_requests_are_overtaken() {
    let mut guest = Guest::new();
    add(&guest, "delay=150ms,op=write,sector=0");
    let begin = Instant::now();
    let slow = submit(&mut guest, 0, &write_request(0, &pattern(1, 4096)), 1);
    let quick = submit(&mut guest, 0, &write_request(8, &pattern(2, 4096)), 1);
    assert_eq!(next(&mut guest, 0), quick.head);
    assert!(begin.elapsed() < Duration::from_millis(150), "the machine is too slow for this test");
    assert_eq!(next(&mut guest, 0), slow.head);
    assert!(begin.elapsed() >= Duration::from_millis(150));
    assert_eq!((status(&guest, 0, &slow), status(&guest, 0, &quick)), (OK, OK));
    assert_eq!(guest.image_bytes(0, 4096), pattern(1, 4096));
    clear(&guest);
    let begin = Instant::now();
    assert_eq!(write(&mut guest, 0, 3), OK);
    assert!(begin.elapsed() < Duration::from_millis(150));
}

/// Neither a long delay nor a stuck request holds up a frontend that stops a queue, changes the memory or disconnects.
#[test]
fn stopping_a_queue_ends_delays() {
    let mut guest = Guest::new();
    add(&guest, "delay=3600s,op=write");
    let begin = Instant::now();
    let delayed = submit(&mut guest, 0, &write_request(0, &pattern(1, 4096)), 1);
    guest.rings[0].assert_silent();
    guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
    assert_eq!(next(&mut guest, 0), delayed.head);
    assert_eq!(status(&guest, 0, &delayed), OK);
    submit(&mut guest, 1, &write_request(0, &pattern(1, 4096)), 1);
    guest.rings[1].assert_silent();
    guest.disconnect();
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn reordered_requests_come_back_in_reverse() {
    let mut guest = Guest::new();
    add(&guest, "reorder=4,op=write");
    let buffers: Vec<_> = (0..4).map(|i| submit(&mut guest, 0, &write_request(8 * i, &pattern(i, 4096)), 1)).collect();
    let order: Vec<_> = (0..4).map(|_| next(&mut guest, 0)).collect();
    let reverse: Vec<_> = buffers.iter().rev().map(|buffers| buffers.head).collect();
    // On a slow machine the wait for the fourth may have timed out. Then the others completed in reverse order.
    assert!(order == reverse || order.windows(2).any(|pair| pair[0] == buffers[1].head), "{order:?}");
    for (i, buffers) in buffers.iter().enumerate() {
        assert_eq!(status(&guest, 0, buffers), OK);
        assert_eq!(guest.image_bytes(4096 * i as u64, 4096), pattern(i as u64, 4096));
    }
    // A single request waits for others in vain, but not for ever.
    let begin = Instant::now();
    assert_eq!(write(&mut guest, 0, 9), OK);
    assert!(begin.elapsed() >= Duration::from_millis(10));
}

#[test]
fn short_transfers() {
    let mut guest = Guest::new();
    assert_eq!(write(&mut guest, 0, 1), OK);
    add(&guest, "short,op=write,count=1");
    add(&guest, "short=1000,op=read,count=1");
    // Half of the data, and an error.
    assert_eq!(write(&mut guest, 0, 2), IOERR);
    let mixed = [&pattern(2, 4096)[..2048], &pattern(1, 4096)[2048..]].concat();
    assert_eq!(guest.image_bytes(0, 4096), mixed);
    // Of 1000 bytes, one whole sector is written.
    let answer = guest.request(0, &header(IN, 0), 4097);
    assert_eq!((answer.status, answer.used), (IOERR, 513));
    assert_eq!(answer.data[..512], mixed[..512]);
    assert!(answer.data[512..].iter().all(|&byte| byte == FILL));
    // A device that reports success.
    clear(&guest);
    add(&guest, "short=512,status=ok");
    assert_eq!(write(&mut guest, 0, 3), OK);
    let mixed = [&pattern(3, 4096)[..512], &mixed[512..]].concat();
    assert_eq!(guest.image_bytes(0, 4096), mixed);
    let answer = guest.request(0, &header(IN, 0), 4097);
    assert_eq!((answer.status, answer.used), (OK, 513));
    clear(&guest);
    assert_eq!(guest.request(0, &header(IN, 0), 4097).data, mixed);
}

#[test]
fn short_encrypted_transfers_are_whole_data_units() {
    let mut guest = Guest::new();
    assert_eq!(program(&mut guest, 0, 1), OK);
    add(&guest, "short=10000,slot=0,count=1");
    let plain = pattern(5, 3 * 4096);
    guest.request(0, &crypto_write(0, 0, [7, 0, 0, 0], &plain), 1).assert_only_status(IOERR);
    let expected = openssl_xts(&key(1), 7, 4096, &plain[..8192]);
    assert_eq!(guest.image_bytes(0, 3 * 4096), [expected, vec![0; 4096]].concat());
    clear(&guest);
    add(&guest, "short=4095,slot=0");
    guest.request(0, &crypto_write(0, 0, [9, 0, 0, 0], &[1; 4096]), 1).assert_only_status(IOERR);
    assert_eq!(guest.image_bytes(0, 4096), openssl_xts(&key(1), 7, 4096, &plain[..4096]));
    // The same if the fault hides the error.
    clear(&guest);
    add(&guest, "short=4095,slot=0,status=ok");
    guest.request(0, &crypto_write(0, 0, [9, 0, 0, 0], &[1; 4096]), 1).assert_only_status(OK);
    assert_eq!(guest.image_bytes(0, 4096), openssl_xts(&key(1), 7, 4096, &plain[..4096]));
}

/// The digests of a read come after its data, but are not on the disk.
#[test]
fn digests_are_in_no_sector() {
    let mut guest = Guest::new();
    assert_eq!(program(&mut guest, 0, 1), OK);
    add(&guest, "io-error,sector=8");
    let request = extended_header(CRYPTO_IN_EXT, 0, 0, [SHA256, 0, 0, 0], [0; 4]);
    assert_eq!(guest.request(0, &request, 4096 + 32 + 1).status, OK);
    assert_eq!(guest.request(0, &request, 2 * (4096 + 32) + 1).status, IOERR, "the data reaches that sector");
}

#[test]
fn a_stuck_request_goes_on_when_the_fault_is_cleared() {
    let mut guest = Guest::new();
    add(&guest, "stuck,op=write,sector=0");
    let stuck = submit(&mut guest, 0, &write_request(0, &pattern(1, 4096)), 1);
    assert_eq!(write(&mut guest, 8, 2), OK, "the queue serves other requests");
    guest.rings[0].assert_silent();
    assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
    assert_eq!(program(&mut guest, 0, 1), OK, "the device serves commands");
    clear(&guest);
    assert_eq!(next(&mut guest, 0), stuck.head);
    assert_eq!(status(&guest, 0, &stuck), OK);
    assert_eq!(guest.image_bytes(0, 4096), pattern(1, 4096));
}

#[test]
fn a_stuck_queue_can_be_stopped() {
    let mut guest = Guest::new();
    add(&guest, "stuck");
    let writes: Vec<_> = (0..20).map(|i| submit(&mut guest, 0, &write_request(i, &[1; 512]), 1)).collect();
    let control = guest.control();
    let command = submit(&mut guest, control, &Program::new(0, &key(1), 12).bytes(), 1);
    guest.rings[0].assert_silent();
    // A change of memory waits for requests in flight, too.
    guest.set_memory();
    guest.frontend().get_features().expect("GET_FEATURES");
    let mut heads: Vec<_> = writes.iter().map(|_| next(&mut guest, 0)).collect();
    heads.sort_unstable();
    let mut expected: Vec<_> = writes.iter().map(|buffers| buffers.head).collect();
    expected.sort_unstable();
    assert_eq!(heads, expected);
    assert!(writes.iter().all(|buffers| status(&guest, 0, buffers) == IOERR));
    assert_eq!((next(&mut guest, control), status(&guest, control, &command)), (command.head, IOERR));
    assert_eq!(guest.image_bytes(0, 20 * 512), [0; 20 * 512]);

    let read = submit(&mut guest, 1, &header(IN, 0), 513);
    guest.rings[1].assert_silent();
    guest.frontend().get_vring_base(1).expect("GET_VRING_BASE");
    assert_eq!((next(&mut guest, 1), status(&guest, 1, &read)), (read.head, IOERR));
    // QEMU disables a queue before it stops it.
    let flush = submit(&mut guest, 0, &header(FLUSH, 0), 1);
    guest.rings[0].assert_silent();
    guest.frontend().set_vring_enable(0, false).expect("SET_VRING_ENABLE");
    guest.frontend().get_vring_base(0).expect("GET_VRING_BASE");
    assert_eq!((next(&mut guest, 0), status(&guest, 0, &flush)), (flush.head, IOERR));
}

/// More stuck requests than bounce buffers: when the fault is cleared, requests wait for buffers, and none fails.
#[test]
fn more_stuck_requests_than_buffers_all_go_on() {
    use vhost_user_blk_crypto::disk::Aio;
    for disk in [DiskKind::File(Aio::Threads), DiskKind::File(Aio::IoUring), DiskKind::File(Aio::Sync)] {
        let mut options = Options { disk, ring_size: 256, ..Options::default() };
        options.workers.workers = 1;
        let mut guest = Guest::with(options);
        add(&guest, "stuck");
        let writes: Vec<_> = (0..120)
            .map(|i| submit(&mut guest, (i % 2) as usize, &write_request(8 * i, &pattern(i, 4096)), 1))
            .collect();
        guest.rings[0].assert_silent();
        clear(&guest);
        for i in 0..writes.len() {
            next(&mut guest, i % 2);
        }
        for (i, buffers) in writes.iter().enumerate() {
            assert_eq!(status(&guest, i % 2, buffers), OK, "request {i}");
            assert_eq!(guest.image_bytes(4096 * i as u64, 4096), pattern(i as u64, 4096));
        }
    }
}

/// Whoever stops a queue waits for what was taken from it. So no more is taken than 256 MiB, whatever is available.
#[test]
fn long_requests_are_taken_a_few_at_a_time() {
    const LONG: u32 = 16 << 20;
    let mut options = Options { image_bytes: LONG.into(), ring_size: 256, ..Options::default() };
    options.workers.workers = 1;
    let mut guest = Guest::with(options);
    add(&guest, "stuck,op=read");
    let room = MEMORY_START + MEMORY_BYTES - u64::from(LONG);
    let heads: Vec<_> = (0..40)
        .map(|_| {
            let (head, status) = (guest.rings[0].allocate(16), guest.rings[0].allocate(1));
            guest.memory.write_slice(&header(IN, 0), GuestAddress(head)).expect("header");
            guest.rings[0].add_pieces(&[(head, 16, 0), (room, LONG, WRITE), (status, 1, WRITE)], false).head
        })
        .collect();
    guest.rings[0].kick();
    common::process::wait_for(|| guest.device.faults().struck() >= 16);
    guest.rings[0].assert_silent();
    assert_eq!(guest.frontend().get_vring_base(0).expect("GET_VRING_BASE"), 16);
    for _ in 0..16 {
        next(&mut guest, 0);
    }
    clear(&guest);
    // The driver has made all of them available already.
    let available = std::mem::replace(&mut guest.rings[0].next_avail, 16);
    guest.start_ring(0);
    guest.rings[0].next_avail = available;
    guest.rings[0].kick();
    let mut rest: Vec<_> = (16..40).map(|_| next(&mut guest, 0)).collect();
    rest.sort_unstable();
    let mut expected = heads[16..].to_vec();
    expected.sort_unstable();
    assert_eq!(rest, expected);
}

#[test]
fn a_reset_ends_what_is_stuck_and_the_device_goes_on() {
    let mut guest = Guest::new();
    add(&guest, "stuck,op=flush");
    submit(&mut guest, 0, &header(FLUSH, 0), 1);
    submit(&mut guest, 1, &header(FLUSH, 0), 1);
    guest.rings[0].assert_silent();
    guest.restart();
    assert_eq!(write(&mut guest, 0, 1), OK);
    submit(&mut guest, 0, &header(FLUSH, 0), 1);
    guest.rings[0].assert_silent();
    guest.disconnect();
}

#[test]
fn program_and_evict_fail() {
    let mut guest = Guest::new();
    let control = guest.control();
    assert_eq!((program(&mut guest, 0, 1), program(&mut guest, 1, 2)), (OK, OK));
    let id = add(&guest, "io-error,op=program,slot=0");
    assert_eq!((program(&mut guest, 0, 3), program(&mut guest, 1, 4)), (IOERR, OK));
    // The hardware failed in the middle: the slot has neither the old key nor the new one.
    assert_eq!((crypto_status(&mut guest, 0), crypto_status(&mut guest, 1)), (NOKEY, OK));
    assert_eq!(guest.stat("keyslots.program_failed"), 1);
    guest.device.faults().clear(Some(id)).expect("clear");
    assert_eq!(program(&mut guest, 0, 5), OK);

    add(&guest, "io-error,op=evict,count=1");
    guest.request(control, &evict(1), 1).assert_only_status(IOERR);
    assert_eq!(crypto_status(&mut guest, 1), OK, "the key is still there");
    guest.request(control, &evict(1), 1).assert_only_status(OK);
    assert_eq!((crypto_status(&mut guest, 1), crypto_status(&mut guest, 0)), (NOKEY, OK));
}

#[test]
fn keys_are_lost_at_the_moment_that_was_asked_for() {
    let mut guest = Guest::new();
    for slot in 0..4 {
        assert_eq!(program(&mut guest, slot, slot.into()), OK);
    }
    add(&guest, "lose-key,slot=2,nth=3,count=1");
    let statuses: Vec<_> = (0..5).map(|_| crypto_status(&mut guest, 2)).collect();
    assert_eq!(statuses, [OK, OK, NOKEY, NOKEY, NOKEY]);
    assert_eq!((crypto_status(&mut guest, 1), guest.stat("keyslots.lost")), (OK, 1));
    assert_eq!(program(&mut guest, 2, 9), OK);
    assert_eq!(crypto_status(&mut guest, 2), OK);

    add(&guest, "lose-all-keys,op=write,sector=800,count=1");
    assert_eq!(write(&mut guest, 800, 1), OK, "a plain request needs no key");
    for slot in 0..4 {
        assert_eq!(crypto_status(&mut guest, slot), NOKEY, "slot {slot}");
        assert_eq!(program(&mut guest, slot, slot.into()), OK);
        assert_eq!(crypto_status(&mut guest, slot), OK);
    }
    assert_eq!(guest.stat("keyslots.lost"), 5);
}

/// A key is lost while requests use it on both queues. Each request either succeeds with the key or gets NOKEY.
#[test]
fn keys_are_lost_under_load() {
    let mut guest =
        Guest::with(Options { disk: DiskKind::File(vhost_user_blk_crypto::disk::Aio::Threads), ..Options::default() });
    add(&guest, "lose-all-keys,op=write,probability=0.2,seed=3");
    add(&guest, "delay=2ms,op=write,probability=0.3,seed=4");
    let plain = pattern(1, 4096);
    let ciphertext = openssl_xts(&key(1), 0, 4096, &plain);
    let (mut done, mut nokey) = (0, 0);
    for round in 0..40 {
        assert_eq!(program(&mut guest, 0, 1), OK);
        let writes: Vec<_> = (0..10)
            .map(|i| (i % 2, 8 * (10 * round + i) as u64))
            .map(|(queue, sector)| {
                (queue, sector, submit(&mut guest, queue, &crypto_write(sector, 0, [0; 4], &plain), 1))
            })
            .collect();
        for (queue, ..) in &writes {
            next(&mut guest, *queue);
        }
        for (queue, sector, buffers) in &writes {
            let image = guest.image_bytes(sector * 512, 4096);
            match status(&guest, *queue, buffers) {
                OK => assert_eq!((image, done += 1).0, ciphertext),
                NOKEY => assert_eq!((image, nokey += 1).0, [0; 4096]),
                status => panic!("status {status}"),
            }
            guest.rings[*queue].free(buffers);
        }
    }
    assert!(done > 0 && nokey > 0, "{done} done, {nokey} without a key");
}

#[test]
fn a_bad_description_is_refused_and_changes_nothing() {
    let guest = Guest::new();
    let error = guest.device.faults().add("io-error,op=flsh").expect_err("must be refused");
    assert!(error.to_string().contains("write-zeroes"), "{error}");
    assert!(guest.device.faults().list().is_empty() && !guest.device.faults().armed());
}

/// A write that was taken in write-back mode is done before the flush of the switch.
#[test]
fn a_change_of_the_cache_mode_waits_for_writes() {
    let mut guest = Guest::new();
    add(&guest, "delay=60s,op=write");
    let data = pattern(7, 4096);
    let buffers = submit(&mut guest, 0, &write_request(8, &data), 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(guest.rings[0].take_used(), None);
    guest.set_config(32, &[0]);
    assert_eq!(guest.get_config(32, 1), [0]);
    assert_eq!((next(&mut guest, 0), status(&guest, 0, &buffers)), (buffers.head, OK));
    assert_eq!((guest.stat("events.flush"), guest.image_bytes(8 * 512, 4096)), (1, data));
}
