// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In-flight tracking: the real program is killed at any moment and started again, and every request is completed once.

mod common;

use std::os::fd::AsRawFd;
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
    let mut machine = Machine::new(options);
    let mut random = random(seed);
    let mut driver = Driver::new();
    for end in ends {
        let how_long = Duration::from_micros(500 + random(40_000));
        driver.work(&mut machine, &mut random, how_long);
        machine.assert_running();
        match end {
            End::Kill => {
                machine.kill();
                // What the driver does while nobody is there.
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
    Driver::check_image(&machine, &[covered, open].concat());
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

/// What the kernel still has of the program that was killed is over before the next one begins.
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

/// Regions that are no regions end the session with an error, and the next frontend is served.
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
        // For queues that run already.
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
    for (queues, size) in [(100, RING), (2, 512)] {
        let frontend = machine.frontend.as_mut().expect("connected");
        assert!(frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, queues, size)).is_err());
        machine.frontend = None;
        machine.connect();
    }
    let buffers = machine.rings[0].add(&machine.memory, &header(FLUSH, 0), 1, &Cut::default());
    machine.rings[0].kick();
    assert_eq!(machine.rings[0].wait(&machine.memory), (buffers.head, 1));
}
