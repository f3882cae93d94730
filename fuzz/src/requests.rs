// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Single requests with any bytes, room, descriptors and negotiated features: a request that passes parsing obeys the
//! rules of the protocol, which are checked here in numbers too large to overflow.

use arbitrary::{Arbitrary, Unstructured};
use test_driver::wire::*;
use vhost_user_blk_crypto::request::{
    CryptoAccess, CryptoTag, Extent, KeySource, Limits, ParsedChain, QueueRole, Request as Body, parse,
};

use crate::guest::{Cut, Guest, Setting, with_guest};
use crate::wire::{Request, all};

#[derive(Debug, Arbitrary)]
struct Input {
    features: u64,
    all_features: bool,
    capacity_blocks: u16,
    block: Block,
    read_only: bool,
    control: bool,
    crypto: Crypto,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Crypto {
    None,
    ControlQueue,
    InBand,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Block {
    Bytes512,
    Bytes4096,
    Bytes65536,
}

fn check_extent(extent: &Extent, limits: &Limits) {
    assert!(u128::from(extent.offset) + u128::from(extent.len) <= u128::from(limits.capacity), "{extent:?} {limits:?}");
    let block = u64::from(limits.logical_block_size);
    assert!(extent.offset.is_multiple_of(block) && extent.len.is_multiple_of(block), "{extent:?} {limits:?}");
}

fn check(request: &Body<'_>, bytes: &[u8], room: u32, limits: &Limits, role: QueueRole) {
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes")));
    let request_type = word(0).expect("a header");
    let writes = |limits: &Limits| assert!(!limits.read_only, "a write to a read-only disk");
    let has = |bit: u32| limits.features >> bit & 1 != 0;
    match (role, matches!(request, Body::Control(_))) {
        (QueueRole::Control, command) => assert!(command && limits.crypto == CryptoAccess::ControlQueue),
        (QueueRole::Request, true) => assert_eq!(limits.crypto, CryptoAccess::InBand),
        (QueueRole::Either, true) => assert_eq!(limits.crypto, CryptoAccess::ControlQueue),
        (QueueRole::Request | QueueRole::Either, false) => {}
    }
    match request {
        Body::Read { extent, crypto, .. } => {
            assert!(if crypto.is_some() { [28, CRYPTO_IN_EXT].contains(&request_type) } else { request_type == 0 });
            assert_eq!(extent.len, u64::from(room) - 1);
            // Where the data of a read with digests ends is not known yet.
            let is_known = crypto.is_none_or(|tag| tag.digest.is_none());
            check_extent(&Extent { len: if is_known { extent.len } else { 0 }, ..*extent }, limits);
        }
        Body::Write { extent, crypto, payload } => {
            assert!(if crypto.is_some() { [27, CRYPTO_OUT_EXT].contains(&request_type) } else { request_type == 1 });
            let header = match crypto {
                None => 16,
                Some(CryptoTag { key: KeySource::Slot(_) | KeySource::Disabled(_), .. }) => 56,
                Some(CryptoTag { key: KeySource::Request(_), .. }) => 56 + 152,
            };
            assert_eq!(extent.len, (bytes.len() - header) as u64);
            let pieces = payload.data(0, usize::MAX);
            let copy = pieces.iter().flat_map(|piece| {
                let mut copy = vec![0; piece.len()];
                piece.copy_to(&mut copy);
                copy
            });
            assert!(copy.eq(bytes[header..].iter().copied()));
            check_extent(extent, limits);
            writes(limits);
        }
        Body::Flush => assert_eq!(request_type, 4),
        Body::GetId => assert_eq!(request_type, 8),
        Body::Discard(extents) => {
            assert!(request_type == 11 && has(13) && extents.len() <= 64);
            extents.iter().for_each(|extent| check_extent(extent, limits));
            writes(limits);
        }
        Body::WriteZeroes(ranges) => {
            assert!(request_type == 13 && has(14) && ranges.len() <= 1);
            ranges.iter().for_each(|range| check_extent(&range.extent, limits));
            writes(limits);
        }
        Body::SecureErase(extents) => {
            assert!(request_type == 14 && has(16) && extents.len() <= 1);
            extents.iter().for_each(|extent| check_extent(extent, limits));
            writes(limits);
        }
        Body::Control(_) => {
            let in_band = request_type == GET_CRYPTO_CHARACTERISTICS && role == QueueRole::Request;
            assert!((29..=35).contains(&request_type) || request_type == GET_CRYPTO_EXTENSIONS || in_band);
        }
    }
    if let Body::Read { crypto: Some(tag), .. } | Body::Write { crypto: Some(tag), .. } = request {
        assert_ne!(limits.crypto, CryptoAccess::None, "encryption was not negotiated");
        let is_extended = [CRYPTO_IN_EXT, CRYPTO_OUT_EXT].contains(&request_type);
        let algorithm = DIGESTS.iter().find(|(known, _)| is_extended && *known == bytes[20]);
        assert_eq!(tag.digest.map(|digest| digest.size()), algorithm.map(|(_, size)| *size));
        assert!(!is_extended || bytes[20] <= BLAKE2B_256);
        match tag.key {
            KeySource::Slot(slot) => {
                assert_eq!(Some(slot), word(16));
                assert!(!is_extended || bytes[21..24] == [0; 3]);
            }
            KeySource::Disabled(slot) => panic!("virtio cannot disable slot {slot}"),
            KeySource::Request(key) => {
                assert_eq!((word(16), word(56), &bytes[21..24]), (Some(NO_SLOT), Some(NO_SLOT), &[1, 0, 0][..]));
                assert_eq!(Some(key.key_size), word(56 + 132));
            }
        }
        let words: Vec<u8> = tag.dun.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(words, bytes[24..56]);
    }
}

/// Takes the request off the ring without the device.
fn parse_on(guest: &mut Guest, request: &Request, cut: &Cut, role: QueueRole, limits: &Limits) {
    if request.readable.is_empty() && request.room == 0 {
        return;
    }
    guest.add(0, 0, request, cut);
    let turn = guest.vrings[0].begin().expect("the queue runs");
    let mut chains = Vec::new();
    turn.pop(&guest.memory, 1, u64::MAX, &mut chains);
    assert_eq!(chains.len(), 1);
    for taken in chains {
        let chain = taken.chain.expect("whole");
        assert_eq!((chain.readable.len(), chain.writable.len()), (request.readable.len() as u64, request.room.into()));
        let ParsedChain { request: parsed, room, mut status } = parse(chain, role, limits);
        let written = match parsed {
            Ok(parsed) => {
                check(&parsed, &request.readable, request.room, limits, role);
                status.finish(vhost_user_blk_crypto::protocol::Status::Ok, &room)
            }
            Err(refusal) if refusal.malformed => status.finish_malformed(refusal.status),
            Err(refusal) => {
                assert!(request.readable.len() >= 16 && request.room >= 1);
                status.finish(refusal.status, &room)
            }
        };
        assert!(written <= request.room.min(1));
        let completion = vhost_user_blk_crypto::queue::Completion { head: taken.head, written };
        turn.complete(&guest.memory, &[completion]);
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    let requests = all::<(Request, Cut)>(u, 20);
    let block = match input.block {
        Block::Bytes512 => 512,
        Block::Bytes4096 => 4096,
        Block::Bytes65536 => 65536,
    };
    let limits = Limits {
        capacity: (u64::from(input.capacity_blocks) + 1) * u64::from(block),
        logical_block_size: block,
        read_only: input.read_only,
        features: if input.all_features { u64::MAX } else { input.features },
        crypto: match input.crypto {
            Crypto::None => CryptoAccess::None,
            Crypto::ControlQueue => CryptoAccess::ControlQueue,
            Crypto::InBand => CryptoAccess::InBand,
        },
    };
    let role = if input.control { QueueRole::Control } else { QueueRole::Request };
    with_guest(Setting::plain(16), |guest| {
        for (request, cut) in &requests {
            parse_on(guest, request, cut, role, &limits);
            // In-band access is for drivers without a control virtqueue.
            if limits.crypto != CryptoAccess::InBand {
                parse_on(guest, request, cut, QueueRole::Either, &limits);
            }
        }
    });
}
