// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In-flight tracking: the real program is killed at random moments and restarted. Every request completes once.

mod common;

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::machine::{Driver, Machine, QUEUES, RING, random};
use common::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

/// How the connection ends.
#[derive(Clone, Copy)]
enum End {
    Kill,
    HangUp,
}

fn survive(options: &[&str], ends: &[End], seed: u64) {
    survive_with(Driver::new(), options, ends, seed);
}

/// Without keyslots there are no keys to lose: no request ends with NOKEY.
fn survive_with_keys_in_requests(options: &[&str], ends: &[End], seed: u64) {
    let options = [&["--keyslots", "0"], options].concat();
    let driver = survive_with(Driver::with_keys_in_requests(), &options, ends, seed);
    assert_eq!(driver.nokeys, 0);
}

fn survive_with(mut driver: Driver, options: &[&str], ends: &[End], seed: u64) -> Driver {
    let mut machine = Machine::new(options);
    let mut random = random(seed);
    for end in ends {
        let how_long = Duration::from_micros(500 + random(40_000));
        driver.work(&mut machine, &mut random, how_long);
        machine.assert_running();
        match end {
            End::Kill => {
                machine.kill();
                // The driver goes on while there is no device.
                for queue in 0..QUEUES {
                    driver.reap(&mut machine, queue);
                    if let Some(ask) = driver.choose(&mut random) {
                        driver.send(&mut machine, queue, ask);
                    }
                }
                machine.start_program();
            }
            End::HangUp => machine.frontend = None,
        }
        machine.connect();
    }
    driver.finish(&mut machine, &mut random);
    println!("{} requests, {} without a key", driver.completed, driver.nokeys);
    assert!(driver.completed > 100);
    let [covered, open] = driver.covered();
    driver.check_image(&machine, &[covered, open].concat());
    driver
}

#[test]
fn killed_again_and_again() {
    survive(&[], &[End::Kill; 25], 1);
}

#[test]
fn killed_with_helper_threads() {
    survive(&["--aio", "threads"], &[End::Kill; 15], 2);
}

#[test]
fn killed_with_io_uring() {
    survive(&["--aio", "io_uring"], &[End::Kill; 15], 6);
}

/// The kernel completes the killed program's I/O before the next program begins.
#[test]
fn killed_past_the_page_cache() {
    survive(&["--cache", "none"], &[End::Kill; 15], 7);
}

#[test]
fn killed_in_write_through_mode() {
    survive(&["--cache", "writethrough", "--workers", "1"], &[End::Kill; 15], 3);
}

#[test]
fn the_frontend_hangs_up_and_comes_back() {
    survive(&[], &[End::HangUp; 20], 4);
}

#[test]
fn killed_and_hung_up_on() {
    survive(&["--poll-us", "0"], &[End::Kill, End::HangUp, End::HangUp, End::Kill, End::Kill, End::HangUp], 5);
}

#[test]
fn killed_with_keys_in_requests() {
    survive_with_keys_in_requests(&[], &[End::Kill; 25], 8);
}

#[test]
fn killed_with_keys_in_requests_and_helper_threads() {
    survive_with_keys_in_requests(&["--aio", "threads", "--cache", "none"], &[End::Kill; 15], 9);
}

#[test]
fn hung_up_on_with_keys_in_requests() {
    survive_with_keys_in_requests(&[], &[End::HangUp, End::Kill, End::HangUp, End::HangUp, End::Kill, End::HangUp], 10);
}

/// A request that is executed again returns its digests.
#[test]
fn killed_with_digests() {
    survive_with(Driver::new().and_digests(), &[], &[End::Kill; 15], 11);
}

#[test]
fn killed_with_digests_and_keys_in_requests() {
    let driver = Driver::with_keys_in_requests().and_digests();
    let options = ["--keyslots", "0", "--cache", "none", "--aio", "threads"];
    assert_eq!(survive_with(driver, &options, &[End::Kill; 15], 12).nokeys, 0);
}

/// A frontend may ask for a region of its default size and set larger rings afterwards. They work, and entries that the
/// region has of smaller rings are resubmitted neither in them nor later.
#[test]
fn a_region_for_smaller_rings() {
    use vhost::vhost_user::message::VhostUserProtocolFeatures;
    let protocol = VhostUserProtocolFeatures::INFLIGHT_SHMFD;
    let mut guest = Guest::with(Options { ring_size: 256, protocol, ..Options::default() });
    let all = guest.rings.len();
    let stop = |guest: &mut Guest| {
        for queue in 0..all {
            guest.frontend().get_vring_base(queue).expect("GET_VRING_BASE");
        }
    };
    stop(&mut guest);
    let wanted = VhostUserInflight::new(0, 0, all as u16, 128);
    let (region, file) = guest.frontend().get_inflight_fd(&wanted).expect("GET_INFLIGHT_FD");
    // The firmware's ring, with two requests in flight when the backend was killed.
    let part = region.mmap_size / all as u64;
    for queue in 0..all as u64 {
        file.write_all_at(&[1, 0, 128, 0], queue * part + 8).expect("region");
        for head in [0, 3] {
            file.write_all_at(&[1], queue * part + 16 + 16 * head).expect("region");
        }
    }
    for _ in 0..2 {
        guest.frontend().set_inflight_fd(&region, file.as_raw_fd()).expect("SET_INFLIGHT_FD");
        guest.start_rings();
        let control = guest.control();
        guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
        for round in 0..600u64 {
            let (queue, sector) = ((round % 2) as usize, round % 100 * 8);
            let plain = pattern(round, 4096);
            guest.request(queue, &crypto_write(sector, 0, [round, 0, 0, 0], &plain), 1).assert_only_status(OK);
            assert!(guest.image_bytes(sector * 512, 4096) == openssl_xts(&key(1), round.into(), 4096, &plain));
        }
        for queue in 0..all {
            let used = guest.rings[queue].next_used;
            guest.rings[queue].assert_silent_from(used);
        }
        assert_eq!(guest.stat("events.broken_queue"), 0);
        stop(&mut guest);
    }
    // Rings that fit are tracked, and nothing is left of the ones before.
    let mut options = Options { ring_size: 128, protocol, ..Options::default() };
    options.queues = 2;
    let mut small = Guest::with(options);
    stop(&mut small);
    small.frontend().set_inflight_fd(&region, file.as_raw_fd()).expect("SET_INFLIGHT_FD");
    small.start_rings();
    small.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    for queue in 0..all {
        small.rings[queue].assert_silent_from(u16::from(queue == 0));
    }
    let mut head = [0; 4];
    file.read_exact_at(&mut head, 8).expect("region");
    assert_eq!(head, [1, 0, 128, 0], "version and size");
}

/// An invalid region ends the session with an error, and the next frontend is served.
#[test]
fn bad_regions_are_refused() {
    let mut machine = Machine::new(&[]);
    let (good, file) = machine.inflight.take().expect("region");
    let fd = file.as_raw_fd();
    let bad = |change: fn(&mut VhostUserInflight)| {
        let mut region = good;
        change(&mut region);
        region
    };
    for region in [
        // A region for queues that run already.
        good,
        bad(|region| region.mmap_size -= 1),
        bad(|region| region.num_queues = 200),
        bad(|region| region.queue_size = 32768),
        bad(|region| region.mmap_offset = 1 << 20),
        bad(|region| region.mmap_offset = u64::MAX),
        bad(|region| region.mmap_size = u64::MAX),
    ] {
        let frontend = machine.frontend.as_mut().expect("connected");
        if region.mmap_size == good.mmap_size
            && region.num_queues == good.num_queues
            && region.queue_size == RING
            && region.mmap_offset == 0
        {
            assert!(frontend.set_inflight_fd(&region, fd).is_err());
        } else {
            for index in 0..QUEUES {
                frontend.get_vring_base(index).expect("GET_VRING_BASE");
            }
            assert!(frontend.set_inflight_fd(&region, fd).is_err());
        }
        machine.frontend = None;
        machine.inflight = None;
        machine.connect();
    }
    for (queues, size) in [(100, RING), (2, 2048)] {
        let frontend = machine.frontend.as_mut().expect("connected");
        assert!(frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, queues, size)).is_err());
        machine.frontend = None;
        machine.connect();
    }
    let buffers = machine.rings[0].add(&header(FLUSH, 0), 1);
    machine.rings[0].kick();
    assert_eq!(machine.rings[0].wait(), (buffers.head, 1));
}
