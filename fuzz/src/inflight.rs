// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Backends that follow each other on one queue with an in-flight region. As long as only backends write the region, each
//! request completes exactly once, wherever they were killed between two steps. Whatever the region contains, a backend
//! takes no head that is outside the ring or in flight already, returns one entry for each head that it took, and
//! finishes after a bounded number of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arbitrary::{Arbitrary, Result, Unstructured};
use test_driver::{Descriptor, WRITE};
use vhost_user_blk_crypto::queue::{Completion, InflightRegion, Turn, Vring, region_bytes};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::guest::eventfd;
use crate::layout::{self, Ring, START, poke};
use crate::wire::{all, number};

const MEMORY: usize = 128 << 10;
const MOST: u16 = 64;
/// `struct QueueRegionSplit`: a header, then a state for each descriptor, both of 16 bytes.
const HEADER: u64 = 16;
const STATE: u64 = 16;

#[derive(Debug)]
enum Op {
    /// The driver makes a request of `descriptors` available.
    Send { descriptors: u16, indirect: bool },
    /// The backend takes up to this many.
    Take(usize),
    /// It completes this many, from this one of those that it has in flight on.
    Return { which: usize, count: usize },
    /// It is killed, and the next one starts.
    Kill,
    /// The frontend stops the queue and starts it again.
    Restart,
    /// From here on the backend must only survive: overwrites the state of a descriptor.
    State { head: u16, inflight: u8, next: u16, counter: u64 },
    /// A field of the header.
    Field { at: u64, value: u16 },
    /// Any bytes in the region.
    Region { at: u64, bytes: Vec<u8> },
    /// Any used index, or another word of the rings.
    Ring { at: u64, value: u16 },
    /// Any descriptor.
    Descriptor { index: u16, descriptor: Descriptor },
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=23)? {
            0..=5 => Self::Send { descriptors: u.int_in_range(1..=4)?, indirect: u.ratio(1, 4)? },
            6..=9 => Self::Take(u.int_in_range(0..=40)?),
            10..=13 => Self::Return { which: u.int_in_range(0..=63)?, count: u.int_in_range(1..=9)? },
            14..=15 => Self::Kill,
            16 => Self::Restart,
            17..=18 => {
                let (head, inflight) = (number(u, 64)? as u16, u.int_in_range(0..=2)?);
                Self::State { head, inflight, next: number(u, 64)? as u16, counter: number(u, 20)? }
            }
            19 => Self::Field { at: 2 * u.int_in_range(0..=7)?, value: number(u, 70)? as u16 },
            20 => Self::Region { at: u.int_in_range(0..=2000)?, bytes: u.arbitrary()? },
            21 => {
                let at = *u.choose(&[8 << 10, (8 << 10) + 2, 12 << 10, (12 << 10) + 2])?;
                Self::Ring { at: at + 2 * u.int_in_range(0..=3)?, value: number(u, 70)? as u16 }
            }
            22 => {
                let (index, (address, len, flags, next)) = (u.int_in_range(0..=63)?, u.arbitrary()?);
                Self::Descriptor { index, descriptor: Descriptor { address, len, flags, next } }
            }
            _ => Self::Kill,
        })
    }
}

impl Op {
    fn is_honest(&self) -> bool {
        !matches!(
            self,
            Self::State { .. } | Self::Field { .. } | Self::Region { .. } | Self::Ring { .. } | Self::Descriptor { .. }
        )
    }
}

#[derive(Debug, Arbitrary)]
struct Input {
    /// Logarithm of the ring's size.
    size_bits: u8,
    /// The frontend's description of the region.
    queues: u8,
    queue_size: u16,
    /// The queue's number.
    queue: u8,
    /// First value of both indices of the ring.
    start: u16,
    near_the_end: bool,
    honest: bool,
    /// The frontend's description of a region that is only mapped.
    words: (u64, u64, u16, u16),
}

struct World {
    memory: GuestMemoryMmap,
    ring: Ring,
    file: File,
    region: Arc<InflightRegion>,
    queue: usize,
    queue_size: u16,
    /// The driver's free heads.
    free: BTreeSet<u16>,
    /// Requests in flight, and their descriptors.
    sent: BTreeMap<u16, Vec<u16>>,
    /// Whether only backends have written the region and the used ring.
    honest: bool,
    vring: Option<Vring>,
}

impl World {
    fn new(input: &Input) -> Option<Self> {
        let size = 1u16 << (input.size_bits % 7);
        let queues = u16::from(input.queues % 4);
        // Mostly that of the ring.
        let queue_size =
            if input.honest || !input.queue_size.is_multiple_of(4) { size } else { input.queue_size / 4 % 100 };
        let file = InflightRegion::create(queues, queue_size).expect("memfd");
        let twin = file.try_clone().expect("memfd");
        let region = InflightRegion::map(twin, 0, region_bytes(queues, queue_size), queues, queue_size);
        assert_eq!(region.is_err(), queues == 0 || queue_size == 0);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(START), MEMORY)]).expect("memory");
        let mut ring = layout::ring(&memory, 0, size);
        let start = if input.near_the_end { u16::MAX - input.start % 100 } else { input.start };
        (ring.next_avail, ring.next_used) = (start, start);
        ring.set_avail_index(start);
        ring.set_used_index(start);
        Some(Self {
            memory,
            ring,
            file,
            region: region.ok()?,
            queue: usize::from(input.queue) % usize::from(queues),
            queue_size,
            free: (0..size).collect(),
            sent: BTreeMap::new(),
            // A larger ring is not tracked, so the checks do not apply.
            honest: size <= queue_size,
            vring: None,
        })
    }

    /// A new backend, as a frontend starts it: it knows only the used index.
    fn start(&mut self) {
        let vring = Vring::new(0, MOST).expect("queue");
        assert!(vring.set_size(self.ring.size));
        assert!(vring.set_addresses(&self.memory, layout::addresses(&self.ring)));
        vring.set_next_avail(self.ring.used_index());
        assert!(vring.set_log(self.region.queue(self.queue)));
        vring.set_enabled(true);
        vring.set_kick(Some(eventfd()));
        if self.honest {
            assert!(vring.begin().is_some(), "the queue was retired at its start");
        }
        self.vring = Some(vring);
    }

    fn write_region(&self, at: u64, bytes: &[u8]) {
        let part = self.queue as u64 * region_bytes(1, self.queue_size);
        let whole = self.file.metadata().expect("memfd").len();
        let room = whole.saturating_sub(part + at).min(bytes.len() as u64) as usize;
        self.file.write_all_at(&bytes[..room], part + at).expect("memfd");
    }

    fn send(&mut self, descriptors: u16, indirect: bool) {
        let needed = if indirect { 1 } else { descriptors };
        if self.free.len() < usize::from(needed) || self.sent.len() >= usize::from(self.ring.size) {
            return;
        }
        let own: Vec<u16> = self.free.iter().copied().take(needed.into()).collect();
        let head = own[0];
        let mut pieces = vec![(START, u32::from(head) + 1, 0); descriptors.into()];
        pieces.last_mut().expect("a descriptor").2 = WRITE;
        if indirect {
            self.ring.write_indirect(head, layout::indirect(&self.ring, head), &pieces);
        } else {
            self.ring.write_chain(self.ring.descriptors, |number| own[usize::from(number)], &pieces);
        }
        self.free.retain(|index| !own.contains(index));
        self.sent.insert(head, own);
        self.ring.publish(head);
    }

    /// The driver takes completions: each request once.
    fn reap(&mut self) {
        let used = self.ring.used_index();
        while self.honest && self.ring.next_used != used {
            let (head, len) = self.ring.used_entry(self.ring.next_used);
            let head = u16::try_from(head).expect("a head");
            let own = self.sent.remove(&head);
            self.free.extend(own.unwrap_or_else(|| panic!("head {head} was completed, but was not in flight")));
            assert_eq!(len, u32::from(head) + 1, "the used length");
            self.ring.next_used = self.ring.next_used.wrapping_add(1);
        }
    }
}

/// A backend's life: until the operations end or one of them kills it. Returns true when it was killed.
fn live(world: &mut World, ops: &mut impl Iterator<Item = Op>) -> bool {
    let vring = world.vring.take().expect("started");
    let memory = world.memory.clone();
    let Some(turn) = vring.begin() else {
        // Retired at its start, which is reported once. The next backend is a new one.
        assert!(vring.take_retirement() && !vring.take_retirement());
        return ops.any(|op| matches!(op, Op::Kill | Op::Restart));
    };
    let mut hand: Vec<u16> = Vec::new();
    for op in ops.by_ref() {
        if !op.is_honest() {
            world.honest = false;
        }
        match op {
            Op::Send { descriptors, indirect } => world.send(descriptors, indirect),
            Op::Take(most) => take(&turn, &memory, most, world, &mut hand),
            Op::Return { which, count } if !hand.is_empty() => {
                let at = which % hand.len();
                let end = (at + count).min(hand.len());
                let back: Vec<_> = hand.drain(at..end).collect();
                give_back(world, &turn, &back);
            }
            Op::Return { .. } => {}
            // Only the region and the rings are left of it.
            Op::Kill => return true,
            Op::Restart => {
                give_back(world, &turn, &std::mem::take(&mut hand));
                drop(turn);
                vring.stop();
                return true;
            }
            Op::State { head, inflight, next, counter } => {
                let mut state = [0; STATE as usize];
                state[0] = inflight;
                state[6..8].copy_from_slice(&next.to_le_bytes());
                state[8..].copy_from_slice(&counter.to_le_bytes());
                world.write_region(HEADER + STATE * u64::from(head), &state);
            }
            Op::Field { at, value } => world.write_region(at, &value.to_le_bytes()),
            Op::Region { at, bytes } => world.write_region(at, &bytes),
            Op::Ring { at, value } => poke(&world.memory, START + at, &value.to_le_bytes()),
            Op::Descriptor { index, descriptor } => {
                world.ring.write_descriptor(world.ring.descriptors, index, descriptor);
            }
        }
        world.reap();
    }
    // It works until there is nothing left.
    let mut total = 0;
    loop {
        give_back(world, &turn, &std::mem::take(&mut hand));
        take(&turn, &memory, 7, world, &mut hand);
        total += hand.len();
        if hand.is_empty() {
            break;
        }
        // Requests that were in flight, and as many as the available ring can hold.
        assert!(total <= 2 * usize::from(world.ring.size), "the backend never finishes");
    }
    world.reap();
    if world.honest {
        assert!(turn.is_running(), "the queue was retired");
        assert!(world.sent.is_empty(), "requests were lost: {:?}", world.sent);
    }
    false
}

fn take(turn: &Turn<'_>, memory: &GuestMemoryMmap, most: usize, world: &World, hand: &mut Vec<u16>) {
    let mut chains = Vec::new();
    turn.pop(memory, most, u64::MAX, &mut chains);
    assert!(chains.len() <= most);
    for taken in chains {
        assert!(taken.head < world.ring.size, "head {} is not in the ring", taken.head);
        assert!(!hand.contains(&taken.head), "head {} is in flight already", taken.head);
        if world.honest {
            assert!(world.sent.contains_key(&taken.head), "head {} was not sent", taken.head);
            let chain = taken.chain.expect("whole");
            assert_eq!(chain.writable.len(), u64::from(taken.head) + 1, "another chain");
        }
        hand.push(taken.head);
    }
    turn.arm(memory);
}

fn give_back(world: &World, turn: &Turn<'_>, heads: &[u16]) {
    let before = world.ring.used_index();
    let completions: Vec<_> = heads.iter().map(|&head| Completion { head, written: u32::from(head) + 1 }).collect();
    turn.complete(&world.memory, &completions);
    if world.honest {
        assert_eq!(world.ring.used_index(), before.wrapping_add(heads.len() as u16));
    }
}

/// A run.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    let mut ops = all::<Op>(u, 150).into_iter().filter(|op| !input.honest || op.is_honest());
    let Some(mut world) = World::new(&input) else { return };
    // A region with any description is mapped or refused.
    let (offset, bytes, queues, size) = input.words;
    let twin = world.file.try_clone().expect("memfd");
    if InflightRegion::map(twin, offset, bytes, queues, size).is_ok() {
        let whole = u128::from(world.file.metadata().expect("memfd").len());
        assert!(u128::from(offset) + u128::from(bytes) <= whole && bytes >= region_bytes(queues, size));
    }
    loop {
        world.start();
        if !live(&mut world, &mut ops) {
            break;
        }
    }
}
