// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A backend that is stopped at every single store, and started again over the same memory.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::prelude::*;
use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::queue::{Completion, RingAddresses, TakenChain, Turn, Vring};

thread_local! {
    /// Stores until this backend is stopped.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Killed;

/// Counts a store; the last one that was allowed ends the backend like a signal.
pub fn crash_point() {
    if let Some(left) = LEFT.get() {
        if left <= 1 {
            LEFT.set(None);
            resume_unwind(Box::new(Killed));
        }
        LEFT.set(Some(left - 1));
    }
}

/// Runs `backend` until it ends, or until after `stores` stores. `None` when it was stopped.
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

/// The guest's memory, the frontend's region, and a driver with its books.
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

    /// A new backend, as a frontend starts it: it knows where the used ring is, and no more.
    fn backend(&self) -> Vring {
        let vring = Vring::new(0, SIZE).expect("queue");
        assert!(vring.set_size(SIZE));
        let rings = RingAddresses { descriptor_table: TABLE, avail_ring: AVAIL, used_ring: USED };
        assert!(vring.set_addresses(&self.memory, rings));
        vring.set_next_avail(self.memory.read_obj(USED.unchecked_add(2)).expect("ring"));
        assert!(vring.set_log(self.region.queue(0)));
        vring.set_enabled(true);
        vring.set_kick(Some(event()));
        assert!(!vring.take_retirement());
        vring
    }
}

fn event() -> File {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd").into()
}

/// What was asked: found by the address of its descriptor.
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
    /// The backend takes at most so many.
    Take(usize),
    /// The backend returns this one of those it has in hand, and so many after it.
    Return(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..6).prop_map(Step::Send),
        (1usize..6).prop_map(Step::Take),
        (0usize..SIZE.into(), 1usize..4).prop_map(|(which, count)| Step::Return(which, count)),
    ]
}

/// One backend's life: the steps in turn, or until it is stopped.
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
    turn.pop(memory, most, &mut chains);
    for taken in &chains {
        let number = number(taken, world);
        assert!(last.replace(number).is_none_or(|before| before < number), "served in another order than sent");
        hand.push((taken.head, number));
    }
}

/// A backend that lives until everything has been returned. Everything must be.
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

/// Sends, takes and returns in and out of order, and more than the ring has at once.
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
        // Each of 17 requests takes six, and the fresh region four.
        assert!(stores > 80, "only {stores} stores");
    }
}

/// The next backend is stopped as well, at every store of its own: those of the recovery are among them.
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

    /// Whatever the region holds, the backend goes on or says what is wrong, and never takes a head that the ring
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
                turn.pop(&world.memory, most, &mut chains);
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

/// A backend of another kind may return several chains with one store to the used index.
#[test]
fn a_batch_of_several_is_finished() {
    // Heads 5, 2 and 7 returned together; 1 and 3 still in flight, 3 taken first.
    for cleared in 0..=3 {
        let world = World::new(100);
        let mut log = world.region.queue(0).expect("part");
        assert_eq!(log.recover(SIZE, 100), Ok(Recovery::Fresh));
        for head in [5, 3, 2, 1, 7] {
            log.taken(head);
        }
        for head in [5, 2, 7] {
            log.returning(head);
        }
        // The used index is published; some marks are off already.
        for &head in &[7, 2, 5][..cleared] {
            world.region.store(log.desc(head, INFLIGHT), 0u8);
        }
        let mut next = world.region.queue(0).expect("part");
        assert_eq!(next.recover(SIZE, 103), Ok(Recovery::Resubmit(vec![3, 1])));
        assert_eq!(next.counter, 4);
        assert_eq!(next.field(USED_IDX), 103);
        assert!([5, 2, 7].into_iter().all(|head| !next.in_flight(head)));
    }
}

#[test]
fn regions_that_do_not_fit_are_refused() {
    let fresh = |used| {
        let world = World::new(used);
        let mut log = world.region.queue(0).expect("part");
        assert_eq!(log.recover(SIZE, used), Ok(Recovery::Fresh));
        (world, log)
    };
    let (world, mut log) = fresh(0);
    assert_eq!(log.recover(SIZE / 2, 0), Ok(Recovery::Resubmit(vec![])), "a smaller ring");
    world.region.store(DESC_NUM, (SIZE / 2).to_le());
    assert_eq!(log.recover(SIZE / 2, 0), Ok(Recovery::Resubmit(vec![])), "another backend's number");
    world.region.store(DESC_NUM, SIZE.to_le());
    log.taken(SIZE - 1);
    assert!(log.recover(SIZE / 2, 0).is_err(), "a head that the smaller ring does not have");
    assert!(log.recover(SIZE, SIZE + 1).is_err(), "more returned than the ring holds");
    world.region.store(LAST_BATCH_HEAD, SIZE.to_le());
    assert!(log.recover(SIZE, 1).is_err(), "a list that leads nowhere");
    // Nothing in flight: the ring may have begun anew.
    let (_world, mut log) = fresh(500);
    assert_eq!(log.recover(SIZE, 0), Ok(Recovery::Resubmit(vec![])));
    assert_eq!(log.field(USED_IDX), 0);
    for (at, value) in [(VERSION_AT, 2), (DESC_NUM, SIZE - 1)] {
        let (world, mut log) = fresh(0);
        world.region.store(at, u16::to_le(value));
        assert!(log.recover(SIZE, 0).is_err());
    }
}

/// What was in flight in another ring is not given out in this one, nor in a later one.
#[test]
fn a_larger_ring_is_not_tracked_and_leaves_nothing_to_recover() {
    let world = World::new(0);
    let mut log = world.region.queue(0).expect("part");
    assert_eq!(log.recover(SIZE * 2, 0), Ok(Recovery::TooSmall));
    assert_eq!(log.recover(SIZE, 0), Ok(Recovery::Fresh));
    [1, 5, SIZE - 1].into_iter().for_each(|head| log.taken(head));
    assert_eq!(log.recover(SIZE, 0), Ok(Recovery::Resubmit(vec![1, 5, SIZE - 1])));
    assert_eq!(log.recover(SIZE * 2, 7), Ok(Recovery::TooSmall));
    for _ in 0..2 {
        assert_eq!(log.recover(SIZE * 2, 9), Ok(Recovery::TooSmall));
    }
    assert_eq!(log.recover(SIZE, 9), Ok(Recovery::Fresh));
    assert_eq!(log.recover(SIZE, 9), Ok(Recovery::Resubmit(vec![])));
}

#[test]
fn regions_are_as_large_as_they_say() {
    assert_eq!(region_bytes(2, 128), 2 * (16 + 128 * 16u64).next_multiple_of(64));
    let file = || InflightRegion::create(3, SIZE).expect("memfd");
    let bytes = region_bytes(3, SIZE);
    let region = InflightRegion::map(file(), 0, bytes, 3, SIZE).expect("region");
    assert!(region.queue(2).is_some() && region.queue(3).is_none());
    for (offset, bytes, queues, size) in [
        (0, bytes - 1, 3, SIZE),
        (0, bytes, 4, SIZE),
        (0, bytes, 3, SIZE * 2),
        (0, bytes, 0, SIZE),
        (0, bytes, 3, 0),
        (4096, bytes, 3, SIZE),
        (0, u64::MAX, 3, SIZE),
        (u64::MAX, bytes, 3, SIZE),
        (0, u64::MAX, u16::MAX, u16::MAX),
        // No multiple of a page.
        (16, bytes - 16, 1, SIZE),
    ] {
        assert!(InflightRegion::map(file(), offset, bytes, queues, size).is_err(), "{offset} {bytes} {queues} {size}");
    }
    assert!(file().set_len(0).is_err(), "sealed");
}

/// A queue that is retired when it is started is reported once, and not when it is started again in good order.
#[test]
fn a_queue_with_a_bad_region_is_reported_once() {
    let world = World::new(0);
    drop(world.backend());
    world.region.store(VERSION_AT, 7u16.to_le());
    let vring = Vring::new(0, SIZE).expect("queue");
    let rings = RingAddresses { descriptor_table: TABLE, avail_ring: AVAIL, used_ring: USED };
    assert!(vring.set_size(SIZE) && vring.set_addresses(&world.memory, rings));
    vring.set_enabled(true);
    for (version, looked_at) in [(7u16, true), (7, false), (VERSION, true)] {
        world.region.store(VERSION_AT, version.to_le());
        vring.stop();
        assert!(vring.set_log(world.region.queue(0)));
        vring.set_kick(Some(event()));
        assert_eq!(vring.begin().is_some(), version == VERSION);
        if looked_at {
            assert_eq!(vring.take_retirement(), version != VERSION);
            assert!(!vring.take_retirement());
        }
    }
}

/// A region whose file is cut off: a queue that runs goes on without it, one that is started does not, because nobody knows
/// what was in flight.
#[test]
fn a_region_that_is_cut_off() {
    let mut world = World::new(0);
    let file = File::from(memfd_create("unsealed", MemfdFlags::CLOEXEC).expect("memfd"));
    let bytes = region_bytes(1, SIZE);
    file.set_len(bytes).expect("size");
    let map = || InflightRegion::map(file.try_clone().expect("file"), 0, bytes, 1, SIZE).expect("region");
    world.region = map();
    let vring = world.backend();
    for cut in [bytes, 0, 0] {
        file.set_len(cut).expect("cut off");
        world.send();
        let turn = vring.begin().expect("the queue runs");
        let mut chains = Vec::new();
        turn.pop(&world.memory, 32, &mut chains);
        let [TakenChain { head, .. }] = chains[..] else { panic!("one was sent: {chains:?}") };
        let written = (world.sent[&head] % 1000) as u32;
        turn.complete(&world.memory, &[Completion { head, written }]);
        drop((turn, chains));
        world.reap();
    }
    assert!(!world.region.watch.is_sound());
    file.set_len(bytes).expect("size");
    world.region = map();
    file.set_len(0).expect("cut off");
    vring.stop();
    assert!(vring.set_log(world.region.queue(0)));
    vring.set_kick(Some(event()));
    assert!(vring.begin().is_none() && vring.take_retirement());
}
