// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Engines that differ from the default: keys survive a reset, or the engine is slow.

mod common;

use common::*;
use std::time::{Duration, Instant};
use vhost::VhostBackend;
use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::engine::Timing;

fn guest_with(config: DeviceConfig) -> Guest {
    Guest::with(Options { config, ..Options::default() })
}

fn keeping_keys() -> Guest {
    guest_with(DeviceConfig { keep_keys_on_reset: true, ..Options::default().config })
}

fn slow(timing: Timing) -> Guest {
    let mut config = Options::default().config;
    config.engine.timing = timing;
    guest_with(config)
}

fn program(guest: &mut Guest, slot: u32) {
    let control = guest.control();
    guest.request(control, &Program::new(slot, &key(slot.into()), 12).bytes(), 1).assert_only_status(OK);
}

/// Writes through a keyslot, and checks by OpenSSL that the slot has this key.
fn write_and_compare(guest: &mut Guest, slot: u32, seed: u64) {
    let plain = pattern(seed, 8192);
    guest.request(0, &crypto_write(0, slot, [seed, 0, 0, 0], &plain), 1).assert_only_status(OK);
    assert!(guest.image_bytes(0, 8192) == openssl_xts(&key(slot.into()), seed.into(), 4096, &plain));
}

#[test]
fn keys_survive_what_the_driver_does_to_the_device() {
    let mut guest = keeping_keys();
    program(&mut guest, 1);
    program(&mut guest, 2);
    write_and_compare(&mut guest, 1, 1);

    // RESET_DEVICE, then SET_FEATURES.
    guest.restart();
    write_and_compare(&mut guest, 1, 2);

    // All queues stopped, as QEMU's generic device resets, and a paused machine.
    for index in 0..guest.rings.len() {
        guest.frontend().get_vring_base(index).expect("GET_VRING_BASE");
    }
    guest.start_rings();
    write_and_compare(&mut guest, 2, 3);
    assert_eq!(guest.stat("keyslots.lost"), 0);

    // The commands still work.
    let control = guest.control();
    guest.request(control, &evict(1), 1).assert_only_status(OK);
    guest.restart();
    guest.request(0, &crypto_write(0, 1, [0; 4], &[1; 4096]), 1).assert_only_status(NOKEY);
    write_and_compare(&mut guest, 2, 4);
}

/// The next frontend may belong to another guest: it inherits nothing, however the previous session ended.
#[test]
fn no_key_survives_its_frontend() {
    let mut guest = keeping_keys();
    program(&mut guest, 1);
    guest.disconnect();
    assert_eq!(guest.stat("keyslots.lost"), 1);
    guest.connect();
    guest.start();
    guest.request(0, &crypto_write(0, 1, [0; 4], &[1; 4096]), 1).assert_only_status(NOKEY);

    program(&mut guest, 2);
    guest.frontend().reset_owner().expect("RESET_OWNER");
    guest.frontend().get_features().expect("GET_FEATURES");
    assert_eq!(guest.stat("keyslots.lost"), 2);
}

#[test]
fn commands_take_their_time() {
    let (program_time, evict_time) = (Duration::from_millis(40), Duration::from_millis(80));
    let mut guest = slow(Timing { program: program_time, evict: evict_time, ..Timing::default() });
    let control = guest.control();
    let start = Instant::now();
    program(&mut guest, 0);
    assert!(start.elapsed() >= program_time);
    let start = Instant::now();
    write_and_compare(&mut guest, 0, 7);
    guest.request(control, &evict(0), 1).assert_only_status(OK);
    assert!(start.elapsed() >= evict_time);
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(NOKEY);
}

/// Slow commands on one queue do not delay requests on the others.
#[test]
fn a_slow_command_holds_no_request_up() {
    let mut guest = slow(Timing { program: Duration::from_secs(1), ..Timing::default() });
    program(&mut guest, 0);
    let control = guest.control();
    let start = Instant::now();
    let ring = &mut guest.rings[control];
    ring.add(&Program::new(1, &key(1), 12).bytes(), 1);
    ring.kick();
    write_and_compare(&mut guest, 0, 9);
    assert!(start.elapsed() < Duration::from_secs(1), "a request waited for a command: {:?}", start.elapsed());
    guest.rings[control].wait();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

/// A reset ends requests early, so the engine has nothing left to do.
#[test]
fn a_reset_leaves_the_engine_idle() {
    // 8 MiB at 1 MB/s: 8 seconds.
    let mut guest = slow(Timing { crypto_mb_per_s: 1, ..Timing::default() });
    program(&mut guest, 0);
    for _ in 0..4 {
        guest.rings[0].add(&crypto_write(0, 0, [0; 4], &pattern(1, 2 << 20)), 1);
    }
    guest.rings[0].kick();
    std::thread::sleep(Duration::from_millis(100));
    guest.restart();
    program(&mut guest, 0);
    let start = Instant::now();
    write_and_compare(&mut guest, 0, 9);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// There is one engine: requests on two queues at a time take as long as on one.
#[test]
fn queues_share_the_throughput_of_the_engine() {
    // 4 MB at 20 MB/s: 200 ms.
    let mut guest = slow(Timing { crypto_mb_per_s: 20, ..Timing::default() });
    program(&mut guest, 0);
    let data = pattern(1, 1_000_000 / 4096 * 4096);
    let start = Instant::now();
    for queue in [0, 1] {
        for n in 0..2 {
            let sector = (queue * 2 + n) as u64 * 2048;
            guest.rings[queue].add(&crypto_write(sector, 0, [0; 4], &data), 1);
        }
        guest.rings[queue].kick();
    }
    for queue in [0, 0, 1, 1] {
        guest.rings[queue].wait();
    }
    let expected = Duration::from_secs_f64(4.0 * data.len() as f64 / 20e6);
    assert!(start.elapsed() >= expected, "{:?}", start.elapsed());
    assert!(guest.image_bytes(3 << 20, data.len()) == openssl_xts(&key(0), 0, 4096, &data));

    // Plain requests and failed requests do not use the engine.
    let mut guest = slow(Timing { crypto_latency: Duration::from_secs(5), ..Timing::default() });
    let start = Instant::now();
    guest.request(0, &write_request(0, &data), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(0, 0, [0; 4], &data), 1).assert_only_status(NOKEY);
    assert!(start.elapsed() < Duration::from_secs(5));
}
