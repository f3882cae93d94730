// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The frontend's side: sockets, vhost-user messages, memory regions, eventfds, worker threads.
//!
//! What the chains in the queues mean is behind [`VirtioDevice`]; nothing in here knows a request type or a key.
//!
//! This is built on the `vhost` crate's request-handler trait, not on `vhost-user-backend`: that framework cannot serve
//! a socket that is connected already (`--fd`), ends a worker silently on an error, and refuses the in-flight messages.

mod arrival;
mod callers;
mod channel;
mod jobs;
mod listen;
mod memory;
mod polling;
mod refusal;
mod serve;
mod session;
mod worker;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::queue::Chain;

pub use channel::{Notifier, Told};
pub use jobs::{Hand, begin};
pub use listen::{Listen, SocketAccess, bind_socket};
pub use serve::{ServeError, Server, Stop};
pub use session::most_descriptors;

/// Names a chain that a worker has in hand, until it is done. Small numbers, used again.
pub type Token = usize;

/// How far a chain has come.
#[must_use = "the chain must be returned to the driver"]
#[derive(Debug)]
pub enum Progress<J> {
    /// Done: the number of bytes written into the chain.
    Done(u32),
    /// The lane will name the token when there is something to go on with.
    Waiting(J),
    /// To be resumed when the worker has nothing else in hand: it may wait for other requests.
    Alone(J),
}

/// What a worker has of the device for itself: private memory, and a way to the disk.
pub trait Lane: Send {
    /// What the disk answers.
    type Answer;

    /// How many more chains may be started. While it is 0 there are chains waiting.
    fn room(&self) -> usize;
    /// Passes on what was started or resumed since the last call.
    fn submit(&mut self);
    /// Adds what has been answered to `answers`. Never waits.
    fn answers(&mut self, answers: &mut Vec<(Token, Self::Answer)>);
    /// Whether it holds answers back at will: those that [`Lane::release`] is about.
    fn holds_back(&self) -> bool {
        false
    }
    /// Chains are about to be returned, or the worker is going to look for others: nothing that somebody may wait for is
    /// to be kept any longer for the sake of chains to come.
    fn let_go(&mut self);
    /// Somebody waits until all chains of a queue have been returned: answers at once what is held back. Returns whether
    /// there is anything.
    fn release(&mut self, _queue: usize) -> bool {
        false
    }
    /// Descriptors that are readable when there are answers.
    fn events(&self) -> Vec<BorrowedFd<'_>>;
}

/// How the worker threads behave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Threads that serve the queues.
    pub workers: usize,
    /// The longest time to look for more work before going to sleep. 0: never look.
    pub poll: Duration,
    /// CPUs that the threads for the request queues are bound to, one after the other. Empty: not bound.
    pub cpus: Vec<usize>,
}

/// A device behind virtqueues, as the frontend's side sees it.
pub trait VirtioDevice: Send + Sync + 'static {
    /// One worker's part of the device.
    type Lane: Lane;
    /// A chain that has been looked at.
    type Accepted<'m>;
    /// A chain that waits.
    type Job<'m>;

    /// Virtio feature bits on offer.
    fn features(&self) -> u64;
    /// All queues, the control virtqueue included.
    fn queue_count(&self) -> usize;
    /// The most descriptors a queue may have, a power of two.
    fn queue_size(&self) -> u16;
    /// The driver has chosen from [`VirtioDevice::features`]. No queue has work in flight.
    fn set_features(&self, features: u64);
    /// The configuration space.
    fn config(&self) -> Vec<u8>;
    /// The driver writes the configuration space.
    fn write_config(&self, offset: u32, data: &[u8]);
    /// Somebody has connected, who may become a frontend.
    fn connected(&self);
    /// The frontend can be told of changes in the configuration space, by this.
    fn set_notifier(&self, notifier: Notifier);
    /// The connection has ended, after [`VirtioDevice::disconnected`].
    fn hung_up(&self);
    /// The driver has reset the device. No queue has work in flight.
    fn reset(&self);
    /// The frontend has gone or given the device up; the next one may be another guest's. No queue has work in flight.
    fn disconnected(&self);
    /// All queues have been stopped: the driver has gone down, or the machine is paused. No queue has work in flight.
    fn stopped(&self);
    /// A lane for a new worker.
    ///
    /// # Errors
    /// When there is no memory, or no way to the disk.
    fn lane(&self) -> io::Result<Self::Lane>;
    /// Looks at the chain at `head`. Must not panic, whatever the guest sent.
    fn accept<'m>(&self, lane: &mut Self::Lane, queue: usize, head: u16, chain: Chain<'m>) -> Self::Accepted<'m>;
    /// It is about to be started, after a few others: what it needs may be fetched.
    fn announce(&self, lane: &mut Self::Lane, accepted: &Self::Accepted<'_>);
    /// Begins to serve a chain. Must not panic, whatever the guest sent.
    fn start<'m>(&self, lane: &mut Self::Lane, token: Token, accepted: Self::Accepted<'m>) -> Progress<Self::Job<'m>>;
    /// Goes on with a chain: with the lane's answer, or with none when the job asked to be alone.
    fn resume<'m>(
        &self,
        lane: &mut Self::Lane,
        token: Token,
        job: Self::Job<'m>,
        answer: Option<<Self::Lane as Lane>::Answer>,
    ) -> Progress<Self::Job<'m>>;
    /// A queue is started and enabled now, or not any more. May be called again without a change.
    fn queue_running(&self, queue: usize, running: bool);
    /// The driver broke the rules of the ring, so the queue has been retired. Called once each time.
    fn queue_broken(&self, queue: usize);
}
