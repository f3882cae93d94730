// SPDX-License-Identifier: Apache-2.0 OR MIT

#![forbid(unsafe_code)]

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::*;
use crate::protocol::{RangeSegment, request_type};

/// A readable part at 0, and room behind it.
const ROOM: u64 = 4096;

fn limits(features: u64) -> Limits {
    Limits {
        capacity: 1 << 40,
        logical_block_size: 512,
        read_only: false,
        features,
        crypto: CryptoAccess::ControlQueue,
    }
}

/// What becomes of a request with these bytes and this much room, beside the status.
fn parsed(memory: &GuestMemoryMmap, readable: &[u8], room: u64, limits: &Limits) -> Result<Extent, Status> {
    memory.write_slice(readable, GuestAddress(0)).expect("guest memory");
    let descriptors = [Descriptor::new(0, readable.len() as u32, 1, 1), Descriptor::new(ROOM, room as u32 + 1, 2, 0)]; // NEXT; WRITE
    let chain = Chain::walk(memory, descriptors.into_iter(), 16).expect("chain");
    match parse(chain, QueueRole::Request, limits).request {
        Ok(Request::Read { extent, .. }) => Ok(extent),
        Ok(Request::SecureErase(extents)) if extents.len() == 1 => Ok(extents[0]),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.status),
    }
}

fn memory(bytes: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes as usize)]).expect("memory")
}

fn header(request_type: u32, sector: u64) -> Vec<u8> {
    [&request_type.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// The engine cannot be stopped in a request. The digests, which come after the data, count as well.
#[test]
fn an_encrypted_read_has_64_mib_at_most_with_digests_too() {
    const MOST: u64 = 64 << 20;
    let memory = memory(MOST + (1 << 20));
    let message = |digest| [&[0; 4][..], &[digest, 0, 0, 0], &[0; 32]].concat();
    for digest in [0, 1] {
        let request = [header(request_type::CRYPTO_IN_EXT, 8), message(digest)].concat();
        for (room, expected) in [(MOST, Ok(Extent { offset: 4096, len: MOST })), (MOST + 4096, Err(Status::IoErr))] {
            assert_eq!(parsed(&memory, &request, room, &limits(0)), expected, "digest {digest}, {room} bytes");
        }
    }
}

#[test]
fn secure_erase_where_it_is_offered() {
    let memory = memory(1 << 20);
    let range = |sectors: u32| RangeSegment { sector: 16.into(), num_sectors: sectors.into(), flags: 0.into() };
    let request = |sectors| [&header(request_type::SECURE_ERASE, 0), range(sectors).as_bytes()].concat();
    let offered = limits(feature::SECURE_ERASE);
    let most = 64 << 20;
    assert_eq!(parsed(&memory, &request(8), 0, &offered), Ok(Extent { offset: 8192, len: 4096 }));
    assert_eq!(parsed(&memory, &request(1 << 17), 0, &offered), Ok(Extent { offset: 8192, len: most }));
    assert_eq!(parsed(&memory, &request((1 << 17) + 1), 0, &offered), Err(Status::IoErr));
    assert_eq!(parsed(&memory, &request(8), 0, &limits(0)), Err(Status::Unsupp));
}
