// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Neither requests nor commands leave a round key on the stack. Holds for the kernels of this project, when they are
//! optimised.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vhost_user_blk_crypto::crypto::{Engine, XtsKey};
use vhost_user_blk_crypto::device::{Device, DeviceConfig, Timing};
use vhost_user_blk_crypto::disk::{Disk, OpenOptions};
use vhost_user_blk_crypto::protocol::{
    KeyDescriptor, KeyUse, RequestHeader, Status, crypto_mode, feature, key_type, request_type,
};
use vhost_user_blk_crypto::queue::Chain;
use vhost_user_blk_crypto::soon::Soon;
use vhost_user_blk_crypto::vhost::{Progress, VirtioDevice};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};
use zerocopy::IntoBytes;

use crate::reference::{dun, expand, key};

/// Bytes of the stack that are searched.
const LOOK_AT: usize = 64 << 10;

fn memory(from: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let memory = File::open("/proc/self/mem").expect("own memory");
    memory.read_exact_at(&mut bytes, from as u64).expect("own memory");
    bytes
}

/// Halves of round keys found below the caller's frame.
#[inline(never)]
fn found(round_keys: &[u8]) -> usize {
    let marker = 0u8;
    let here = std::hint::black_box(&raw const marker) as usize;
    let stack = memory(here - LOOK_AT, LOOK_AT);
    round_keys.chunks_exact(8).filter(|half| stack.windows(8).any(|bytes| bytes == *half)).count()
}

/// An expanded key. Its copies on the stack are below the caller's frame, where [`wipe`] gets at them: a value that the
/// caller makes later may take over, in its padding, what is left in the caller's own frame.
#[inline(never)]
fn boxed(engine: Engine, seed: u32) -> Box<XtsKey> {
    Box::new(expand(engine, &key(seed)))
}

/// The round keys of all three schedules.
fn round_keys(key: &XtsKey) -> Vec<u8> {
    // A schedule has each round key four times in a row; anything else is something else, or padding.
    let bytes = memory((&raw const *key).addr(), size_of::<XtsKey>());
    let of_a_schedule = |row: &&[u8]| row[..16] != [0; 16] && row.chunks_exact(16).all(|lane| lane == &row[..16]);
    let round_keys: Vec<u8> = bytes.chunks_exact(64).filter(of_a_schedule).flatten().copied().collect();
    assert_eq!(round_keys.len(), 3 * 15 * 64);
    round_keys
}

/// What was on the stack before is not the question.
#[inline(never)]
fn wipe() {
    std::hint::black_box([0u8; 2 * LOOK_AT]);
}

pub fn no_key_stays_on_the_stack(engine: Engine) {
    let key = boxed(engine, 11);
    let round_keys = round_keys(&key);
    let mut data = vec![0; 65536 + 64];
    // On the boundary that stores past the caches need.
    let start = data.as_ptr().align_offset(64);
    let data = &mut data[start..][..65536];
    assert!(data.as_ptr().addr().is_multiple_of(64));
    #[inline(never)]
    fn use_key(key: &XtsKey, data: &mut [u8]) {
        for bits in [4, 9, 12, 16] {
            key.encrypt(dun(1), bits, data);
            key.decrypt(dun(1), bits, data);
        }
    }
    #[inline(never)]
    fn use_key_as_the_device(key: &XtsKey, data: &mut [u8]) {
        let data = [VolatileSlice::from(data)];
        for bits in [4, 9, 12, 16] {
            key.encrypt_past_caches(dun(1), bits, &data, &data);
            key.decrypt_meanwhile(dun(1), bits, &data, &data, Soon::new(&data[0]));
        }
    }
    wipe();
    assert_eq!(found(&round_keys), 0, "the test itself leaves round keys");
    use_key(&key, data);
    assert_eq!(found(&round_keys), 0);
    use_key_as_the_device(&key, data);
    assert_eq!(found(&round_keys), 0);
}

pub fn no_key_stays_on_the_stack_of_a_command(engine: Engine) {
    let config = DeviceConfig {
        keyslots: 1,
        crypto_engine: engine,
        raw_keys: true,
        data_unit_mask: 0x1000,
        max_dun_bytes: 8,
        num_queues: 1,
        queue_size: 16,
        seg_max: 13,
        serial: String::new(),
        logical_block_size: 512,
        physical_block_size: 512,
        writeback: true,
        timing: Timing::default(),
        keep_keys_on_reset: false,
        in_band: false,
    };
    let options = OpenOptions { read_only: false, discard: false, direct: false, logical_block_size: 512 };
    let disk = Disk::new(options.in_memory(1 << 20).expect("memory"), None).expect("disk");
    let device = Device::new(config, None, disk).expect("device");
    device.set_features(feature::CTRL_VQ | feature::INLINE_ENCRYPTION | feature::VERSION_1);
    let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
    let round_keys = round_keys(&boxed(engine, 12));
    #[inline(never)]
    fn lay_out(guest: &GuestMemoryMmap) {
        let mut bytes = [0; 128];
        bytes[..64].copy_from_slice(&key(12));
        let usage = KeyUse {
            key_size: 64.into(),
            crypto_mode: crypto_mode::AES_256_XTS.into(),
            key_type: key_type::RAW.into(),
            data_unit_size_bits: 12.into(),
            dun_bytes: 8.into(),
        };
        let header = RequestHeader { request_type: request_type::KEYSLOT_PROGRAM.into(), ..Default::default() };
        guest.write_slice(header.as_bytes(), GuestAddress(0)).expect("guest memory");
        let descriptor = KeyDescriptor { slot: 0.into(), bytes, usage };
        guest.write_slice(descriptor.as_bytes(), GuestAddress(16)).expect("guest memory");
    }
    lay_out(&guest);
    // What is built here has room that is not filled: what lies there is moved along.
    wipe();
    let mut lane = device.lane().expect("lane");
    let descriptors = [Descriptor::new(0, 168, 1, 1), Descriptor::new(1024, 1, 2, 0)];
    let chain = Chain::walk(&guest, descriptors.into_iter(), 16).expect("chain");
    wipe();
    assert_eq!(found(&round_keys), 0, "the test itself leaves round keys");
    // The second queue is the control virtqueue.
    let accepted = device.accept(&mut lane, 1, 0, chain);
    let progress = device.start(&mut lane, 0, accepted);
    assert_eq!(found(&round_keys), 0);
    assert!(matches!(progress, Progress::Done(1)));
    assert_eq!(guest.read_obj::<u8>(GuestAddress(1024)).expect("status"), Status::Ok as u8);
}
