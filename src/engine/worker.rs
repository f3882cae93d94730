// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One worker's part of the engine, and what its requests wait for.
//!
//! A request that waits has given the worker its [`Token`]. The worker polls it when one of these happens:
//! - the disk has answered, a time has come, or a fault no longer holds it back: there is a [`Wakeup`] for it;
//! - a bounce buffer is free (see [`Channel`]), or the previous command is done;
//! - a keyslot has changed: this wakes all requests that wait for one. Only this comes from other threads, by a
//!   [`Waker`].

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::Instant;

use super::Engine;
use super::channel::Channel;
use super::held::{Held, Hold, Released};
use super::order::Commands;
use super::timers::{NOBODY, Timers};
use super::wait_queue::WaitQueue;
use crate::disk;
use crate::eventfd;
use crate::keyslot::{Place, RecentKeys, RequestKeys};
use crate::observe;
use crate::reactor::Reactor;
use crate::tasks::Token;
use crate::wrapped::UnwrappedKeys;
use scattered_xts::Prefetch;

/// What a request has waited for.
pub(super) enum Wakeup {
    /// The disk is done.
    Disk(disk::IoCompletion),
    /// The time has come.
    Time,
    /// No fault holds it back any more.
    Held(Released),
}

/// One worker's part of the engine: buffers, access to the disks, and statistics.
pub struct Worker {
    /// To the first disk.
    pub(super) channel: Channel,
    /// To the others.
    more_channels: Vec<Channel>,
    pub(super) timers: RefCell<Timers>,
    held: RefCell<Held>,
    pub(super) observe: RefCell<observe::WorkerStats>,
    /// Slots' keys of recent requests.
    pub(super) keys: RefCell<RecentKeys>,
    /// Keys that came with requests, of an engine without keyslots.
    pub(super) request_keys: RefCell<RequestKeys>,
    /// Requests that wait for a place for a key.
    place_waiters: WaitQueue,
    /// Free bytes for digests of requests in flight.
    digest_bytes: Cell<usize>,
    digest_waiters: WaitQueue,
    /// Cached unwrapped keys, and when this worker must look for expired ones.
    pub(super) unwrapped: Option<Arc<UnwrappedKeys>>,
    unwrapped_until: Cell<Option<Instant>>,
    /// Ciphertext was stored past the caches, and other CPUs may not see it yet.
    pub(super) unfenced: Cell<bool>,
    /// Bytes of the image that an upcoming request needs.
    pub(super) prefetch: Cell<Prefetch>,
    pub(super) commands: Commands,
    /// By token.
    wakeups: RefCell<Vec<Option<Wakeup>>>,
    /// Requests that wait for a keyslot.
    keyslot_waiters: RefCell<Vec<Token>>,
    /// Requests that can continue without a [`Wakeup`].
    pub(super) ready: RefCell<Vec<Token>>,
    woken: Arc<WakeEvent>,
    waker: Waker,
    from_disk: RefCell<Vec<(Token, disk::IoCompletion)>>,
}

/// Signals a changed keyslot.
struct WakeEvent {
    flag: AtomicBool,
    event: File,
}

impl Wake for WakeEvent {
    fn wake(self: Arc<Self>) {
        if !self.flag.swap(true, Ordering::AcqRel) {
            // It cannot overflow: the flag allows one write per read.
            eventfd::signal(&self.event);
        }
    }
}

/// Bytes for digests of requests in flight, apart from requests whose digests need no memory of their own.
pub(super) const MOST_DIGEST_BYTES: usize = 2 << 20;

/// The most requests that wait for keyslots, other commands, places for keys and memory for digests.
const MOST_WAITERS: usize = 64;

impl Worker {
    pub(super) fn new(engine: &Engine) -> io::Result<Self> {
        let Engine { disk, more_disks, keyslots, observer, unwrapped, .. } = engine;
        let event = eventfd::new()?;
        let woken = Arc::new(WakeEvent { flag: AtomicBool::new(false), event });
        Ok(Self {
            channel: Channel::new((0, disk))?,
            more_channels: (1..).zip(more_disks).map(Channel::new).collect::<io::Result<_>>()?,
            timers: RefCell::new(Timers::new()?),
            held: RefCell::default(),
            observe: RefCell::new(observer.worker_stats()),
            keys: RefCell::new(RecentKeys::new(Arc::clone(keyslots))),
            request_keys: RefCell::new(engine.request_keys(1)?),
            place_waiters: WaitQueue::default(),
            digest_bytes: Cell::new(MOST_DIGEST_BYTES),
            digest_waiters: WaitQueue::default(),
            unwrapped: unwrapped.clone(),
            unwrapped_until: Cell::new(None),
            unfenced: Cell::new(false),
            prefetch: Cell::default(),
            commands: Commands::default(),
            wakeups: RefCell::default(),
            keyslot_waiters: RefCell::default(),
            ready: RefCell::default(),
            waker: Waker::from(Arc::clone(&woken)),
            woken,
            from_disk: RefCell::default(),
        })
    }

    /// Wipes expired unwrapped keys. The timer may have woken the worker for this while no request is in flight.
    #[cold]
    fn expire_unwrapped(&self) {
        let now = Instant::now();
        if let Some(unwrapped) = &self.unwrapped
            && self.unwrapped_until.get().is_some_and(|until| until <= now)
        {
            self.unwrapped_until.set(None);
            if let Some(next) = unwrapped.expire(now) {
                self.unwrapped_until(next);
            }
        }
    }

    /// An unwrapped key is cached until then.
    pub(super) fn unwrapped_until(&self, until: Instant) {
        if self.unwrapped_until.get().is_none() {
            self.unwrapped_until.set(Some(until));
            self.timers.borrow_mut().arm(NOBODY, until);
        }
    }

    /// How many requests helper threads execute.
    pub fn on_disk(&self) -> usize {
        self.channels().map(|channel| channel.io.borrow().with_helpers()).sum()
    }

    fn channels(&self) -> impl Iterator<Item = &Channel> {
        std::iter::once(&self.channel).chain(&self.more_channels)
    }

    /// The channel to a disk, if there is such a disk.
    pub(super) fn channel(&self, disk: usize) -> Option<&Channel> {
        match disk.checked_sub(1) {
            None => Some(&self.channel),
            Some(other) => self.more_channels.get(other),
        }
    }

    fn deliver(&self, token: Token, wakeup: Wakeup) {
        let mut wakeups = self.wakeups.borrow_mut();
        if wakeups.len() <= token {
            wakeups.resize_with(token + 1, || None); // tokens are small
        }
        if let Some(place) = wakeups.get_mut(token) {
            *place = Some(wakeup);
        }
    }

    /// Waits for the answer to this token.
    pub(super) async fn wakeup(&self, token: Token) -> Wakeup {
        poll_fn(|_| match self.wakeups.borrow_mut().get_mut(token).and_then(Option::take) {
            Some(wakeup) => Poll::Ready(wakeup),
            None => Poll::Pending,
        })
        .await
    }

    pub(super) fn hold(&self, token: Token, queue: usize, hold: Hold) {
        let mut held = self.held.borrow_mut();
        held.add(token, queue, hold);
        self.stay_awake(&mut held);
    }

    /// Releases a request that a fault holds back, because nobody wants it any more. Returns whether one does.
    pub fn release(&self, token: Token) -> bool {
        self.held.borrow_mut().release_one(token)
    }

    fn stay_awake(&self, held: &mut Held) {
        if let Some(wake) = held.next_wake() {
            self.timers.borrow_mut().arm(NOBODY, wake);
        }
    }

    /// Continues after the worker has served other requests and queues.
    pub(super) async fn yield_now(&self, token: Token) {
        let mut yielded = false;
        poll_fn(|_| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            self.ready.borrow_mut().push(token);
            Poll::Pending
        })
        .await;
    }

    /// Waits for a keyslot: polls `action` each time one has changed.
    pub(super) async fn wait_for_keyslot<F: Future>(&self, token: Token, action: F) -> F::Output {
        let mut action = pin!(action);
        poll_fn(|context| {
            let polled = action.as_mut().poll(context);
            if polled.is_pending() {
                self.keyslot_waiters.borrow_mut().push(token);
            }
            polled
        })
        .await
    }

    /// Waits for a place for a key that comes with a request.
    pub(super) async fn place(&self, token: Token) -> Place {
        self.place_waiters.take(token, &self.ready, || self.request_keys.borrow_mut().take()).await
    }

    /// A request is done with its last byte. Later requests may use its key.
    pub(super) fn keep_place(&self, place: Place) {
        self.request_keys.borrow_mut().keep(place);
        self.place_waiters.announce(&self.ready);
    }

    /// Wipes a key, and gives its place back.
    pub(super) fn give_place_back(&self, place: Place) {
        self.request_keys.borrow_mut().give_back(place);
        self.place_waiters.announce(&self.ready);
    }

    /// Waits for this many bytes for digests, at most [`MOST_DIGEST_BYTES`].
    pub(super) async fn digest_bytes(&self, token: Token, bytes: usize) -> DigestBytes<'_> {
        let take = || self.digest_bytes.get().checked_sub(bytes).map(|left| self.digest_bytes.set(left));
        self.digest_waiters.take(token, &self.ready, take).await;
        DigestBytes { worker: self, bytes }
    }
}

impl Reactor for Worker {
    fn room(&self) -> usize {
        let waiters = self.commands.waiting.borrow().len()
            + self.keyslot_waiters.borrow().len()
            + self.place_waiters.len()
            + self.digest_waiters.len();
        let waiters = MOST_WAITERS.saturating_sub(waiters);
        let others = self.timers.borrow().room().min(waiters);
        self.channels().map(Channel::room).fold(others, usize::min)
    }

    fn submit(&self) {
        self.observe.borrow_mut().end_batch();
        self.channels().for_each(|channel| channel.io.borrow_mut().submit());
        if self.unwrapped_until.get().is_some() {
            self.expire_unwrapped();
        }
    }

    fn poll_completions(&self, tokens: &mut Vec<Token>) {
        let mut from_disk = self.from_disk.borrow_mut();
        self.channels().for_each(|channel| channel.io.borrow_mut().poll_completions(&mut from_disk));
        for (token, completion) in from_disk.drain(..) {
            self.deliver(token, Wakeup::Disk(completion));
            tokens.push(token);
        }
        self.timers.borrow_mut().poll(|token| {
            if token != NOBODY {
                self.deliver(token, Wakeup::Time);
                tokens.push(token);
            }
        });
        let mut held = self.held.borrow_mut();
        if !held.is_empty() {
            held.poll(|token, released| {
                self.deliver(token, Wakeup::Held(released));
                tokens.push(token);
            });
            self.stay_awake(&mut held);
        }
        tokens.append(&mut self.ready.borrow_mut());
        if self.woken.flag.load(Ordering::Relaxed) {
            eventfd::drain(&self.woken.event);
            // Requests that are polled now see everything that changed before the last `wake`.
            self.woken.flag.swap(false, Ordering::AcqRel);
            tokens.append(&mut self.keyslot_waiters.borrow_mut());
        }
    }

    fn before_completion(&self) {
        self.keys.borrow_mut().release_all();
        self.request_keys.borrow_mut().release_recent();
        if self.unfenced.take() {
            scattered_xts::store_fence();
        }
    }

    fn has_held_requests(&self) -> bool {
        !self.held.borrow().is_empty() || self.timers.borrow().has_requests()
    }

    fn drain(&self, queue: usize) -> bool {
        // Timers do not know their queue. On the others a few requests end earlier than the emulated engine would end them.
        let hurried = self.timers.borrow_mut().hurry();
        self.held.borrow_mut().drain(queue) || hurried
    }

    fn events(&self, action: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()> {
        for channel in self.channels() {
            channel.io.borrow().events().into_iter().try_for_each(&mut *action)?;
        }
        action(self.timers.borrow().as_fd())?;
        action(self.woken.event.as_fd())
    }

    fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// Bytes that a request uses for its digests, until it is dropped.
pub(super) struct DigestBytes<'w> {
    worker: &'w Worker,
    bytes: usize,
}

impl Drop for DigestBytes<'_> {
    fn drop(&mut self) {
        let Self { worker, bytes } = self;
        worker.digest_bytes.set(worker.digest_bytes.get() + *bytes);
        worker.digest_waiters.announce(&worker.ready);
    }
}
