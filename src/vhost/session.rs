// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One connection of a frontend: its queues, its memory and the workers that serve them.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Error, Result};

use super::backend_channel::{BackendSocket, Notifier};
use super::memory::SharedMemory;
use super::refusal;
use super::worker::{WorkerOptions, WorkerThread};
use super::{VirtioDevice, WorkerConfig};
use crate::queue::{MOST_REGIONS, Paused, Vring};
use crate::ratelimit::log_limited;

/// The state of a connection. Dropping it drains the queues and resets the device for the next frontend.
pub struct Session<D: VirtioDevice> {
    pub(super) device: Arc<D>,
    pub(super) memory: SharedMemory,
    pub(super) vrings: Vec<Arc<Vring>>,
    pub(super) workers: Vec<WorkerThread>,
    pub(super) owned: bool,
    pub(super) protocol_features: VhostUserProtocolFeatures,
    /// When to end the session unless another message comes.
    pub(super) silence_ends: Option<Instant>,
}

impl<D: VirtioDevice> Session<D> {
    /// Starts the workers for a new connection.
    ///
    /// # Errors
    /// When threads or descriptors cannot be created.
    pub fn new(device: Arc<D>, config: &WorkerConfig, connection: UnixStream) -> io::Result<Self> {
        let (memory, connection) = (SharedMemory::new(), Arc::new(connection));
        let vrings = (0..device.queue_count())
            .map(|index| Vring::new(index, device.queue_size()).map(Arc::new).map_err(io::Error::other))
            .collect::<io::Result<Vec<_>>>()?;
        let mut workers = Vec::new();
        let shares = share(&vrings, config.workers);
        for (number, vrings) in shares.into_iter().enumerate() {
            let cpu = config.cpus.get(number % config.cpus.len().max(1)).copied();
            let options = WorkerOptions { name: format!("worker {number}"), poll: config.poll, cpu };
            let (device, connection) = (Arc::clone(&device), Arc::clone(&connection));
            workers.push(WorkerThread::start(options, device, memory.handle(), vrings, connection)?);
        }
        device.connected();
        let protocol_features = VhostUserProtocolFeatures::empty();
        Ok(Self { device, memory, vrings, workers, owned: false, protocol_features, silence_ends: None })
    }

    /// The frontend passes its backend channel (SET_BACKEND_REQ_FD).
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn set_channel(&self, given: BackendSocket, connection: &UnixStream) -> io::Result<()> {
        let negotiated = |features| self.protocol_features.contains(features);
        let confirms = negotiated(VhostUserProtocolFeatures::REPLY_ACK);
        let wanted = VhostUserProtocolFeatures::BACKEND_REQ;
        let taken = given.socket.is_ok() && negotiated(wanted);
        given.answer(connection, confirms, taken)?;
        match given.socket {
            // Without CONFIG the frontend accepts no such message.
            Ok(socket) if negotiated(wanted | VhostUserProtocolFeatures::CONFIG) => {
                self.device.set_notifier(Notifier::new(socket, confirms));
            }
            Ok(_) => log::debug!(
                "the frontend's backend channel is not used: the frontend has not negotiated the features for it"
            ),
            Err(error) => log_limited!(warn, "the frontend's backend channel cannot be used: {error}"),
        }
        Ok(())
    }

    /// When to end the session unless another message comes. The frontend may wait for the rest of a reply that never
    /// comes.
    pub fn silence_ends(&mut self) -> Option<Instant> {
        self.silence_ends.take()
    }

    pub(super) fn vring(&self, index: impl Into<u64>) -> Result<&Arc<Vring>> {
        let index = index.into();
        let vring = usize::try_from(index).ok().and_then(|index| self.vrings.get(index));
        vring.ok_or_else(|| refusal::no_such_queue(index, self.vrings.len()))
    }

    /// Watches a queue that is ready to run.
    pub(super) fn watch(&self, vring: &Vring) -> Result<()> {
        self.device.queue_running(vring.index(), vring.with_kick(|_| ()).is_some());
        match self.worker(vring) {
            Some(worker) => worker.watch(vring).map_err(Error::ReqHandlerError),
            None => Ok(()),
        }
    }

    pub(super) fn unwatch(&self, vring: &Vring, kick: Option<&File>) {
        if let (Some(worker), Some(kick)) = (self.worker(vring), kick) {
            worker.unwatch(kick);
        }
    }

    fn worker(&self, vring: &Vring) -> Option<&WorkerThread> {
        self.workers.iter().find(|worker| worker.serves(vring.index()))
    }

    pub(super) fn stop(&self, vring: &Vring) -> u16 {
        self.device.queue_running(vring.index(), false);
        let (next_avail, kick) = vring.stop();
        self.unwatch(vring, kick.as_ref());
        next_avail
    }

    /// Whether all guest memory has been there so far.
    pub fn memory_is_sound(&self) -> bool {
        self.memory.is_sound()
    }

    /// Stops all queues. Returns when every chain taken from them has been returned.
    pub fn stop_all(&self) {
        for vring in &self.vrings {
            self.stop(vring);
            vring.set_enabled(false);
        }
    }

    /// Queues whose ring was outside the memory may run now.
    pub(super) fn memory_added(&self) {
        self.vrings.iter().for_each(|vring| vring.memory_added());
    }

    /// Forgets everything that the frontend has set up, as if it had just connected.
    pub(super) fn begin_anew(&mut self) -> Result<()> {
        self.stop_all();
        for vring in &self.vrings {
            vring.set_err(None);
            vring.set_log(None);
        }
        self.memory.clear()?;
        // The connection goes on. QEMU has opened its backend channel a moment before.
        self.device.disconnected();
        Ok(())
    }

    /// Keeps all queues idle while the result lives.
    pub(super) fn pause(vrings: &[Arc<Vring>]) -> Vec<Paused<'_>> {
        vrings.iter().map(|vring| vring.pause()).collect()
    }
}

/// Assigns the queues to threads. The last queue, which may be the control virtqueue, goes to the thread with the
/// fewest queues, before its other queues: drivers wait for a command before they send the request that needs it. A
/// thread of its own would be woken for each command, and then another thread for that request.
fn share(vrings: &[Arc<Vring>], workers: usize) -> Vec<Vec<Arc<Vring>>> {
    let Some((last, requests)) = vrings.split_last() else { return Vec::new() };
    let workers = workers.clamp(1, requests.len().max(1));
    let mut shares: Vec<Vec<_>> = vec![Vec::new(); workers];
    for (number, vring) in requests.iter().enumerate() {
        if let Some(share) = shares.get_mut(number % workers) {
            share.push(Arc::clone(vring));
        }
    }
    if let Some(share) = shares.last_mut() {
        share.insert(0, Arc::clone(last));
    }
    shares
}

/// The maximum number of descriptors that a session needs at a time, for the frontend and the workers.
pub fn most_descriptors(queues: usize, workers: usize) -> u64 {
    // usize to u64 loses nothing. A frontend passes three per queue. The rest is for the workers and their disk
    // channels.
    MOST_REGIONS as u64 + 3 * queues as u64 + 8 * workers as u64 + 64
}

impl<D: VirtioDevice> Drop for Session<D> {
    fn drop(&mut self) {
        self.stop_all();
        self.workers.clear();
        self.device.disconnected();
        self.device.hung_up();
    }
}
