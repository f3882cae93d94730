// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo bench --bench parse`: from an available head to a checked request, without a disk and without keys.
//!
//! Three steps, each on top of the one before: taking a head from the ring, walking its descriptors, parsing the
//! request. Times of one thread, with all memory in its cache.

mod common;

use std::hint::black_box;

use common::nanoseconds;
use test_driver::wire::{CRYPTO_IN, CRYPTO_OUT, IN, OUT, crypto_header, feature, header};
use test_driver::{Virtqueue, WRITE};
use vhost_user_blk_crypto::queue::Chain;
use vhost_user_blk_crypto::request::{CryptoAccess, Limits, QueueRole, parse};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const QUEUE_SIZE: u16 = 256;

const DESCRIPTORS: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x5000;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const DATA: u64 = 0x10_0000;

/// A ring in which the chain at descriptor 0 is available: a request of `pieces` pages.
fn ring(crypto: bool, write: bool, pieces: u16) -> (GuestMemoryMmap, Queue) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
    let header = match (write, crypto) {
        (true, true) => crypto_header(CRYPTO_OUT, 8, 1, [0; 4]),
        (false, true) => crypto_header(CRYPTO_IN, 8, 1, [0; 4]),
        (true, false) => header(OUT, 8),
        (false, false) => header(IN, 8),
    };
    memory.write_slice(&header, GuestAddress(HEADER)).expect("memory");
    let direction = if write { 0 } else { WRITE };
    // Pages that are not contiguous, as in a guest.
    let data = (0..pieces).map(|n| (DATA + u64::from(n) * 0x3000, 4096, direction));
    let all: Vec<_> = [(HEADER, header.len() as u32, 0)].into_iter().chain(data).chain([(STATUS, 1, WRITE)]).collect();
    let mut driver = Virtqueue::new(memory.clone(), QUEUE_SIZE, [DESCRIPTORS, AVAIL, USED]);
    driver.write_chain(DESCRIPTORS, |number| number, &all);
    driver.publish(0);
    let mut queue = Queue::new(QUEUE_SIZE).expect("a queue");
    queue.set_size(QUEUE_SIZE);
    queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(AVAIL)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
    queue.set_ready(true);
    (memory, queue)
}

fn main() {
    println!("nanoseconds for one request, one thread");
    println!("{:<34} {:>8} {:>8} {:>8}", "", "head", "+ walk", "+ parse");
    for (name, crypto, write, pieces) in [
        ("read, 4 KiB", false, false, 1),
        ("write, 4 KiB", false, true, 1),
        ("encrypted read, 4 KiB", true, false, 1),
        ("encrypted write, 4 KiB", true, true, 1),
        ("encrypted write, 128 KiB in pages", true, true, 32),
    ] {
        let (memory, mut queue) = ring(crypto, write, pieces);
        let limits = Limits {
            capacity: 1 << 30,
            logical_block_size: 512,
            read_only: false,
            features: feature::CTRL_VQ | feature::INLINE_ENCRYPTION,
            crypto: CryptoAccess::ControlQueue,
        };
        let mut head = || {
            queue.set_next_avail(0);
            queue.pop_descriptor_chain(&memory).expect("a chain")
        };
        let take = nanoseconds(|| {
            black_box(head());
        });
        let walk = nanoseconds(|| {
            drop(black_box(Chain::walk(&memory, head(), QUEUE_SIZE).expect("a good chain")));
        });
        let whole = nanoseconds(|| {
            let chain = Chain::walk(&memory, head(), QUEUE_SIZE).expect("a good chain");
            let parsed = parse(chain, QueueRole::Request, &limits);
            assert!(black_box(&parsed.request).is_ok());
            drop(black_box(parsed));
        });
        println!("{name:<34} {take:>8.0} {walk:>8.0} {whole:>8.0}");
    }
}
