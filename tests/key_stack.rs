// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands, and requests that carry their key, leave no round key on the stack. That holds for optimised code, and for
//! all implementations but the portable one. xtask runs the test with `--release`.

#[path = "../xts/tests/xts/search.rs"]
mod search;

use std::task::{Context, Poll, Waker};

use libtest_mimic::{Arguments, Trial};
use scattered_xts::{Implementation, KEY_BYTES};
use test_driver::wire::{CRYPTO_OUT_EXT, KeyedRequest, OK, Program, feature};
use vhost_user_blk_crypto::device::{Device, DeviceConfig};
use vhost_user_blk_crypto::disk::{Disk, OpenOptions};
use vhost_user_blk_crypto::engine::{EngineConfig, Timing};
use vhost_user_blk_crypto::queue::Chain;
use vhost_user_blk_crypto::vhost::VirtioDevice;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use search::{boxed, found, round_keys, wipe};

fn main() {
    let implementations = Implementation::available()
        .filter(|&implementation| !cfg!(debug_assertions) && implementation != Implementation::Portable);
    let trials = implementations.flat_map(|implementation| {
        let ways = [
            (Way::Command, "a_command"),
            (Way::CommandWithFault, "a_command_with_a_fault_that_keeps_keys"),
            (Way::Request, "a_request_with_its_key"),
        ];
        ways.map(|(way, name)| {
            let run = move || {
                no_key_stays_on_the_stack(implementation, way);
                Ok(())
            };
            Trial::test(format!("{implementation}::no_key_stays_on_the_stack_of_{name}"), run)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// How the device gets a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Command,
    CommandWithFault,
    Request,
}

fn key() -> [u8; KEY_BYTES] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(73).wrapping_add(41))
}

fn no_key_stays_on_the_stack(implementation: Implementation, way: Way) {
    let config = DeviceConfig {
        engine: EngineConfig {
            cache_unwrapped: true,
            keyslots: if way == Way::Request { 0 } else { 1 },
            crypto_engine: implementation,
            raw_keys: true,
            data_unit_mask: 0x1000,
            max_dun_bytes: 8,
            digests: Vec::new(),
            logical_block_size: 512,
            serial: String::new(),
            timing: Timing::default(),
        },
        num_queues: 1,
        queue_size: 16,
        seg_max: 13,
        physical_block_size: 512,
        writeback: true,
        keep_keys_on_reset: false,
        access_platform: false,
        in_band: false,
        ufs: false,
    };
    let options = OpenOptions { read_only: false, discard: false, direct: false, logical_block_size: 512 };
    let disk = Disk::new(options.in_memory(1 << 20).expect("memory"), None).expect("disk");
    let device = Device::new(config, None, disk).expect("device");
    device.set_features(feature::CTRL_VQ | feature::INLINE_ENCRYPTION | feature::VERSION_1);
    let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 8192)]).expect("memory");
    let round_keys = round_keys(&mut boxed(implementation, key), key);
    #[inline(never)]
    fn lay_out(guest: &GuestMemoryMmap, way: Way) {
        let bytes = match way {
            Way::Command | Way::CommandWithFault => Program::new(0, &key(), 12).bytes(),
            Way::Request => KeyedRequest::new(CRYPTO_OUT_EXT, 0, 0, &key()).bytes(),
        };
        guest.write_slice(&bytes, GuestAddress(0)).expect("guest memory");
    }
    if way == Way::CommandWithFault {
        device.faults().add("key-halves-swapped").expect("fault");
    }
    lay_out(&guest, way);
    // Values built here have padding, which may hold old stack content.
    wipe();
    let worker = device.worker().expect("worker");
    let readable = if way == Way::Request { 208 + 4096 } else { 168 };
    let descriptors = [Descriptor::new(0, readable, 1, 1), Descriptor::new(8000, 1, 2, 0)];
    let chain = Chain::walk(&guest, descriptors.into_iter(), 16).expect("chain");
    wipe();
    assert_eq!(found(&round_keys), 0, "the test itself leaves round keys");
    // The second queue is the control virtqueue.
    let queue = usize::from(way != Way::Request);
    let mut served = Box::pin(device.serve(0, device.parse(&worker, queue, 0, chain)));
    let polled = served.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(found(&round_keys), 0);
    assert_eq!(polled, Poll::Ready(1));
    assert_eq!(guest.read_obj::<u8>(GuestAddress(8000)).expect("status"), OK);
}
