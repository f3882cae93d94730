// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Regions that other backends have left, that do not fit, and that are lost.

use super::*;

/// Another backend may return several chains with one store to the used index.
#[test]
fn a_batch_of_several_is_finished() {
    // Heads 5, 2 and 7 returned together; 1 and 3 still in flight, 3 taken first.
    for cleared in 0..=3 {
        let world = World::new(100);
        let mut log = world.region.queue(0).expect("part");
        assert_eq!(log.recover(SIZE, 100), Ok(Recovery::Fresh));
        for head in [5, 3, 2, 1, 7] {
            log.taken(head);
        }
        for head in [5, 2, 7] {
            log.returning(head);
        }
        // The used index is published; some marks are off already.
        for &head in &[7, 2, 5][..cleared] {
            world.region.store(log.desc(head, INFLIGHT), 0u8);
        }
        let mut next = world.region.queue(0).expect("part");
        assert_eq!(next.recover(SIZE, 103), Ok(Recovery::Resubmit(vec![3, 1])));
        assert_eq!(next.counter, 4);
        assert_eq!(next.field(USED_IDX), 103);
        assert!([5, 2, 7].into_iter().all(|head| !next.in_flight(head)));
    }
}

/// Another backend may return all that the ring holds at once.
#[test]
fn a_batch_of_a_whole_ring_is_finished() {
    let world = World::new(100);
    let mut log = world.region.queue(0).expect("part");
    assert_eq!(log.recover(SIZE, 100), Ok(Recovery::Fresh));
    (0..SIZE).for_each(|head| log.taken(head));
    (0..SIZE).for_each(|head| log.returning(head));
    let mut next = world.region.queue(0).expect("part");
    assert_eq!(next.recover(SIZE, 100 + SIZE), Ok(Recovery::Resubmit(vec![])));
}

/// Somebody waits for the end of a turn: it takes nothing more, although the driver has made more available.
#[test]
fn a_turn_that_somebody_waits_for_takes_nothing() {
    let mut world = World::new(100);
    (0..4).for_each(|_| world.send());
    let vring = world.backend();
    let turn = vring.begin().expect("the queue runs");
    let pop = |most| {
        let mut chains = Vec::new();
        turn.pop(&world.memory, most, u64::MAX, &mut chains);
        chains.len()
    };
    assert_eq!((pop(1), turn.is_running()), (1, true));
    vring.lock().pauses += 1;
    assert_eq!((pop(8), turn.is_running()), (0, false));
    vring.lock().pauses -= 1;
    assert_eq!((pop(0), pop(2), turn.is_running()), (0, 2, true));
    vring.set_enabled(false);
    assert_eq!((pop(8), turn.is_running()), (0, false));
}

/// The driver has reset the device, which had not served all again that a killed one had taken.
#[test]
fn a_reset_leaves_nothing() {
    let world = World::new(100);
    let mut log = world.region.queue(0).expect("part");
    assert_eq!(log.recover(SIZE, 100), Ok(Recovery::Fresh));
    [5, 3].into_iter().for_each(|head| log.taken(head));
    let mut next = world.region.queue(0).expect("part");
    assert_eq!(next.recover(SIZE, 100), Ok(Recovery::Resubmit(vec![5, 3])));
    next.forget();
    assert_eq!(next.recover(SIZE, 0), Ok(Recovery::Fresh));
    assert_eq!(next.recover(SIZE, 0), Ok(Recovery::Resubmit(vec![])));

    // The same by way of the queue.
    let mut world = World::new(100);
    (0..2).for_each(|_| world.send());
    let vring = world.backend();
    let mut chains = Vec::new();
    vring.begin().expect("the queue runs").pop(&world.memory, 2, u64::MAX, &mut chains);
    assert_eq!(chains.len(), 2);
    vring.stop();
    vring.forget_in_flight();
    assert_eq!(world.region.queue(0).expect("part").recover(SIZE, 0), Ok(Recovery::Fresh));
}

#[test]
fn regions_that_do_not_fit_are_refused() {
    let fresh = |used| {
        let world = World::new(used);
        let mut log = world.region.queue(0).expect("part");
        assert_eq!(log.recover(SIZE, used), Ok(Recovery::Fresh));
        (world, log)
    };
    let (world, mut log) = fresh(0);
    assert_eq!(log.recover(SIZE / 2, 0), Ok(Recovery::Resubmit(vec![])), "a smaller ring");
    world.region.store(DESC_NUM, (SIZE / 2).to_le());
    assert_eq!(log.recover(SIZE / 2, 0), Ok(Recovery::Resubmit(vec![])), "another backend's number");
    world.region.store(DESC_NUM, SIZE.to_le());
    log.taken(SIZE - 1);
    assert!(log.recover(SIZE / 2, 0).is_err(), "a head that the smaller ring does not have");
    assert!(log.recover(SIZE, SIZE + 1).is_err(), "more returned than the ring holds");
    world.region.store(LAST_BATCH_HEAD, SIZE.to_le());
    assert!(log.recover(SIZE, 1).is_err(), "a list that leads nowhere");
    // Nothing is in flight: the ring may have been set up anew.
    let (_world, mut log) = fresh(500);
    assert_eq!(log.recover(SIZE, 0), Ok(Recovery::Resubmit(vec![])));
    assert_eq!(log.field(USED_IDX), 0);
    for (at, value) in [(VERSION_AT, 2), (DESC_NUM, SIZE - 1)] {
        let (world, mut log) = fresh(0);
        world.region.store(at, u16::to_le(value));
        assert!(log.recover(SIZE, 0).is_err());
    }
}

/// What was in flight in another ring is not given out in this one, nor in a later one.
#[test]
fn a_larger_ring_is_not_tracked_and_leaves_nothing_to_recover() {
    let world = World::new(0);
    let mut log = world.region.queue(0).expect("part");
    assert_eq!(log.recover(SIZE * 2, 0), Ok(Recovery::TooSmall));
    assert_eq!(log.recover(SIZE, 0), Ok(Recovery::Fresh));
    [1, 5, SIZE - 1].into_iter().for_each(|head| log.taken(head));
    assert_eq!(log.recover(SIZE, 0), Ok(Recovery::Resubmit(vec![1, 5, SIZE - 1])));
    assert_eq!(log.recover(SIZE * 2, 7), Ok(Recovery::TooSmall));
    for _ in 0..2 {
        assert_eq!(log.recover(SIZE * 2, 9), Ok(Recovery::TooSmall));
    }
    assert_eq!(log.recover(SIZE, 9), Ok(Recovery::Fresh));
    assert_eq!(log.recover(SIZE, 9), Ok(Recovery::Resubmit(vec![])));
}

#[test]
fn regions_are_as_large_as_they_say() {
    assert_eq!(region_bytes(2, 128), 2 * (16 + 128 * 16u64).next_multiple_of(64));
    let file = || InflightRegion::create(3, SIZE).expect("memfd");
    let bytes = region_bytes(3, SIZE);
    let region = InflightRegion::map(file(), 0, bytes, 3, SIZE).expect("region");
    assert!(region.queue(2).is_some() && region.queue(3).is_none());
    for (offset, bytes, queues, size) in [
        (0, bytes - 1, 3, SIZE),
        (0, bytes, 4, SIZE),
        (0, bytes, 3, SIZE * 2),
        (0, bytes, 0, SIZE),
        (0, bytes, 3, 0),
        (4096, bytes, 3, SIZE),
        (0, u64::MAX, 3, SIZE),
        (u64::MAX, bytes, 3, SIZE),
        (0, u64::MAX, u16::MAX, u16::MAX),
        // Not a multiple of a page.
        (16, bytes - 16, 1, SIZE),
    ] {
        assert!(InflightRegion::map(file(), offset, bytes, queues, size).is_err(), "{offset} {bytes} {queues} {size}");
    }
    assert!(file().set_len(0).is_err(), "sealed");
}

/// A queue that is retired at its start is reported once, and not again when it starts in good order.
#[test]
fn a_queue_with_a_bad_region_is_reported_once() {
    let world = World::new(0);
    drop(world.backend());
    world.region.store(VERSION_AT, 7u16.to_le());
    let vring = Vring::new(0, SIZE).expect("queue");
    let rings = RingAddresses { descriptor_table: TABLE, avail_ring: AVAIL, used_ring: USED };
    assert!(vring.set_size(SIZE) && vring.set_addresses(&world.memory, rings));
    vring.set_enabled(true);
    for (version, looked_at) in [(7u16, true), (7, false), (VERSION, true)] {
        world.region.store(VERSION_AT, version.to_le());
        vring.stop();
        assert!(vring.set_log(world.region.queue(0)));
        vring.set_kick(Some(event()));
        assert_eq!(vring.begin().is_some(), version == VERSION);
        if looked_at {
            assert_eq!(vring.take_retirement(), version != VERSION);
            assert!(!vring.take_retirement());
        }
    }
}

/// A killed backend may have returned requests without an interrupt.
#[test]
fn the_next_backend_interrupts_the_driver() {
    let world = World::new(0);
    for expected in [false, true] {
        let call = event();
        let vring = world.backend_with(Some(Event::new(call.try_clone().expect("eventfd")).expect("eventfd")));
        vring.begin().expect("the queue runs").pop(&world.memory, 1, u64::MAX, &mut Vec::new());
        assert_eq!(rustix::io::read(&call, &mut [0; 8]).is_ok(), expected);
    }
}

/// The file of a region is truncated: a running queue continues without it. A queue that starts does not, because the
/// requests in flight are not known.
#[test]
fn a_region_that_is_cut_off() {
    let mut world = World::new(0);
    let file = File::from(memfd_create("unsealed", MemfdFlags::CLOEXEC).expect("memfd"));
    let bytes = region_bytes(1, SIZE);
    file.set_len(bytes).expect("size");
    let map = || InflightRegion::map(file.try_clone().expect("file"), 0, bytes, 1, SIZE).expect("region");
    world.region = map();
    let vring = world.backend();
    for cut in [bytes, 0, 0] {
        file.set_len(cut).expect("cut off");
        world.send();
        let turn = vring.begin().expect("the queue runs");
        let mut chains = Vec::new();
        turn.pop(&world.memory, 32, u64::MAX, &mut chains);
        let [TakenChain { head, .. }] = chains[..] else { panic!("one was sent: {chains:?}") };
        let written = (world.sent[&head] % 1000) as u32;
        turn.complete(&world.memory, &[Completion { head, written }]);
        drop((turn, chains));
        world.reap();
    }
    assert!(!world.region.watch.is_sound());
    // The queue goes on without it, even if it is stopped and started again.
    vring.stop();
    vring.set_kick(Some(event()));
    assert!(vring.begin().is_some() && !vring.take_retirement());
    file.set_len(bytes).expect("size");
    world.region = map();
    file.set_len(0).expect("cut off");
    vring.stop();
    assert!(vring.set_log(world.region.queue(0)));
    vring.set_kick(Some(event()));
    assert!(vring.begin().is_none() && vring.take_retirement());
}
