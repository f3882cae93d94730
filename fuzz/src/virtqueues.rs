// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whole virtqueues that may break every rule, also while the device works, on disks that complete late and in any
//! order. The device neither panics nor loops for ever. It returns each head that it took exactly once, with at most as
//! many bytes as there was room for. Stopping a queue ends, and after a reset a broken queue works.

use arbitrary::{Arbitrary, Result, Unstructured};
use test_driver::Descriptor;
use test_driver::wire::{EVICT, IN, OK, PROGRAM, header};

use crate::disks::DiskKind;
use crate::guest::{CRYPTO_BITS, Cut, Demand, Guest, QUEUES, Setting, driver_features, with_guest};
use crate::layout::{self, BYTES, START, poke};
use crate::meddled::Poke;
use crate::wire::{Program, Request, all, number};

/// Faults that need no time.
const FAULTS: [&str; 12] = [
    "io-error",
    "short",
    "short=700,status=ok",
    "lose-key",
    "lose-all-keys,nth=2",
    "dun-not-incremented",
    "dun-32-bit",
    "dun-byte-order",
    "data-unit=1024",
    "key-halves-swapped",
    "previous-key",
    "bit-flip=3",
];

#[derive(Debug)]
enum Op {
    /// A valid request, under any head.
    Request {
        queue: usize,
        head: u16,
        request: Request,
        cut: Cut,
    },
    /// More data than a buffer has room for.
    Long {
        queue: usize,
        head: u16,
        write: bool,
        count: u16,
        piece: u32,
    },
    /// Commands in a row, each under a head of its own.
    Commands {
        queue: usize,
        head: u16,
        count: u16,
        program: Program,
        evict: u8,
    },
    /// A descriptor of any content in a ring's table, or in an indirect table.
    Descriptor {
        queue: usize,
        indirect: bool,
        index: u16,
        descriptor: Descriptor,
    },
    /// Makes any head available.
    Publish {
        queue: usize,
        head: u16,
    },
    /// Any available index.
    AvailIndex {
        queue: usize,
        index: u16,
    },
    /// Any bytes anywhere.
    Poke {
        at: u64,
        bytes: Vec<u8>,
    },
    /// Bytes that change while the device works.
    Meddle(Vec<Poke>),
    /// Any bytes in the in-flight region.
    Region {
        at: u64,
        bytes: Vec<u8>,
    },
    /// When the disk's completions arrive.
    Schedule(Vec<u8>),
    Work,
    /// The next actions happen while the device works.
    Busy(u8),
    Features(u64),
    /// The frontend stops a queue and starts it at the same index.
    Restart {
        queue: usize,
    },
    Config {
        offset: u8,
        byte: u8,
    },
    Fault(usize),
}

/// An address in guest memory, mostly in the rings; or outside.
fn address(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=9)? {
        0 => u.arbitrary()?,
        1 => START + BYTES as u64 - u.int_in_range(0..=64)?,
        2..=5 => START + 16 * u.int_in_range(0..=18_431u64)?,
        _ => START + u.int_in_range(0..=BYTES as u64)?,
    })
}

fn descriptor(u: &mut Unstructured<'_>) -> Result<Descriptor> {
    let len = match u.int_in_range(0..=3)? {
        0 => u.arbitrary()?,
        1 => 16 * u.int_in_range(0..=70)?,
        _ => u.int_in_range(0..=2000)?,
    };
    let flags = if u.ratio(1, 10)? { u.arbitrary()? } else { u.int_in_range(0..=7)? };
    let next = if u.ratio(1, 10)? { u.arbitrary()? } else { u.int_in_range(0..=16)? };
    Ok(Descriptor { address: address(u)?, len, flags, next })
}

fn features(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=3)? {
        0..=1 => u64::MAX,
        2 => !CRYPTO_BITS,
        _ => u.arbitrary()?,
    })
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let queue = u.int_in_range(0..=QUEUES - 1)?;
        let head = |u: &mut Unstructured<'_>| -> Result<u16> {
            if u.ratio(1, 20)? { u.arbitrary() } else { u.int_in_range(0..=15) }
        };
        Ok(match u.int_in_range(0..=31)? {
            0..=8 => Self::Request { queue, head: head(u)? % 64, request: u.arbitrary()?, cut: u.arbitrary()? },
            9 => {
                let (count, piece) = (u.int_in_range(1..=40)?, 512 * u.int_in_range(1..=64)?);
                Self::Long { queue, head: head(u)? % 64, write: u.arbitrary()?, count, piece }
            }
            10..=11 => {
                let (head, count) = (head(u)? % 64, u.int_in_range(1..=12)?);
                Self::Commands { queue, head, count, program: u.arbitrary()?, evict: u.arbitrary()? }
            }
            12..=13 => {
                Self::Descriptor { queue, indirect: u.arbitrary()?, index: head(u)?, descriptor: descriptor(u)? }
            }
            14..=15 => Self::Publish { queue, head: head(u)? },
            16 => Self::AvailIndex { queue, index: number(u, 40)? as u16 },
            17 => Self::Poke { at: address(u)?, bytes: u.arbitrary()? },
            18 => {
                let count = u.int_in_range(1..=6)?;
                Self::Meddle((0..count).map(|_| Ok((address(u)?, u.arbitrary()?))).collect::<Result<_>>()?)
            }
            19 => Self::Region { at: u.int_in_range(0..=3200)?, bytes: u.arbitrary()? },
            20..=21 => Self::Schedule((0..u.int_in_range(1..=8)?).map(|_| u.arbitrary()).collect::<Result<_>>()?),
            22..=24 => Self::Busy(u.int_in_range(1..=8)?),
            25 => Self::Features(features(u)?),
            26 => Self::Restart { queue },
            27 => Self::Config { offset: u.arbitrary()?, byte: u.arbitrary()? },
            28 => Self::Fault(u.choose_index(FAULTS.len())?),
            _ => Self::Work,
        })
    }
}

impl Op {
    /// Whether the driver's checks still hold afterwards: only the device writes to the used rings.
    fn is_honest(&self) -> bool {
        !matches!(
            self,
            Self::Descriptor { .. }
                | Self::AvailIndex { .. }
                | Self::Poke { .. }
                | Self::Meddle(_)
                | Self::Region { .. }
        )
    }
}

#[derive(Debug, Arbitrary)]
struct Input {
    features: Option<u64>,
    in_band: bool,
    size: u8,
    disk: DiskKind,
    /// The in-flight region is used.
    tracked: bool,
    /// Heads may be anything, but only requests change memory: then the driver's checks hold.
    honest: bool,
}

/// Does it, or returns what the frontend does while the device works.
fn apply(guest: &mut Guest, op: Op) -> Option<Demand> {
    use vhost_user_blk_crypto::vhost::VirtioDevice as _;
    if crate::shown() {
        eprintln!("{op:?}");
    }
    if !op.is_honest() {
        guest.books.void();
    }
    match op {
        Op::Request { queue, head, request, cut } => {
            guest.add(queue, head, &request, &cut);
        }
        Op::Long { queue, head, write, count, piece } => guest.add_long(queue, head, write, count, piece),
        Op::Commands { queue, head, count, program, evict } => {
            for number in 0..count {
                let program = Program { slot: program.slot.wrapping_add(number.into()), ..program.clone() };
                let request_type = if evict >> (number % 8) & 1 == 0 { PROGRAM } else { EVICT };
                let request = Request { readable: program.command(request_type), room: 1 };
                let cut = Cut { lengths: Vec::new(), indirect: true };
                guest.add(queue, (head + number) % 64, &request, &cut);
            }
        }
        Op::Descriptor { queue, indirect, index, descriptor } => {
            let ring = &guest.rings[queue];
            let table = if indirect { layout::indirect(ring, index / 16) } else { ring.descriptors };
            ring.write_descriptor(table, index % 256, descriptor);
        }
        Op::Publish { queue, head } => {
            guest.books.sent(queue, head);
            guest.rings[queue].publish(head);
        }
        Op::AvailIndex { queue, index } => guest.rings[queue].set_avail_index(index),
        Op::Poke { at, bytes } => poke(&guest.memory, at, &bytes),
        Op::Meddle(pokes) => guest.meddle_later(&pokes),
        Op::Region { at, bytes } => guest.poke_region(at, &bytes),
        Op::Schedule(looks) => guest.device.schedule(&looks),
        Op::Features(features) => return Some(Demand::Features(features)),
        Op::Restart { queue } => return Some(Demand::Restart(queue)),
        Op::Config { offset, byte } => guest.device.write_config(offset.into(), &[byte]),
        Op::Fault(which) => {
            let spec = FAULTS[which];
            guest.device.device.faults().add(spec).expect(spec);
        }
        Op::Work | Op::Busy(_) => {}
    }
    None
}

/// Does it between two turns of the worker.
fn apply_idle(guest: &mut Guest, op: Op) {
    let works = matches!(op, Op::Work);
    match apply(guest, op) {
        Some(Demand::Features(features)) => guest.set_features(features),
        Some(Demand::Restart(queue)) => guest.restart(queue),
        None if works => guest.work(),
        None => {}
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    let setting = Setting {
        features: input.features.unwrap_or(driver_features(input.in_band)),
        size: 1 << (input.size % 7),
        disk: input.disk,
        tracked: input.tracked,
        keys_in_requests: false,
    };
    if crate::shown() {
        eprintln!("{input:?}");
    }
    let mut ops = all::<Op>(u, 80).into_iter().filter(|op| !input.honest || op.is_honest());
    with_guest(setting, |guest| {
        while let Some(op) = ops.next() {
            match op {
                Op::Busy(count) => {
                    if crate::shown() {
                        eprintln!("{op:?}");
                    }
                    let mut now: std::collections::VecDeque<_> = ops.by_ref().take(count.into()).collect();
                    guest.work_while(|guest| now.pop_front().map(|op| apply(guest, op)));
                    now.into_iter().for_each(|op| apply_idle(guest, op));
                }
                op => apply_idle(guest, op),
            }
        }
        guest.work();
    });
    // The same device.
    with_guest(Setting { disk: input.disk, ..Setting::plain(16) }, |guest| {
        let request = Request { readable: header(IN, 0), room: 513 };
        for queue in [0, 1] {
            assert_eq!(guest.request(queue, &request, &Cut::default()).0, OK);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::QUEUE_SIZE;
    use test_driver::wire::GET_ID;

    /// Rings of every size that start just before an index wraps around, with batches of every length.
    #[test]
    fn indices_wrap_around() {
        for size in (1..=6).map(|bit| 1u16 << bit).filter(|size| *size <= QUEUE_SIZE) {
            for start in [0, 0x7ffe, 0x7fff, 0xfff0, 0xfffe, 0xffff] {
                for disk in [DiskKind::Memory, DiskKind::Threads] {
                    with_guest(Setting { disk, tracked: true, ..Setting::plain(size) }, |guest| {
                        wrap(guest, size, start)
                    });
                }
            }
        }
    }

    fn wrap(guest: &mut Guest, size: u16, start: u16) {
        guest.rings[0].next_avail = start;
        guest.bases[0] = start;
        guest.rings[0].set_used_index(start);
        guest.books.begins_at(0, start);
        guest.start(0);
        let cut = Cut::default();
        let mut used = start;
        for batch in 1..=size / 2 {
            // Two descriptors each, and all with the same content.
            let rooms: Vec<_> = (0..batch)
                .map(|i| guest.add(0, 2 * i, &Request { readable: header(GET_ID, 0), room: 21 }, &cut))
                .collect();
            guest.work();
            for (i, _) in rooms.iter().enumerate() {
                assert_eq!(guest.rings[0].used_entry(used), (2 * i as u32, 21));
                used = used.wrapping_add(1);
            }
            assert_eq!(guest.rings[0].used_index(), used, "{size} {start} {batch}");
        }
        assert_eq!(guest.vrings[0].stop().0, used);
    }
}
