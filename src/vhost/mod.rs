// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The frontend's side: sockets, vhost-user messages, memory regions, eventfds, worker threads.
//!
//! What the chains in the queues mean is behind [`VirtioDevice`]; nothing in here knows a request type or a key.
//!
//! This is built on the `vhost` crate's request-handler trait, not on `vhost-user-backend`: that framework cannot serve
//! a socket that is connected already (`--fd`), ends a worker silently on an error, and refuses the in-flight messages.

mod listen;
mod memory;
mod serve;
mod session;
mod worker;

use crate::queue::Chain;

pub use listen::Listen;
pub use serve::{ServeError, Server, Stop};

/// A device behind virtqueues, as the frontend's side sees it.
pub trait VirtioDevice: Send + Sync + 'static {
    /// Private memory of one worker, reused from request to request.
    type Scratch: Send;

    /// Virtio feature bits on offer.
    fn features(&self) -> u64;
    /// All queues, the control virtqueue included.
    fn queue_count(&self) -> usize;
    /// The most descriptors a queue may have, a power of two.
    fn queue_size(&self) -> u16;
    /// Threads that serve the request queues; the last queue has a thread of its own.
    fn workers(&self) -> usize;
    /// The driver has chosen from [`VirtioDevice::features`]. No queue has work in flight.
    fn set_features(&self, features: u64);
    /// The configuration space.
    fn config(&self) -> Vec<u8>;
    /// The driver writes the configuration space.
    fn write_config(&self, offset: u32, data: &[u8]);
    /// The driver is gone or has reset the device. No queue has work in flight.
    fn reset(&self);
    /// All queues have been stopped: the driver has gone down, or the machine is paused. No queue has work in flight.
    fn stopped(&self);
    /// A worker's memory.
    ///
    /// # Errors
    /// When there is none.
    fn scratch(&self) -> std::io::Result<Self::Scratch>;
    /// Serves a chain and returns the number of bytes written into it. Must not panic, whatever the guest sent.
    fn process(&self, queue: usize, chain: Chain<'_>, scratch: &mut Self::Scratch) -> u32;
    /// The driver broke the rules of the ring, so the queue has been retired. Called once each time.
    fn queue_broken(&self, queue: usize);
}
