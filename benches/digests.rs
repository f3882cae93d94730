// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo bench --bench digests`: what digests of the ciphertext cost.
//!
//! The first table compares a digest with the cipher alone. The second one compares requests with and without digests,
//! from an available head to a used one, on one thread. The measurements of a line take turns, so that a drift of the
//! machine favours none. "Best" is the shortest round, which other load on the machine disturbs least; look at the
//! ratios.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use scattered_xts::{Dun, Implementation, XtsKey};
use test_driver::wire::{
    CRYPTO_IN, CRYPTO_IN_EXT, CRYPTO_OUT, CRYPTO_OUT_EXT, DIGESTS, Program, extended_header, feature,
};
use test_driver::{Virtqueue, WRITE};
use vhost_user_blk_crypto::device::{Device, DeviceConfig};
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::disk::{Disk, OpenOptions};
use vhost_user_blk_crypto::engine::{EngineConfig, Timing};
use vhost_user_blk_crypto::queue::{RingAddresses, Vring};
use vhost_user_blk_crypto::vhost::{Poller, View, VirtioDevice, begin};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, VolatileSlice};

const UNIT: usize = 4096;
const KEY: [u8; 64] = [7; 64];
const QUEUE_SIZE: u16 = 1024;
/// Requests of a batch.
const BATCH: u16 = 64;
const DESCRIPTORS: u64 = 0;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xa000;
const HEADERS: u64 = 0x1_0000;
const ROOM: u64 = 0x10_0000;
const DATA: u64 = 0x100_0000;

fn main() {
    beside_the_cipher();
    println!("\nrequests with digests, throughput in % of that without: best (median)");
    print!("{:<30} {:>12}", "", "without, us");
    DigestAlgorithm::ALL.iter().for_each(|algorithm| print!(" {:>15}", algorithm.name()));
    println!();
    let temporary = |directory: &str| {
        let (file, path) = tempfile::NamedTempFile::new_in(directory).expect("image").into_parts();
        file.set_len(64 << 20).expect("image");
        let options = OpenOptions { read_only: false, discard: false, direct: false, logical_block_size: 512 };
        (Disk::new(options.open(&path).expect("image"), None).expect("disk"), Some(path))
    };
    for disk in ["memory disk", "file on tmpfs", "cached file"] {
        for (write, bytes) in [(false, 4 << 10), (true, 4 << 10), (false, 128 << 10), (true, 128 << 10)] {
            let (image, _path) = match disk {
                "memory disk" => {
                    let options =
                        OpenOptions { read_only: false, discard: false, direct: false, logical_block_size: 512 };
                    (Disk::new(options.in_memory(64 << 20).expect("memory"), None).expect("disk"), None)
                }
                "file on tmpfs" => temporary("/dev/shm"),
                _ => temporary(env!("CARGO_TARGET_TMPDIR")),
            };
            let what = format!("{disk}, {} {} KiB", if write { "write" } else { "read" }, bytes >> 10);
            requests(&what, image, write, bytes);
        }
    }
}

/// A data unit in the first cache: encrypted, and digested.
fn beside_the_cipher() {
    let mut data = vec![1; UNIT];
    let key = XtsKey::new(Implementation::detect(), &KEY);
    let (mut target, mut crcs) = (vec![0; UNIT], [[0; 4]; 1]);
    let mut shortest = [f64::INFINITY; 6];
    for _ in 0..2000 {
        for (number, shortest) in shortest.iter_mut().enumerate() {
            let start = Instant::now();
            for _ in 0..32 {
                let (from, to) = ([VolatileSlice::from(&mut data[..])], [VolatileSlice::from(&mut target[..])]);
                let dun = Dun::new([3, 0, 0, 0]);
                match DigestAlgorithm::ALL.get(number) {
                    Some(algorithm) => drop(black_box(algorithm.digest(black_box(&data)))),
                    None if number == 4 => key.encrypt(dun, 12, black_box(&from), black_box(&to)),
                    None => {
                        let to = black_box(&to);
                        black_box(key.encrypt_with_crc32c(dun, 12, black_box(&from), to, false, &mut crcs));
                    }
                }
            }
            *shortest = shortest.min(start.elapsed().as_nanos() as f64 / 32.0);
        }
    }
    let [digests @ .., cipher, both] = shortest;
    println!(
        "4 KiB in the cache: {} encrypts in {cipher:.0} ns, {:.1} GB/s",
        Implementation::detect(),
        4096.0 / cipher
    );
    if key.has_crc32c() {
        println!("the same with CRC-32C in one pass: {both:.0} ns, {:.2} of the cipher", both / cipher);
    }
    for (algorithm, digest) in DigestAlgorithm::ALL.iter().zip(digests) {
        println!(
            "{:<12} {digest:>6.0} ns {:>6.1} GB/s {:>6.2} of the cipher",
            algorithm.name(),
            4096.0 / digest,
            digest / cipher
        );
    }
}

fn device(disk: Disk) -> Device {
    let engine = EngineConfig {
        keyslots: 4,
        cache_unwrapped: false,
        crypto_engine: Implementation::detect(),
        raw_keys: true,
        data_unit_mask: 0x1fe00,
        max_dun_bytes: 16,
        digests: DigestAlgorithm::ALL.to_vec(),
        logical_block_size: 512,
        serial: "bench".into(),
        timing: Timing::default(),
    };
    let config = DeviceConfig {
        engine,
        num_queues: 1,
        queue_size: QUEUE_SIZE,
        seg_max: QUEUE_SIZE - 3,
        physical_block_size: 512,
        writeback: true,
        keep_keys_on_reset: false,
        in_band: true,
        access_platform: false,
        ufs: false,
    };
    let device = Device::new(config, None, disk).expect("device");
    device.set_features(device.features() & !feature::CTRL_VQ & !feature::INLINE_ENCRYPTION & !feature::EVENT_IDX);
    device
}

/// A line of the second table.
fn requests(what: &str, disk: Disk, write: bool, bytes: usize) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]).expect("memory");
    let mut driver = Virtqueue::new(memory.clone(), QUEUE_SIZE, [DESCRIPTORS, AVAIL, USED]);
    let device = device(disk);
    let worker = device.worker().expect("worker");
    let view = View::new(GuestMemoryAtomic::new(memory.clone()));
    let vrings = [Arc::new(Vring::new(0, QUEUE_SIZE).expect("queue"))];
    let [vring] = &vrings;
    let addresses = RingAddresses {
        descriptor_table: GuestAddress(DESCRIPTORS),
        avail_ring: GuestAddress(AVAIL),
        used_ring: GuestAddress(USED),
    };
    let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd");
    assert!(vring.set_size(QUEUE_SIZE) && vring.set_addresses(&memory, addresses));
    vring.set_kick(Some(kick.into()));
    vring.set_enabled(true);
    let turns = begin(&vrings).expect("the queue runs");
    let mut poller =
        Poller::new(&device, &worker, &view, &vrings, turns, |token, request| device.serve(token, request));
    let mut serve = |driver: &mut Virtqueue<GuestMemoryMmap>, heads: &[u16]| {
        heads.iter().for_each(|&head| driver.put(head));
        driver.set_avail_index(driver.next_avail);
        while driver.used_index() != driver.next_avail {
            poller.poll();
        }
    };

    // Each kind of request has chains of its own, for the same data.
    let program = Program::new(0, &KEY, 12).bytes();
    memory.write_slice(&program, GuestAddress(HEADERS)).expect("memory");
    driver.write_chain(DESCRIPTORS, |number| number, &[(HEADERS, program.len() as u32, 0), (ROOM, 1, WRITE)]);
    serve(&mut driver, &[0]);
    let chains = |driver: &Virtqueue<GuestMemoryMmap>, write: bool| -> Vec<(Vec<u16>, Vec<u64>)> {
        let ways = [(0, 0)].into_iter().chain(DIGESTS);
        let chains_of = |(way, (algorithm, size)): (u16, (u8, usize))| {
            let chain = |number: u16| {
                let index = 3 * (way * BATCH + number);
                let header_at = HEADERS + 1024 + 64 * u64::from(index);
                let request_type = match (write, algorithm) {
                    (true, 0) => CRYPTO_OUT,
                    (true, _) => CRYPTO_OUT_EXT,
                    (false, 0) => CRYPTO_IN,
                    (false, _) => CRYPTO_IN_EXT,
                };
                let sector = (usize::from(number) * bytes / 512) as u64;
                let header = extended_header(request_type, sector, 0, [algorithm, 0, 0, 0], [sector, 0, 0, 0]);
                memory.write_slice(&header, GuestAddress(header_at)).expect("memory");
                let data = DATA + (usize::from(number) * bytes) as u64;
                let (room, array) = (ROOM + 0x800 * u64::from(index), (bytes / UNIT * size) as u32);
                let direction = if write { 0 } else { WRITE };
                let pieces = [(header_at, 56, 0), (data, bytes as u32, direction), (room, array + 1, WRITE)];
                driver.write_chain(DESCRIPTORS, |at| index + at, &pieces);
                (index, room + u64::from(array))
            };
            (0..BATCH).map(chain).unzip()
        };
        (0u16..).zip(ways).map(chains_of).collect()
    };
    // The device would read pages that are not resident by system calls.
    let written = chains(&driver, true);
    (0..2).for_each(|_| serve(&mut driver, &written[0].0));
    let chains = chains(&driver, write);
    let rounds = if bytes > UNIT { 150 } else { 1500 };
    let mut times = vec![Vec::new(); chains.len()];
    for _ in 0..rounds {
        for ((heads, _), times) in chains.iter().zip(&mut times) {
            let start = Instant::now();
            serve(&mut driver, heads);
            times.push(start.elapsed().as_nanos() as f64 / 1e3 / f64::from(BATCH));
        }
    }
    for (_, statuses) in &chains {
        for &status in statuses {
            assert_eq!(memory.read_obj::<u8>(GuestAddress(status)).expect("memory"), 0, "the requests succeed");
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let [best, median] = [0, rounds / 2].map(|at| times.iter().map(|times| times[at]).collect::<Vec<_>>());
    print!("{what:<30} {:>12.2}", best[0]);
    for (best_of, median_of) in best[1..].iter().zip(&median[1..]) {
        print!(" {:>15}", format!("{:.1} ({:.1})", 100.0 * best[0] / best_of, 100.0 * median[0] / median_of));
    }
    println!();
}
