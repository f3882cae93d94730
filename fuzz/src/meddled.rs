// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The real device, with a guest that changes its memory whenever the device begins or goes on with a request, and a disk
//! whose answers arrive when a run says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{PollFd, PollFlags, poll};
use vhost_user_blk_crypto::device::{Answer, Device, DeviceLane};
use vhost_user_blk_crypto::queue::{Beginning, Chain};
use vhost_user_blk_crypto::vhost::{Lane, Notifier, Progress, Token, VirtioDevice};
use vm_memory::GuestMemoryMmap;

use crate::layout;
use crate::patience::Patience;

/// A byte that the guest writes while the device works.
pub type Poke = (u64, u8);

pub struct Meddled {
    pub device: Device,
    memory: GuestMemoryMmap,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    pokes: VecDeque<Poke>,
    /// What is in hand: queue, head.
    in_hand: BTreeSet<(usize, u16)>,
    /// Those of them that have been started.
    started: BTreeMap<Token, (usize, u16)>,
    broken: BTreeSet<usize>,
    /// How many answers arrive at the next looks, and which.
    schedule: VecDeque<u8>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic before")
}

impl Meddled {
    pub fn new(device: Device, memory: GuestMemoryMmap) -> Self {
        Self { device, memory, state: Arc::default() }
    }

    /// As at the beginning.
    pub fn forget(&self) {
        *lock(&self.state) = State::default();
        let _ = self.device.faults().clear(None);
    }

    pub fn meddle_later(&self, pokes: &[Poke]) {
        lock(&self.state).pokes.extend(pokes);
    }

    /// Each byte is a look at the answers of the disk: how many arrive, and which. When there is none all arrive.
    pub fn schedule(&self, looks: &[u8]) {
        lock(&self.state).schedule.extend(looks);
    }

    /// All that was begun is done.
    pub fn check_idle(&self) {
        let state = lock(&self.state);
        assert!(state.in_hand.is_empty(), "begun and not done: {:?}", state.in_hand);
    }

    /// Whether a queue has been retired since it was started.
    pub fn is_broken(&self, queue: usize) -> bool {
        lock(&self.state).broken.contains(&queue)
    }

    pub fn mended(&self, queue: usize) {
        lock(&self.state).broken.remove(&queue);
    }

    fn meddle(&self) {
        let poke = lock(&self.state).pokes.pop_front();
        if let Some((at, byte)) = poke {
            layout::poke(&self.memory, at, &[byte]);
        }
    }

    fn went<J>(&self, lane: &mut SlowLane, token: Token, progress: Progress<J>) -> Progress<J> {
        match &progress {
            Progress::Done(_) => {
                let mut state = lock(&self.state);
                let place = state.started.remove(&token).expect("only what was started can be done, once");
                assert!(state.in_hand.remove(&place));
            }
            Progress::Waiting(_) => lane.expected += 1,
            Progress::Alone(_) => {}
        }
        progress
    }
}

/// A chain that the device has looked at.
pub struct Looked<'m> {
    place: (usize, u16),
    /// Bytes that the device may write.
    room: u64,
    accepted: <Device as VirtioDevice>::Accepted<'m>,
}

impl VirtioDevice for Meddled {
    type Lane = SlowLane;
    type Accepted<'m> = Looked<'m>;
    type Job<'m> = <Device as VirtioDevice>::Job<'m>;

    fn features(&self) -> u64 {
        self.device.features()
    }
    fn queue_count(&self) -> usize {
        self.device.queue_count()
    }
    fn queue_size(&self) -> u16 {
        self.device.queue_size()
    }
    fn set_features(&self, features: u64) {
        self.check_idle();
        self.device.set_features(features);
    }
    fn config(&self) -> Vec<u8> {
        self.device.config()
    }
    fn write_config(&self, offset: u32, data: &[u8]) {
        self.device.write_config(offset, data);
    }
    fn connected(&self) {
        self.device.connected();
    }
    fn set_notifier(&self, notifier: Notifier) {
        self.device.set_notifier(notifier);
    }
    fn hung_up(&self) {
        self.device.hung_up();
    }
    fn reset(&self) {
        self.device.reset();
    }
    fn stopped(&self) {
        self.device.stopped();
    }
    fn queue_begins(&self, queue: usize, beginning: Beginning) {
        self.device.queue_begins(queue, beginning);
    }
    fn lane(&self) -> io::Result<SlowLane> {
        let state = Arc::clone(&self.state);
        Ok(SlowLane { lane: self.device.lane()?, state, expected: 0, arrived: Vec::new() })
    }
    fn accept<'m>(&self, lane: &mut SlowLane, queue: usize, head: u16, chain: Chain<'m>) -> Looked<'m> {
        let is_new = lock(&self.state).in_hand.insert((queue, head));
        assert!(is_new, "queue {queue}, head {head}: taken while it is in hand");
        self.meddle();
        let room = chain.writable.len();
        Looked { place: (queue, head), room, accepted: self.device.accept(&mut lane.lane, queue, head, chain) }
    }
    fn announce(&self, lane: &mut SlowLane, looked: &Looked<'_>) {
        self.device.announce(&mut lane.lane, &looked.accepted);
    }
    fn start<'m>(&self, lane: &mut SlowLane, token: Token, looked: Self::Accepted<'m>) -> Progress<Self::Job<'m>> {
        let Looked { place, room, accepted } = looked;
        let before = lock(&self.state).started.insert(token, place);
        assert_eq!(before, None, "token {token} is used twice");
        self.meddle();
        let progress = self.device.start(&mut lane.lane, token, accepted);
        if let Progress::Done(written) = progress {
            assert!(u64::from(written) <= room, "{written} bytes written into {room}");
        }
        self.went(lane, token, progress)
    }
    fn resume<'m>(
        &self,
        lane: &mut SlowLane,
        token: Token,
        job: Self::Job<'m>,
        answer: Option<Answer>,
    ) -> Progress<Self::Job<'m>> {
        self.meddle();
        let progress = self.device.resume(&mut lane.lane, token, job, answer);
        self.went(lane, token, progress)
    }
    fn disconnected(&self) {
        self.device.disconnected();
    }
    fn queue_running(&self, queue: usize, running: bool) {
        self.device.queue_running(queue, running);
    }
    fn queue_broken(&self, queue: usize) {
        lock(&self.state).broken.insert(queue);
        self.device.queue_broken(queue);
    }
}

/// The device's lane. The helper threads are waited for, so that a run does the same each time; when and in which order
/// their answers arrive the run says.
pub struct SlowLane {
    lane: DeviceLane,
    state: Arc<Mutex<State>>,
    /// Answers that have not been passed on.
    expected: usize,
    /// Those of them that are here.
    arrived: Vec<(Token, Answer)>,
}

impl Lane for SlowLane {
    type Answer = Answer;

    fn room(&self) -> usize {
        self.lane.room()
    }

    fn submit(&mut self) {
        self.lane.submit();
    }

    fn answers(&mut self, answers: &mut Vec<(Token, Answer)>) {
        let mut patience = Patience::new();
        loop {
            self.lane.answers(&mut self.arrived);
            if self.arrived.len() >= self.expected {
                break;
            }
            let mut events: Vec<_> = self.lane.events();
            let mut events: Vec<_> = events.iter_mut().map(|event| PollFd::new(event, PollFlags::IN)).collect();
            let second = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut events, Some(&second));
            patience.wait("the disk does not answer");
        }
        assert_eq!(self.arrived.len(), self.expected, "an answer to nothing");
        self.arrived.sort_by_key(|(token, _)| *token);
        let look = lock(&self.state).schedule.pop_front();
        let count = look.map_or(usize::MAX, |look| usize::from(look % 4)).min(self.arrived.len());
        for _ in 0..count {
            let which = look.map_or(0, |look| usize::from(look / 4) % self.arrived.len());
            answers.push(self.arrived.remove(which));
        }
        self.expected -= count;
    }

    fn let_go(&mut self) {
        self.lane.let_go();
    }

    fn holds_back(&self) -> bool {
        self.lane.holds_back()
    }

    fn release(&mut self, queue: usize) -> bool {
        self.lane.release(queue)
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.lane.events()
    }
}
