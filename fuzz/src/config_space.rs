// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads and writes of the configuration space, between requests: only one byte of it may change, and only if the
//! driver is allowed to change it.

use arbitrary::{Arbitrary, Unstructured};
use test_driver::wire::config::{BYTES, WRITEBACK};
use test_driver::wire::feature::CONFIG_WCE;
use vhost_user_blk_crypto::vhost::VirtioDevice;

use crate::guest::{Cut, Setting, with_guest};
use crate::wire::{Request, all};

#[derive(Debug, Arbitrary)]
enum Op {
    Write { offset: Offset, data: Vec<u8> },
    Request(u8, Request, Cut),
    Features(u64),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Offset {
    Small(u8),
    Any(u32),
    Top(u8),
}

/// A run.
pub fn run(bytes: &[u8]) {
    let ops = all::<Op>(Unstructured::new(bytes), 50);
    with_guest(Setting::plain(16), |guest| {
        let mut expected = guest.device.config();
        assert_eq!(expected.len(), BYTES);
        assert_eq!(expected[WRITEBACK], 1);
        let mut may_change = true;
        for op in ops {
            match op {
                Op::Write { offset, data } => {
                    let offset = match offset {
                        Offset::Small(offset) => offset.into(),
                        Offset::Any(offset) => offset,
                        Offset::Top(offset) => u32::MAX - u32::from(offset),
                    };
                    guest.device.write_config(offset, &data);
                    let byte = (offset as u64..).zip(&data).find(|(at, _)| *at == WRITEBACK as u64);
                    if let (Some((_, byte)), true) = (byte, may_change) {
                        expected[WRITEBACK] = (*byte != 0).into();
                    }
                }
                Op::Request(queue, request, cut) => {
                    if !request.readable.is_empty() && request.room > 0 {
                        guest.request(usize::from(queue % 3), &request, &cut);
                    }
                }
                Op::Features(features) => {
                    guest.set_features(features);
                    may_change = features & CONFIG_WCE != 0;
                    expected[WRITEBACK] = 1;
                }
            }
            assert_eq!(guest.device.config(), expected);
        }
    });
}
