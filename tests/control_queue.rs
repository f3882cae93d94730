// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device finds the control virtqueue where the driver puts it: after all request queues, or after those that it
//! uses.

mod common;

use common::*;
use vhost::VhostBackend;
use vhost_user_blk_crypto::device::DeviceConfig;
const OFFERED: usize = 4;

/// A guest whose driver has not set up its queues yet.
fn guest() -> Guest {
    let config = DeviceConfig { num_queues: OFFERED as u16, ..Options::default().config };
    let mut guest = Guest::with(Options { config, queues: OFFERED, ..Options::default() });
    guest.reset();
    guest.set_features_again();
    guest
}

/// A driver that begins with these queues.
fn begin(guest: &mut Guest, queues: &[usize]) {
    let event_idx = guest.features & feature::EVENT_IDX != 0;
    guest.rings = (0..=OFFERED).map(|index| Ring::new(&guest.memory, MEMORY_START, index, 64, event_idx)).collect();
    queues.iter().for_each(|&queue| guest.start_ring(queue));
}

/// Stops these queues, as for a reset or a pause by a frontend without RESET_DEVICE.
fn stop(guest: &mut Guest, queues: &[usize]) {
    for &queue in queues {
        guest.frontend().get_vring_base(queue).expect("GET_VRING_BASE");
    }
    guest.set_features_again();
}

/// The device serves commands on `control` only, and requests on the others. At the place that the specification gives
/// to the control virtqueue it serves no request; elsewhere the queue may turn out to be a request queue.
fn check(guest: &mut Guest, queues: &[usize], control: usize, seed: u64) {
    let command = Program::new(0, &key(seed), 12).bytes();
    guest.request(control, &command, 1).assert_only_status(OK);
    let expected = if control == OFFERED { UNSUPP } else { OK };
    guest.request(control, &write_request(0, &[1; 512]), 1).assert_only_status(expected);
    for &queue in queues.iter().filter(|&&queue| queue != control) {
        guest.request(queue, &command, 1).assert_only_status(UNSUPP);
        let plain = pattern(seed, 4096);
        guest.request(queue, &crypto_write(8, 0, [1, 0, 0, 0], &plain), 1).assert_only_status(OK);
        assert!(guest.image_bytes(4096, 4096) == openssl_xts(&key(seed), 1, 4096, &plain));
    }
}

#[test]
fn after_the_queues_that_are_used_or_after_all() {
    let mut guest = guest();
    for (seed, (queues, control)) in [
        (&[0, 1, 2, 3, 4][..], 4),
        (&[0, 1], 1),
        (&[0, 1, 2], 2),
        (&[0, 1, 2, 3], 3),
        // Few queues, and the control virtqueue at the specification's place.
        (&[0, 4], 4),
        (&[0, 1, 4], 4),
        // In any order.
        (&[4, 0], 4),
        (&[2, 1, 0], 2),
        (&[1, 0], 1),
    ]
    .into_iter()
    .enumerate()
    {
        begin(&mut guest, queues);
        check(&mut guest, queues, control, seed as u64);
        guest.reset();
        guest.set_features_again();
    }
}

/// A frontend without RESET_DEVICE, and drivers that use other queues than the driver before.
#[test]
fn the_next_driver_has_other_queues() {
    let mut guest = guest();
    let drivers = [&[0, 1, 2, 3, 4][..], &[1, 0], &[0, 1, 2], &[3, 2, 1, 0], &[2, 0, 1], &[4, 0], &[0, 1]];
    for (seed, queues) in drivers.into_iter().enumerate() {
        begin(&mut guest, queues);
        let control = *queues.iter().max().expect("queues");
        check(&mut guest, queues, control, seed as u64);
        stop(&mut guest, queues);
    }
}

/// A machine resumes: its queues start one after the other, with requests waiting in them. Each serves what it served
/// before.
#[test]
fn a_pause_changes_no_roles() {
    let mut guest = guest();
    for (order, control) in [(&[0, 1, 2][..], 2), (&[2, 1, 0], 2), (&[1, 0, 2], 2), (&[0, 1, 4], 4), (&[4, 1, 0], 4)] {
        begin(&mut guest, order);
        check(&mut guest, order, control, 5);
        stop(&mut guest, order);
        let plain = pattern(6, 4096);
        for &queue in order {
            let place = guest.rings[queue].next_avail;
            let request = if queue == control {
                Program::new(1, &key(1), 12).bytes()
            } else {
                write_request(queue as u64 * 8, &plain)
            };
            let buffers = guest.rings[queue].add(&request, 1);
            guest.rings[queue].next_avail = place;
            guest.start_ring(queue);
            guest.rings[queue].next_avail = place.wrapping_add(1);
            assert_eq!(guest.rings[queue].wait(), (buffers.head, 1));
            assert_eq!(guest.rings[queue].read_writable(&buffers), [OK], "queue {queue} of {order:?}");
            guest.rings[queue].free(&buffers);
        }
        check(&mut guest, order, control, 5);
        stop(&mut guest, order);
    }
}
