// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Transfer and task management requests of a UFS host controller, mostly sensible ones: each is answered, or the driver is told that
//! it cannot be. If all of them want encryption, no plaintext gets onto the image.

use std::os::unix::fs::FileExt;

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::ufs::{
    BLOCK, DATA, DATA_BYTES, DESCRIPTORS, ENABLE, IMAGE_BYTES, LIST, TASKS, Ufs, descriptor, reg, with_ufs,
};
use crate::wire::{all, number};

/// What the guest's data consists of.
const FILL: [u8; 16] = *b"plaintext, guest";

#[derive(Debug, Arbitrary)]
enum Op {
    Transfer(Transfer),
    /// Several at a time.
    Transfers(Box<[Transfer; 3]>),
    Task(Task),
    Program {
        slot: u8,
        key: u8,
    },
    Evict {
        slot: u8,
    },
}

/// A request.
#[derive(Debug)]
struct Transfer {
    slot: u8,
    upiu: [u8; 32],
    direction: u8,
    entries: Vec<(u64, u32)>,
    crypto: Option<(u8, u64)>,
    /// A word of the descriptor, and what is there instead.
    lie: Option<(u64, u32)>,
}

impl<'a> Arbitrary<'a> for Transfer {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let slot = u.int_in_range(0..=31)?;
        let lun = if u.ratio(1, 5)? { *u.choose(&[0x81, 0xd0, 0xc4, 0xb0, 1, 0xff])? } else { 0 };
        let transaction = if u.ratio(3, 4)? { 1 } else { *u.choose(&[0, 0x16, 4, 0x3f])? };
        let mut upiu = [0; 32];
        upiu[..4].copy_from_slice(&[transaction, u.arbitrary()?, lun, slot]);
        let blocks = number(u, 20)? as u16;
        let bytes = if u.ratio(1, 5)? { number(u, 20_000)? as u32 } else { u32::from(blocks) * BLOCK as u32 };
        upiu[12..16].copy_from_slice(&bytes.to_be_bytes());
        let writes = u.ratio(1, 2)?;
        if transaction == 1 && u.ratio(2, 3)? {
            let place = number(u, IMAGE_BYTES as u64 / BLOCK as u64)?;
            let cdb = &mut upiu[16..];
            if u.ratio(1, 2)? {
                cdb[0] = if writes { 0x2a } else { 0x28 };
                cdb[2..6].copy_from_slice(&(place as u32).to_be_bytes());
                cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
            } else {
                cdb[0] = if writes { 0x8a } else { 0x88 };
                cdb[2..10].copy_from_slice(&place.to_be_bytes());
                cdb[10..14].copy_from_slice(&u32::from(blocks).to_be_bytes());
            }
            cdb[1] = if u.ratio(1, 5)? { 8 } else { 0 };
        } else {
            let known =
                [0x00, 0x03, 0x12, 0x1a, 0x1b, 0x25, 0x35, 0x42, 0x55, 0x5a, 0x91, 0x9e, 0xa0, 1, 2, 3, 4, 5, 6, 7];
            upiu[16] = *u.choose(&known)?;
            for byte in &mut upiu[17..32] {
                *byte = number(u, 40)? as u8;
            }
        }
        let mut entries = Vec::new();
        let mut left = bytes;
        while left > 0 && entries.len() < 8 {
            let take = if u.ratio(1, 2)? { left.min(0x40000) } else { left.min(4 * u.int_in_range(1..=1024)?) };
            let place = if u.ratio(1, 20)? { u.arbitrary()? } else { DATA + 4 * u.int_in_range(0..=DATA_BYTES / 4)? };
            entries.push((place, if u.ratio(1, 20)? { u.arbitrary()? } else { take.next_multiple_of(4) - 1 }));
            left -= take;
        }
        let direction = if u.ratio(1, 10)? { u.int_in_range(0..=3)? } else { 1 + u8::from(!writes) };
        let crypto = if u.ratio(3, 4)? { Some((u.int_in_range(0..=4)?, number(u, 1000)?)) } else { None };
        let lie = if u.ratio(1, 8)? { Some((u.int_in_range(0..=7)?, number(u, 0x20_0000)? as u32)) } else { None };
        Ok(Self { slot, upiu, direction, entries, crypto, lie })
    }
}

impl Transfer {
    fn prepare(&self, ufs: &Ufs, honest: bool) {
        let slot = u64::from(self.slot);
        let at = DESCRIPTORS + 0x1000 * slot;
        ufs.set_memory(at, &self.upiu);
        let table = self
            .entries
            .iter()
            .flat_map(|(place, count)| [&place.to_le_bytes()[..], &[0; 4], &count.to_le_bytes()].concat());
        ufs.set_memory(at + 0x800, &table.collect::<Vec<u8>>());
        let crypto = self.crypto.or(honest.then_some((0, 0)));
        let list = LIST + 32 * slot;
        ufs.set_memory(list, &descriptor(at, self.direction, self.entries.len() as u16, crypto));
        // The first word says whether it wants encryption.
        if let Some((word, value)) = self.lie.filter(|(word, _)| !honest || *word > 0) {
            ufs.set_memory(list + 4 * word, &value.to_le_bytes());
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Task {
    slot: u8,
    function: u8,
    lun: bool,
    tag: u8,
    garbage: Option<[u8; 16]>,
}

impl Task {
    fn run(&self, ufs: &mut Ufs) {
        let slot = u64::from(self.slot % 8);
        let mut bytes = [0; 80];
        bytes[16..22].copy_from_slice(&[4, 0, self.lun.into(), self.tag, 0, self.function]);
        bytes[35] = self.tag;
        if let Some(garbage) = self.garbage {
            bytes[16..32].copy_from_slice(&garbage);
        }
        ufs.set_memory(TASKS + 80 * slot, &bytes);
        ufs.set(reg::UTMRLDBR, 1 << slot);
        assert_eq!(ufs.get(reg::UTMRLDBR), 0, "a task management request is not answered");
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(honest) = u.ratio(1, 2) else { return };
    let ops = all::<Op>(u, 20);
    with_ufs(|ufs| {
        // In the middle of guest memory, so that a table may name something before and behind it.
        ufs.set_memory(DATA, &FILL.repeat(DATA_BYTES as usize / FILL.len()));
        ufs.program(0, 1, ENABLE);
        ufs.program(1, 2, ENABLE & !1 | 8);
        for op in &ops {
            if crate::shown() {
                println!("{op:x?}");
            }
            match op {
                Op::Transfer(transfer) => {
                    transfer.prepare(ufs, honest);
                    ufs.ring(1 << transfer.slot);
                }
                Op::Transfers(transfers) => {
                    transfers.iter().for_each(|transfer| transfer.prepare(ufs, honest));
                    ufs.ring(transfers.iter().fold(0, |requests, transfer| requests | 1 << transfer.slot));
                }
                Op::Task(task) => task.run(ufs),
                Op::Program { slot, key } => ufs.program((slot % 4).into(), *key, ENABLE),
                Op::Evict { slot } => ufs.program((slot % 4).into(), 0, 0),
            }
        }
        if honest {
            let mut image = vec![0; IMAGE_BYTES];
            ufs.image.read_exact_at(&mut image, 0).expect("image");
            assert!(image.windows(FILL.len()).all(|bytes| bytes != FILL), "plaintext on the image");
        }
    });
}
