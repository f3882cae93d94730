// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A backend that is stopped at every single store, and restarted over the same memory.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::prelude::*;
use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::queue::{Completion, Event, RingAddresses, TakenChain, Turn, Vring};

mod regions;

thread_local! {
    /// Stores until this backend is stopped.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Killed;

/// Counts a store. The last one allowed ends the backend, like a signal.
pub fn crash_point() {
    if let Some(left) = LEFT.get() {
        if left <= 1 {
            LEFT.set(None);
            resume_unwind(Box::new(Killed));
        }
        LEFT.set(Some(left - 1));
    }
}

/// Runs `backend` until it ends, or until it has made `stores` stores. `None` if it was stopped.
fn run<R>(stores: usize, backend: impl FnOnce() -> R) -> Option<R> {
    LEFT.set(Some(stores));
    let result = catch_unwind(AssertUnwindSafe(backend));
    LEFT.set(None);
    match result {
        Ok(result) => Some(result),
        Err(reason) if reason.is::<Killed>() => None,
        Err(reason) => resume_unwind(reason),
    }
}

const SIZE: u16 = 8;
const TABLE: GuestAddress = GuestAddress(0x1000);
const AVAIL: GuestAddress = GuestAddress(0x2000);
const USED: GuestAddress = GuestAddress(0x3000);

/// The guest's memory, the frontend's region, and the state of a driver.
struct World {
    memory: GuestMemoryMmap,
    region: Arc<InflightRegion>,
    avail: u16,
    seen: u16,
    free: VecDeque<u16>,
    /// The requests in flight as the driver sees it: head, number.
    sent: BTreeMap<u16, u64>,
    next_request: u64,
    completed: u64,
}

impl World {
    /// Both indices of the ring begin at `start`.
    fn new(start: u16) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
        let file = InflightRegion::create(1, SIZE).expect("memfd");
        let region = InflightRegion::map(file, 0, region_bytes(1, SIZE), 1, SIZE).expect("region");
        let world = Self {
            memory,
            region,
            avail: start,
            seen: start,
            free: (0..SIZE).collect(),
            sent: BTreeMap::new(),
            next_request: 0,
            completed: 0,
        };
        world.memory.write_obj(start, AVAIL.unchecked_add(2)).expect("ring");
        world.memory.write_obj(start, USED.unchecked_add(2)).expect("ring");
        world
    }

    /// Makes a request of one descriptor available, if there is a free one. Its address is its number.
    fn send(&mut self) {
        let Some(head) = self.free.pop_front() else { return };
        let number = self.next_request;
        self.next_request += 1;
        self.sent.insert(head, number);
        let descriptor = TABLE.unchecked_add(16 * u64::from(head));
        self.memory.write_obj(0x8000 + number % 0x1000, descriptor).expect("table");
        self.memory.write_obj(1u32, descriptor.unchecked_add(8)).expect("table");
        self.memory.write_obj(0u32, descriptor.unchecked_add(12)).expect("table");
        self.memory.write_obj(head, AVAIL.unchecked_add(4 + 2 * u64::from(self.avail % SIZE))).expect("ring");
        self.avail = self.avail.wrapping_add(1);
        self.memory.write_obj(self.avail, AVAIL.unchecked_add(2)).expect("ring");
    }

    /// Takes what has been returned. A head that is not in flight is a request completed twice.
    fn reap(&mut self) {
        let used: u16 = self.memory.read_obj(USED.unchecked_add(2)).expect("ring");
        while self.seen != used {
            let at = USED.unchecked_add(4 + 8 * u64::from(self.seen % SIZE));
            let head: u32 = self.memory.read_obj(at).expect("ring");
            let number = self.sent.remove(&(head as u16)).expect("a request that is in flight is returned, once");
            let len: u32 = self.memory.read_obj(at.unchecked_add(4)).expect("ring");
            assert_eq!(len, (number % 1000) as u32, "the answer to this very request");
            self.free.push_back(head as u16);
            self.completed += 1;
            self.seen = self.seen.wrapping_add(1);
        }
    }

    /// A new backend, as a frontend starts it: it only knows where the used ring is.
    fn backend(&self) -> Vring {
        self.backend_with(None)
    }

    /// The same, with this interrupt from the start.
    fn backend_with(&self, call: Option<Arc<Event>>) -> Vring {
        let vring = Vring::new(0, SIZE).expect("queue");
        assert!(vring.set_size(SIZE));
        let rings = RingAddresses { descriptor_table: TABLE, avail_ring: AVAIL, used_ring: USED };
        assert!(vring.set_addresses(&self.memory, rings));
        vring.set_next_avail(self.memory.read_obj(USED.unchecked_add(2)).expect("ring"));
        assert!(vring.set_log(self.region.queue(0)));
        vring.set_enabled(true);
        vring.set_call(call);
        vring.set_kick(Some(event()));
        assert!(!vring.take_retirement());
        vring
    }
}

fn event() -> File {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd").into()
}

/// The number of a request, from the address of its descriptor.
fn number(taken: &TakenChain<'_>, world: &World) -> u64 {
    assert_eq!(taken.chain.as_ref().expect("a chain").readable.len(), 1);
    *world.sent.get(&taken.head).expect("in flight")
}

fn give_back(turn: &Turn<'_>, world: &World, numbers: &[(u16, u64)]) {
    let completions: Vec<_> =
        numbers.iter().map(|&(head, number)| Completion { head, written: (number % 1000) as u32 }).collect();
    turn.complete(&world.memory, &completions);
}

/// One step of a backend.
#[derive(Debug, Clone)]
enum Step {
    /// The driver sends.
    Send(usize),
    /// The backend takes at most this many.
    Take(usize),
    /// The backend returns this one of those that it has taken, and this many after it.
    Return(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..6).prop_map(Step::Send),
        (1usize..6).prop_map(Step::Take),
        (0usize..SIZE.into(), 1usize..4).prop_map(|(which, count)| Step::Return(which, count)),
    ]
}

/// One backend's life: all steps, or until it is stopped.
fn live(world: &mut World, steps: &[Step]) {
    let vring = world.backend();
    let memory = world.memory.clone();
    let turn = vring.begin().expect("the queue runs");
    let mut hand = Vec::new();
    let mut last = None;
    for step in steps {
        match step {
            Step::Send(count) => (0..*count).for_each(|_| world.send()),
            Step::Take(most) => take(world, &turn, &memory, *most, &mut hand, &mut last),
            Step::Return(which, count) if !hand.is_empty() => {
                let at = which % hand.len();
                let end = (at + count).min(hand.len());
                let back: Vec<_> = hand.drain(at..end).collect();
                give_back(&turn, world, &back);
            }
            Step::Return(..) => {}
        }
        world.reap();
    }
}

fn take(
    world: &World,
    turn: &Turn<'_>,
    memory: &GuestMemoryMmap,
    most: usize,
    hand: &mut Vec<(u16, u64)>,
    last: &mut Option<u64>,
) {
    let mut chains = Vec::new();
    turn.pop(memory, most, u64::MAX, &mut chains);
    assert!(chains.len() <= most);
    for taken in &chains {
        let number = number(taken, world);
        assert!(last.replace(number).is_none_or(|before| before < number), "served in another order than sent");
        hand.push((taken.head, number));
    }
}

/// A backend that lives until everything has been returned, which must happen.
fn finish(world: &mut World) {
    let vring = world.backend();
    let memory = world.memory.clone();
    let turn = vring.begin().expect("the queue runs");
    let (mut hand, mut last) = (Vec::new(), None);
    loop {
        take(world, &turn, &memory, 3, &mut hand, &mut last);
        if hand.is_empty() {
            break;
        }
        give_back(&turn, world, &std::mem::take(&mut hand));
    }
    assert!(turn.is_running(), "the queue was retired");
    world.reap();
    assert!(world.sent.is_empty(), "requests were lost: {:?}", world.sent);
    assert_eq!(world.completed, world.next_request);
}

/// Sends, takes and returns, in and out of order, and more than the ring holds at once.
fn scenario() -> Vec<Step> {
    vec![
        Step::Send(5),
        Step::Take(3),
        Step::Return(1, 1),
        Step::Take(8),
        Step::Return(2, 2),
        Step::Send(4),
        Step::Take(2),
        Step::Return(0, 4),
        Step::Send(8),
        Step::Take(8),
        Step::Return(0, 3),
    ]
}

#[test]
fn stopped_at_every_store() {
    // The indices wrap around in the middle.
    for start in [0, u16::MAX - 6] {
        let mut stores = 0;
        loop {
            stores += 1;
            let mut world = World::new(start);
            let ended = run(stores, || live(&mut world, &scenario())).is_some();
            finish(&mut world);
            if ended {
                break;
            }
        }
        // Each of 17 requests makes six stores, and the fresh region four.
        assert!(stores > 80, "only {stores} stores");
    }
}

/// The next backend is also stopped at every store, including those of the recovery.
#[test]
fn stopped_twice_at_every_pair_of_stores() {
    let again = [Step::Take(2), Step::Return(1, 1), Step::Send(2), Step::Take(8), Step::Return(0, 3)];
    for first in 1.. {
        let mut second = 0;
        let ended = loop {
            second += 1;
            let mut world = World::new(u16::MAX - 3);
            let first_ended = run(first, || live(&mut world, &scenario())).is_some();
            let second_ended = run(second, || live(&mut world, &again)).is_some();
            finish(&mut world);
            if second_ended {
                break first_ended;
            }
        };
        if ended {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Any steps, any number of backends, stopped anywhere.
    #[test]
    fn random_steps_and_random_stops(
        start in any::<u16>(),
        lives in proptest::collection::vec((1usize..60, proptest::collection::vec(step(), 1..20)), 1..8),
    ) {
        let mut world = World::new(start);
        for (stores, steps) in lives {
            run(stores, || live(&mut world, &steps));
        }
        finish(&mut world);
    }

    /// Whatever the region holds, the backend continues or reports what is wrong. It never takes a head that the ring
    /// does not have.
    #[test]
    fn hostile_regions(
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), 0u8..SIZE as u8, any::<u8>()], 16 + 16 * 8),
        plausible in any::<bool>(),
        used in prop_oneof![0u16..10, any::<u16>()],
        sent in 0usize..9,
    ) {
        let mut world = World::new(used);
        (0..sent).for_each(|_| world.send());
        world.region.mapping.as_volatile_slice().write_slice(&bytes, 0).expect("region");
        if plausible {
            world.region.store(VERSION_AT, VERSION.to_le());
            world.region.store(DESC_NUM, SIZE.to_le());
        }
        let vring = Vring::new(0, SIZE).expect("queue");
        let rings = RingAddresses { descriptor_table: TABLE, avail_ring: AVAIL, used_ring: USED };
        assert!(vring.set_size(SIZE) && vring.set_addresses(&world.memory, rings));
        assert!(vring.set_log(world.region.queue(0)));
        vring.set_enabled(true);
        vring.set_kick(Some(event()));
        if let Some(turn) = vring.begin() {
            for most in [1, 3, 8, 8] {
                let mut chains = Vec::new();
                turn.pop(&world.memory, most, u64::MAX, &mut chains);
                prop_assert!(chains.iter().all(|taken| taken.head < SIZE));
                let heads: Vec<_> = chains.iter().map(|taken| (taken.head, 0)).collect();
                give_back(&turn, &world, &heads);
                turn.arm(&world.memory);
            }
        } else {
            prop_assert!(vring.take_retirement());
        }
    }
}
