// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use std::mem::{offset_of, size_of};

#[test]
fn layouts_have_the_sizes_of_the_specification() {
    assert_eq!(size_of::<RequestHeader>(), 16);
    assert_eq!(size_of::<CryptoMessage>(), 40);
    assert_eq!(size_of::<KeyDescriptor>(), 152);
    assert_eq!(size_of::<CryptoExtensions>(), 16);
    assert_eq!(size_of::<KeyBlob>(), 132);
    assert_eq!(size_of::<RangeSegment>(), 16);
    assert_eq!(size_of::<ConfigSpace>(), 104);
    assert_eq!(offset_of!(ConfigSpace, crypto), 96);
    assert_eq!(offset_of!(ConfigSpace, num_queues), 34);
    assert_eq!(offset_of!(ConfigSpace, max_discard_sectors), 36);
    assert_eq!(offset_of!(ConfigSpace, max_secure_erase_sectors), 60);
    assert_eq!(CONFIG_WRITEBACK_OFFSET, 32);
}

/// The merged part of the protocol, against bindings made from the kernel's headers.
#[test]
fn numbers_are_those_of_the_kernel_headers() {
    use virtio_bindings::bindings::{virtio_blk as blk, virtio_config as config, virtio_ring as ring};
    for (ours, bit) in [
        (feature::SIZE_MAX, blk::VIRTIO_BLK_F_SIZE_MAX),
        (feature::SEG_MAX, blk::VIRTIO_BLK_F_SEG_MAX),
        (feature::RO, blk::VIRTIO_BLK_F_RO),
        (feature::BLK_SIZE, blk::VIRTIO_BLK_F_BLK_SIZE),
        (feature::FLUSH, blk::VIRTIO_BLK_F_FLUSH),
        (feature::TOPOLOGY, blk::VIRTIO_BLK_F_TOPOLOGY),
        (feature::CONFIG_WCE, blk::VIRTIO_BLK_F_CONFIG_WCE),
        (feature::MQ, blk::VIRTIO_BLK_F_MQ),
        (feature::DISCARD, blk::VIRTIO_BLK_F_DISCARD),
        (feature::WRITE_ZEROES, blk::VIRTIO_BLK_F_WRITE_ZEROES),
        (feature::SECURE_ERASE, blk::VIRTIO_BLK_F_SECURE_ERASE),
        (feature::INDIRECT_DESC, ring::VIRTIO_RING_F_INDIRECT_DESC),
        (feature::EVENT_IDX, ring::VIRTIO_RING_F_EVENT_IDX),
        (feature::VERSION_1, config::VIRTIO_F_VERSION_1),
    ] {
        assert_eq!(ours, 1 << bit);
    }
    for (ours, theirs) in [
        (request_type::IN, blk::VIRTIO_BLK_T_IN),
        (request_type::OUT, blk::VIRTIO_BLK_T_OUT),
        (request_type::FLUSH, blk::VIRTIO_BLK_T_FLUSH),
        (request_type::GET_ID, blk::VIRTIO_BLK_T_GET_ID),
        (request_type::DISCARD, blk::VIRTIO_BLK_T_DISCARD),
        (request_type::WRITE_ZEROES, blk::VIRTIO_BLK_T_WRITE_ZEROES),
        (request_type::SECURE_ERASE, blk::VIRTIO_BLK_T_SECURE_ERASE),
        (Status::Ok as u32, blk::VIRTIO_BLK_S_OK),
        (Status::IoErr as u32, blk::VIRTIO_BLK_S_IOERR),
        (Status::Unsupp as u32, blk::VIRTIO_BLK_S_UNSUPP),
        (RANGE_FLAG_UNMAP, blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
    ] {
        assert_eq!(ours, theirs);
    }
    assert_eq!(offset_of!(ConfigSpace, writeback), offset_of!(blk::virtio_blk_config, wce));
    assert_eq!(offset_of!(ConfigSpace, num_queues), offset_of!(blk::virtio_blk_config, num_queues));
}

#[test]
fn debug_of_a_key_descriptor_shows_no_key() {
    let mut descriptor = KeyDescriptor::new_zeroed_for_test();
    descriptor.bytes = [0xa5; MAX_KEY_BYTES];
    let text = format!("{descriptor:?} {descriptor:#?}");
    assert!(text.contains("redacted"));
    assert!(!text.contains("165") && !text.to_lowercase().contains("a5"));
}

impl KeyDescriptor {
    fn new_zeroed_for_test() -> Self {
        Self::read_from_bytes(&[0; 152]).expect("152 bytes")
    }
}
