// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The frontend's side: sockets, vhost-user messages, memory regions, eventfds, worker threads.
//!
//! [`VirtioDevice`] knows what the chains mean; nothing here knows a request type or a key.
//!
//! This uses the `vhost` crate's request-handler trait, not `vhost-user-backend`. That framework cannot serve an
//! already connected socket (`--fd`), ends a worker silently on an error, and refuses the in-flight messages.

mod acceptor;
mod arrival;
mod backend_channel;
mod listen;
mod memory;
mod messages;
mod poller;
mod polling;
pub(crate) mod refusal;
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
    /// The longest time to poll for work before sleeping. 0: no polling.
    pub poll: Duration,
    /// CPUs to bind the workers to, one after the other. Empty: no binding.
    pub cpus: Vec<usize>,
}

/// A device behind virtqueues, as the frontend's side sees it.
pub trait VirtioDevice: Send + Sync + 'static {
    /// One worker's part of the device.
    type Worker: Reactor;
    /// A chain that has been parsed.
    type PendingRequest<'m>;
    /// What a request will need and can be prefetched.
    type Prefetch: Copy;

    /// Virtio feature bits on offer.
    fn features(&self) -> u64;
    /// All queues, the control virtqueue included.
    fn queue_count(&self) -> usize;
    /// The maximum queue size, a power of two.
    fn queue_size(&self) -> u16;
    /// The driver has chosen from [`VirtioDevice::features`]. No queue has work in flight.
    fn set_features(&self, features: u64);
    /// The configuration space.
    fn config(&self) -> Vec<u8>;
    /// The driver writes the configuration space.
    fn write_config(&self, offset: u32, data: &[u8]);
    /// A connection was accepted that may become a frontend's.
    fn connected(&self);
    /// The device can tell the frontend of changes in the configuration space, with this notifier.
    fn set_notifier(&self, notifier: Notifier);
    /// The connection has ended, after [`VirtioDevice::disconnected`].
    fn hung_up(&self);
    /// The driver has reset the device. No queue has work in flight.
    fn reset(&self);
    /// The frontend has gone or given up the device; the next one may belong to another guest. No queue has work in
    /// flight.
    fn disconnected(&self);
    /// All queues have been stopped: the driver has shut down, or the machine is paused. No queue has work in flight.
    fn stopped(&self);
    /// A queue has been started. Nothing is taken from it before this returns.
    fn queue_begins(&self, queue: usize, beginning: Beginning);
    /// Creates the state of a new worker.
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
    /// The number of bytes of the disk that a request moves: about the time that it takes. Below 2^40.
    fn bytes(&self, request: &Self::PendingRequest<'_>) -> u64;
    /// What to [prefetch](VirtioDevice::prefetch) for a request.
    fn to_prefetch(&self, request: &Self::PendingRequest<'_>) -> Self::Prefetch;
    /// Prefetches for a request that will be served after a few others.
    fn prefetch(&self, worker: &Self::Worker, what: Self::Prefetch);
    /// Serves a chain. Returns the number of bytes written into it. Must not panic, whatever the guest sent. While it
    /// waits, the worker that parsed it reports the token as soon as it can continue.
    fn serve<'m>(&'m self, token: Token, request: Self::PendingRequest<'m>) -> impl Future<Output = u32>;
    /// A queue is now started and enabled, or no longer. May be called again without a change.
    fn queue_running(&self, queue: usize, running: bool);
    /// The driver broke the rules of the ring, so the queue has been retired. Called once each time.
    fn queue_broken(&self, queue: usize);
}
