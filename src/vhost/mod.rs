// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The frontend's side: sockets, vhost-user messages, memory regions, eventfds, worker threads.
//!
//! What the chains in the queues mean is behind [`VirtioDevice`]; nothing in here knows a request type or a key.
//!
//! This is built on the `vhost` crate's request-handler trait, not on `vhost-user-backend`: that framework cannot serve
//! a socket that is connected already (`--fd`), ends a worker silently on an error, and refuses the in-flight messages.

mod acceptor;
mod arrival;
mod backend_channel;
mod listen;
mod memory;
mod messages;
mod poller;
mod polling;
mod refusal;
mod serve;
mod session;
mod worker;

use std::io;
use std::time::Duration;

use crate::queue::{Beginning, Chain};
use crate::reactor::Reactor;
use crate::tasks::Token;

pub use backend_channel::Notifier;
pub use listen::{Listen, SocketAccess, bind_socket};
pub use memory::View;
pub use poller::{Poller, begin};
pub(crate) use polling::Polling;
pub use serve::{ServeError, Server, Stop};
pub use session::most_descriptors;

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
    type Worker: Reactor;
    /// A chain that has been parsed.
    type PendingRequest<'m>;
    /// What a request is going to need, as far as it can be fetched ahead.
    type Prefetch: Copy;

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
    /// A queue has been started. Nothing is taken from it before this returns.
    fn queue_begins(&self, queue: usize, beginning: Beginning);
    /// What a new worker needs.
    ///
    /// # Errors
    /// When there is no memory, or no way to the disk.
    fn worker(&self) -> io::Result<Self::Worker>;
    /// Parses the chain at `head`. Must not panic, whatever the guest sent.
    fn parse<'m>(
        &self,
        worker: &'m Self::Worker,
        queue: usize,
        head: u16,
        chain: Chain<'m>,
    ) -> Self::PendingRequest<'m>;
    /// What to [prefetch](VirtioDevice::prefetch) for a request.
    fn to_prefetch(&self, request: &Self::PendingRequest<'_>) -> Self::Prefetch;
    /// A request is about to be served, after a few others: fetches what it needs.
    fn prefetch(&self, worker: &Self::Worker, what: Self::Prefetch);
    /// Serves a chain: the bytes written into it. Must not panic, whatever the guest sent. While it waits, the worker that it was
    /// parsed with names the token as soon as it can go on.
    fn serve<'m>(&'m self, token: Token, request: Self::PendingRequest<'m>) -> impl Future<Output = u32>;
    /// A queue is started and enabled now, or not any more. May be called again without a change.
    fn queue_running(&self, queue: usize, running: bool);
    /// The driver broke the rules of the ring, so the queue has been retired. Called once each time.
    fn queue_broken(&self, queue: usize);
}
