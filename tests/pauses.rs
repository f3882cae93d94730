// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A paused machine keeps its keys; a reset machine loses them. That holds for every frontend, with RESET_DEVICE or
//! without, and for every order in which it stops and starts queues.

mod common;

use std::os::fd::AsRawFd;

use common::machine::random;
use common::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserInflight, VhostUserProtocolFeatures};
use vhost_user_blk_crypto::device::DeviceConfig;
/// Request queues of the device; the control virtqueue is the next.
const QUEUES: usize = 4;

fn options() -> Options {
    let config = DeviceConfig { num_queues: QUEUES as u16, ..Options::default().config };
    Options { config, queues: QUEUES, ..Options::default() }
}

fn program(guest: &mut Guest, slot: u32) {
    let control = guest.control();
    guest.request(control, &Program::new(slot, &key(slot.into()), 12).bytes(), 1).assert_only_status(OK);
}

/// Writes encrypted to a place that only this call uses, and checks what was written. Returns the status.
fn probe(guest: &mut Guest, queue: usize, slot: u32) -> u8 {
    let plain = pattern(9, 4096);
    guest.request(queue, &write_request(0, &[0; 4096]), 1).assert_only_status(OK);
    let answer = guest.request(queue, &crypto_write(0, slot, [3, 0, 0, 0], &plain), 1);
    answer.assert_only_status(answer.status);
    let expected = match answer.status {
        OK => openssl_xts(&key(slot.into()), 3, 4096, &plain),
        _ => vec![0; 4096],
    };
    assert!(guest.image_bytes(0, 4096) == expected, "status {}", answer.status);
    answer.status
}

/// A driver whose ring indices have these values, without requests.
fn put_at(guest: &mut Guest, queue: usize, index: u16) {
    let ring = &mut guest.rings[queue];
    (ring.next_avail, ring.next_used) = (index, index);
    ring.set_avail_index(index);
    ring.set_used_index(index);
}

/// Stops queues, as a frontend does for a pause and for a reset.
fn stop(guest: &mut Guest, order: &[usize]) {
    for &queue in order {
        let base = guest.frontend().get_vring_base(queue).expect("GET_VRING_BASE");
        assert_eq!(base, u32::from(guest.rings[queue].next_avail), "all requests are taken");
    }
}

/// A new driver, with rings at 0.
fn new_rings(guest: &mut Guest) {
    let event_idx = guest.features & feature::EVENT_IDX != 0;
    let count = guest.rings.len();
    guest.rings = (0..count).map(|index| Ring::new(&guest.memory, MEMORY_START, index, 64, event_idx)).collect();
}

fn shuffle<T>(items: &mut [T], random: &mut impl FnMut(u64) -> u64) {
    for last in (1..items.len()).rev() {
        items.swap(last, random(last as u64 + 1) as usize);
    }
}

/// The request queues in any order, with the control virtqueue at any place among them.
fn any_order(random: &mut impl FnMut(u64) -> u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..=QUEUES).collect();
    shuffle(&mut order, random);
    order
}

#[test]
fn a_paused_machine_finds_its_keys_whatever_the_order() {
    let mut random = random(11);
    let mut guest = Guest::with(options());
    for round in 0..40 {
        guest.restart();
        for queue in 0..=QUEUES {
            // Some indices have wrapped around, some queues were never used.
            if random(4) == 0 {
                stop(&mut guest, &[queue]);
                put_at(&mut guest, queue, 65536u64.wrapping_sub(random(4)) as u16);
                guest.start_ring(queue);
            }
        }
        (0..2).for_each(|slot| program(&mut guest, slot));
        for queue in 0..QUEUES {
            for _ in 0..random(3) {
                assert_eq!(probe(&mut guest, queue, 1), OK);
            }
        }
        let (resets, lost) = (guest.stat("events.reset"), guest.stat("keyslots.lost"));
        for _ in 0..2 {
            stop(&mut guest, &any_order(&mut random));
            if random(4) > 0 {
                guest.set_features_again();
            }
            guest.set_memory();
            let order = any_order(&mut random);
            // A queue that was at 0 shows nothing. One that was elsewhere shows that it was a pause.
            let tells = order.iter().position(|&queue| guest.rings[queue].next_avail != 0).expect("the control queue");
            for (number, &queue) in order.iter().enumerate() {
                guest.start_ring(queue);
                if queue < QUEUES && number >= tells {
                    assert_eq!(probe(&mut guest, queue, 0), OK, "round {round}");
                }
            }
            for queue in 0..QUEUES {
                assert_eq!((probe(&mut guest, queue, 0), probe(&mut guest, queue, 1)), (OK, OK), "round {round}");
                assert_eq!(probe(&mut guest, queue, 2), NOKEY);
            }
        }
        assert_eq!((guest.stat("events.reset"), guest.stat("keyslots.lost")), (resets, lost), "round {round}");
    }
}

/// With a frontend without RESET_DEVICE, a new driver never finds a key.
#[test]
fn a_new_driver_never_finds_old_keys_whatever_the_order() {
    let mut random = random(12);
    let mut guest = Guest::with(options());
    for round in 0..60 {
        (0..3).for_each(|slot| program(&mut guest, slot));
        let used = random(16);
        for queue in (0..QUEUES).filter(|queue| used >> queue & 1 != 0) {
            assert_eq!(probe(&mut guest, queue, 1), OK);
        }
        let (resets, lost) = (guest.stat("events.reset"), guest.stat("keyslots.lost"));
        // The firmware may run first, with one queue; or the machine is paused before.
        if random(3) == 0 {
            stop(&mut guest, &any_order(&mut random));
            guest.set_features_again();
        }
        let order = any_order(&mut random);
        stop(&mut guest, &order);
        if random(4) > 0 {
            guest.set_features_again();
        }
        new_rings(&mut guest);
        let order = any_order(&mut random);
        let count = if random(2) == 0 { order.len() } else { 1 + random(order.len() as u64) as usize };
        for &queue in &order[..count] {
            guest.start_ring(queue);
            if queue < QUEUES {
                assert_eq!((probe(&mut guest, queue, 0), probe(&mut guest, queue, 1)), (NOKEY, NOKEY), "round {round}");
            }
            if queue == QUEUES {
                // It has only the keys that it programs itself.
                program(&mut guest, 2);
            }
        }
        for &queue in &order[count..] {
            guest.start_ring(queue);
            if queue == QUEUES {
                program(&mut guest, 2);
            }
        }
        for queue in 0..QUEUES {
            assert_eq!((probe(&mut guest, queue, 0), probe(&mut guest, queue, 1)), (NOKEY, NOKEY), "round {round}");
            assert_eq!(probe(&mut guest, queue, 2), OK, "round {round}");
        }
        assert_eq!((guest.stat("events.reset"), guest.stat("keyslots.lost")), (resets + 1, lost + 3), "round {round}");
        guest.restart();
    }
}

/// If all queues were at 0, the device cannot know whether it was a pause: requests find no keys, and the first new key
/// removes the old ones.
#[test]
fn queues_that_went_round_to_0_tell_nothing() {
    let accept = !(feature::CTRL_VQ | feature::INLINE_ENCRYPTION | feature::MQ);
    let config = DeviceConfig { in_band: true, ..Options::default().config };
    let mut guest = Guest::with(Options { config, accept, queues: 1, ..Options::default() });
    stop(&mut guest, &[0]);
    put_at(&mut guest, 0, 65532);
    guest.start_ring(0);
    let command = |slot: u32| Program::new(slot, &key(slot.into()), 12).bytes();
    guest.request(0, &command(0), 1).assert_only_status(OK);
    guest.request(0, &command(1), 1).assert_only_status(OK);
    assert_eq!(probe(&mut guest, 0, 0), OK);
    assert_eq!(guest.rings[0].next_avail, 0);
    stop(&mut guest, &[0]);
    guest.set_features_again();
    guest.start_ring(0);
    assert_eq!((probe(&mut guest, 0, 0), probe(&mut guest, 0, 1)), (NOKEY, NOKEY));
    assert_eq!(guest.stat("keyslots.lost"), 0);
    // A program command of an unknown driver: the device removes all old keys first.
    guest.request(0, &command(1), 1).assert_only_status(OK);
    assert_eq!(guest.stat("keyslots.lost"), 2);
    assert_eq!((probe(&mut guest, 0, 0), probe(&mut guest, 0, 1)), (NOKEY, OK));

    // Now the driver is known, and a pause keeps its keys.
    stop(&mut guest, &[0]);
    guest.start_ring(0);
    assert_eq!(probe(&mut guest, 0, 1), OK);
    stop(&mut guest, &[0]);
    put_at(&mut guest, 0, 65534);
    guest.start_ring(0);
    guest.request(0, &command(0), 1).assert_only_status(OK);
    guest.request(0, &command(1), 1).assert_only_status(OK);
    stop(&mut guest, &[0]);
    guest.start_ring(0);
    assert_eq!(probe(&mut guest, 0, 0), NOKEY);
    // This driver is not known. It continues after a pause, but the keys may not be its own.
    stop(&mut guest, &[0]);
    guest.set_features_again();
    guest.start_ring(0);
    assert_eq!((probe(&mut guest, 0, 0), probe(&mut guest, 0, 1)), (NOKEY, NOKEY));
    assert_eq!(guest.stat("keyslots.lost"), 2 + 1 + 2);
}

/// A queue that begins anew among queues that continue: keys and the driver's choices are lost, once.
#[test]
fn one_queue_that_begins_anew_is_enough() {
    let mut guest = Guest::with(options());
    program(&mut guest, 0);
    for queue in 0..QUEUES {
        assert_eq!(probe(&mut guest, queue, 0), OK);
    }
    let all: Vec<_> = (0..=QUEUES).collect();
    stop(&mut guest, &all);
    guest.set_features_again();
    guest.start_ring(0);
    assert_eq!(probe(&mut guest, 0, 0), OK);
    put_at(&mut guest, 1, 0);
    guest.start_ring(1);
    assert_eq!((probe(&mut guest, 1, 0), probe(&mut guest, 0, 0)), (NOKEY, NOKEY));
    guest.start_ring(QUEUES);
    program(&mut guest, 0);
    // The question is settled: this driver's keys stay.
    put_at(&mut guest, 2, 0);
    guest.start_ring(2);
    put_at(&mut guest, 3, 77);
    guest.start_ring(3);
    for queue in 0..QUEUES {
        assert_eq!(probe(&mut guest, queue, 0), OK);
    }
    // A single queue that is set up anew while others run changes nothing.
    stop(&mut guest, &[2]);
    put_at(&mut guest, 2, 0);
    guest.start_ring(2);
    assert_eq!(probe(&mut guest, 2, 0), OK);
}

/// RESET_DEVICE and a change of features lose the keys, although the queues continue where they were.
#[test]
fn a_reset_that_is_said_counts_whatever_the_queues_say() {
    let mut guest = Guest::with(options());
    let all: Vec<_> = (0..=QUEUES).collect();
    for features_change in [false, true] {
        program(&mut guest, 0);
        assert_eq!(probe(&mut guest, 0, 0), OK);
        stop(&mut guest, &all);
        if features_change {
            guest.features ^= feature::EVENT_IDX;
        } else {
            guest.reset();
        }
        guest.set_features_again();
        all.iter().for_each(|&queue| guest.start_ring(queue));
        assert_eq!(probe(&mut guest, 0, 0), NOKEY);
        guest.restart();
    }
}

/// The driver's choices survive a pause, but not a reset.
#[test]
fn the_cache_mode_outlives_a_pause() {
    let mut guest = Guest::new();
    guest.set_config(32, &[0]);
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    stop(&mut guest, &[0, 1, 2]);
    guest.set_features_again();
    (0..3).for_each(|queue| guest.start_ring(queue));
    assert_eq!(guest.get_config(32, 1), [0]);
    stop(&mut guest, &[0, 1, 2]);
    guest.set_features_again();
    new_rings(&mut guest);
    (0..3).for_each(|queue| guest.start_ring(queue));
    assert_eq!(guest.get_config(32, 1), [1]);
}

/// A driver may write its configuration before its queues run. Frontends forward that at once, but the features only
/// when they start the queues.
#[test]
fn a_cache_mode_chosen_before_the_queues_start_is_kept() {
    let mut guest = Guest::new();
    stop(&mut guest, &[0, 1, 2]);
    guest.set_config(32, &[0]);
    guest.set_features_again();
    new_rings(&mut guest);
    (0..3).for_each(|queue| guest.start_ring(queue));
    assert_eq!(guest.get_config(32, 1), [0], "the same features");
    stop(&mut guest, &[0, 1, 2]);
    guest.set_config(32, &[0]);
    guest.features &= !feature::DISCARD;
    guest.set_features_again();
    new_rings(&mut guest);
    (0..3).for_each(|queue| guest.start_ring(queue));
    assert_eq!(guest.get_config(32, 1), [0], "other features");
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    stop(&mut guest, &[0, 1, 2]);
    new_rings(&mut guest);
    (0..3).for_each(|queue| guest.start_ring(queue));
    assert_eq!(guest.get_config(32, 1), [1], "the next driver has chosen nothing");
    // After a reset, a driver may choose before its features are known.
    guest.reset();
    guest.set_config(32, &[0]);
    guest.set_features_again();
    new_rings(&mut guest);
    (0..3).for_each(|queue| guest.start_ring(queue));
    assert_eq!(guest.get_config(32, 1), [0], "after a reset");
    // What a running driver has chosen is not the next one's choice.
    guest.set_config(32, &[0]);
    guest.set_features_again();
    assert_eq!(guest.get_config(32, 1), [1], "a driver that does not stop its queues");
}

/// With in-flight tracking, the region says where a queue continues.
#[test]
fn with_an_in_flight_region() {
    let mut guest = Guest::with(Options { protocol: VhostUserProtocolFeatures::INFLIGHT_SHMFD, ..options() });
    let all: Vec<_> = (0..=QUEUES).collect();
    let queues = all.len() as u16;
    for round in 0..2 {
        stop(&mut guest, &all);
        let (region, file) =
            guest.frontend().get_inflight_fd(&VhostUserInflight::new(0, 0, queues, 64)).expect("GET_INFLIGHT_FD");
        guest.frontend().set_inflight_fd(&region, file.as_raw_fd()).expect("SET_INFLIGHT_FD");
        new_rings(&mut guest);
        all.iter().for_each(|&queue| guest.start_ring(queue));
        assert_eq!(probe(&mut guest, 0, 0), NOKEY, "round {round}");
        program(&mut guest, 0);
        assert_eq!(probe(&mut guest, 0, 0), OK);
        stop(&mut guest, &all);
        guest.set_features_again();
        guest.frontend().set_inflight_fd(&region, file.as_raw_fd()).expect("SET_INFLIGHT_FD");
        all.iter().for_each(|&queue| guest.start_ring(queue));
        assert_eq!(probe(&mut guest, 0, 0), OK, "round {round}");
        // A new driver, whose frontend has not reset the region.
        stop(&mut guest, &all);
        guest.set_features_again();
        new_rings(&mut guest);
        all.iter().for_each(|&queue| guest.start_ring(queue));
        assert_eq!(probe(&mut guest, 0, 0), NOKEY, "round {round}");
        // A driver with the old used index, behind a frontend that begins at 0.
        program(&mut guest, 0);
        assert_eq!(probe(&mut guest, 0, 0), OK);
        stop(&mut guest, &all);
        for &queue in &all {
            let at = guest.rings[queue].next_avail;
            guest.rings[queue].next_avail = 0;
            guest.start_ring(queue);
            guest.rings[queue].next_avail = at;
            guest.rings[queue].set_used_index(at);
        }
        assert_eq!(probe(&mut guest, 0, 0), NOKEY, "round {round}");
    }
}

/// Keys that survive a reset survive a pause as well.
#[test]
fn keys_that_are_kept() {
    let config = DeviceConfig { keep_keys_on_reset: true, ..options().config };
    let mut guest = Guest::with(Options { config, ..options() });
    program(&mut guest, 0);
    let all: Vec<_> = (0..=QUEUES).collect();
    stop(&mut guest, &all);
    guest.set_features_again();
    new_rings(&mut guest);
    for &queue in &all[..QUEUES] {
        guest.start_ring(queue);
        assert_eq!(probe(&mut guest, queue, 0), OK);
    }
    assert_eq!(guest.stat("keyslots.lost"), 0);
}
