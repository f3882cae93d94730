// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The real device, with a guest that changes its memory whenever the device begins or continues a request, and a disk
//! whose completions arrive when a run says so.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use rustix::event::{PollFd, PollFlags, poll};
use vhost_user_blk_crypto::device::{Device, PendingRequest};
use vhost_user_blk_crypto::engine::Worker;
use vhost_user_blk_crypto::queue::{Beginning, Chain};
use vhost_user_blk_crypto::reactor::Reactor;
use vhost_user_blk_crypto::tasks::Token;
use vhost_user_blk_crypto::vhost::{Notifier, VirtioDevice};
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
    /// Heads in flight, with their queue.
    in_hand: BTreeSet<(usize, u16)>,
    /// Those of them that have been started.
    started: BTreeMap<Token, (usize, u16)>,
    broken: BTreeSet<usize>,
    /// How many completions arrive at the next polls, and which.
    schedule: VecDeque<u8>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic before")
}

impl Meddled {
    pub fn new(device: Device, memory: GuestMemoryMmap) -> Self {
        Self { device, memory, state: Arc::default() }
    }

    /// Restores the first state.
    pub fn forget(&self) {
        *lock(&self.state) = State::default();
        let _ = self.device.faults().clear(None);
    }

    pub fn meddle_later(&self, pokes: &[Poke]) {
        lock(&self.state).pokes.extend(pokes);
    }

    /// Each byte is a poll of the disk: how many completions arrive, and which. Without a byte, all arrive.
    pub fn schedule(&self, looks: &[u8]) {
        lock(&self.state).schedule.extend(looks);
    }

    /// Checks that all requests that began have ended.
    pub fn check_idle(&self) {
        let state = lock(&self.state);
        assert!(state.in_hand.is_empty(), "begun but not completed: {:?}", state.in_hand);
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
}

/// A chain that the device has looked at.
pub struct Looked<'m> {
    place: (usize, u16),
    /// Bytes that the device may write.
    room: u64,
    parsed: PendingRequest<'m>,
}

impl VirtioDevice for Meddled {
    type Worker = SlowWorker;
    type PendingRequest<'m> = Looked<'m>;
    type Prefetch = <Device as VirtioDevice>::Prefetch;

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
    fn worker(&self) -> io::Result<SlowWorker> {
        let state = Arc::clone(&self.state);
        Ok(SlowWorker { worker: self.device.worker()?, state, arrived: RefCell::default() })
    }
    fn parse<'m>(&self, worker: &'m SlowWorker, queue: usize, head: u16, chain: Chain<'m>) -> Looked<'m> {
        let is_new = lock(&self.state).in_hand.insert((queue, head));
        assert!(is_new, "queue {queue}, head {head}: taken while it is in flight");
        self.meddle();
        let room = chain.writable.len();
        Looked { place: (queue, head), room, parsed: self.device.parse(&worker.worker, queue, head, chain) }
    }

    fn bytes(&self, looked: &Looked<'_>) -> u64 {
        self.device.bytes(&looked.parsed)
    }

    fn to_prefetch(&self, looked: &Looked<'_>) -> Self::Prefetch {
        self.device.to_prefetch(&looked.parsed)
    }
    fn prefetch(&self, worker: &SlowWorker, what: Self::Prefetch) {
        self.device.prefetch(&worker.worker, what);
    }
    async fn serve<'m>(&'m self, token: Token, looked: Looked<'m>) -> u32 {
        let Looked { place, room, parsed } = looked;
        let before = lock(&self.state).started.insert(token, place);
        assert_eq!(before, None, "token {token} is used twice");
        let mut served = pin!(self.device.serve(token, parsed));
        let written = poll_fn(|context| {
            self.meddle();
            served.as_mut().poll(context)
        });
        let written = written.await;
        assert!(u64::from(written) <= room, "{written} bytes written into {room}");
        let mut state = lock(&self.state);
        state.started.remove(&token);
        assert!(state.in_hand.remove(&place));
        written
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

/// The device's part of the worker. It waits for the helper threads, so that a run is reproducible; the run determines
/// when and in which order their completions arrive.
pub struct SlowWorker {
    worker: Worker,
    state: Arc<Mutex<State>>,
    /// Requests that can continue, and are not reported yet.
    arrived: RefCell<Vec<Token>>,
}

impl Reactor for SlowWorker {
    fn room(&self) -> usize {
        self.worker.room()
    }

    fn submit(&self) {
        self.worker.submit();
    }

    fn poll_completions(&self, tokens: &mut Vec<Token>) {
        let mut arrived = self.arrived.borrow_mut();
        let mut patience = Patience::new();
        loop {
            self.worker.poll_completions(&mut arrived);
            if self.worker.on_disk() == 0 {
                break;
            }
            let events = self.worker.events(&mut |event| {
                let millisecond = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                // The fuzzer's timer signal may interrupt this: then poll again.
                let _ = poll(&mut [PollFd::from_borrowed_fd(event, PollFlags::IN)], Some(&millisecond));
                Ok(())
            });
            events.expect("poll of the events");
            patience.wait("the disk completes nothing");
        }
        let state = &mut lock(&self.state);
        assert!(arrived.iter().all(|token| state.started.contains_key(token)), "a completion without a request");
        arrived.sort_unstable();
        assert!(arrived.is_sorted_by(|a, b| a < b), "two completions of one request");
        let look = state.schedule.pop_front();
        let count = look.map_or(usize::MAX, |look| usize::from(look % 4)).min(arrived.len());
        for _ in 0..count {
            let which = look.map_or(0, |look| usize::from(look / 4) % arrived.len());
            tokens.push(arrived.remove(which));
        }
    }

    fn before_completion(&self) {
        self.worker.before_completion();
    }

    fn has_held_requests(&self) -> bool {
        self.worker.has_held_requests()
    }

    fn drain(&self, queue: usize) -> bool {
        self.worker.drain(queue)
    }

    fn events(&self, action: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()> {
        self.worker.events(action)
    }

    fn waker(&self) -> &Waker {
        self.worker.waker()
    }
}
