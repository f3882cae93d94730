// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Worker threads: each waits for the notifications of its queues and serves them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use super::VirtioDevice;
use crate::queue::{Completion, Taken, TakenChain, Vring, drain_event, signal};

/// A running worker.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the frontend's thread and the worker's share.
struct Shared {
    epoll: OwnedFd,
    wake: File,
    stop: AtomicBool,
    vrings: Vec<Arc<Vring>>,
}

/// `epoll` data of the wake-up eventfd; queue numbers are below.
const WAKE: u64 = u64::MAX;

impl Worker {
    /// Starts a thread for `vrings`.
    ///
    /// # Errors
    /// When an eventfd, an epoll or a thread cannot be had.
    pub fn start<D: VirtioDevice>(
        name: String,
        device: Arc<D>,
        memory: GuestMemoryAtomic<GuestMemoryMmap>,
        vrings: Vec<Arc<Vring>>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into(),
            stop: AtomicBool::new(false),
            vrings,
        });
        let scratch = device.scratch()?;
        epoll::add(&shared.epoll, &shared.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let thread = thread::Builder::new().name(name).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&*device, &memory, scratch)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether this worker serves the queue.
    pub fn serves(&self, queue: usize) -> bool {
        self.shared.vrings.iter().any(|vring| vring.index() == queue)
    }

    /// Starts to listen to a queue that has been enabled, and looks at it once: the driver may have notified before.
    ///
    /// # Errors
    /// When the notification eventfd is not one that can be waited for.
    pub fn watch(&self, vring: &Vring) -> io::Result<()> {
        let added = vring.with_kick(|kick| {
            let data = epoll::EventData::new_u64(vring.index() as u64); // usize to u64 loses nothing
            match epoll::add(&self.shared.epoll, kick, data, epoll::EventFlags::IN) {
                Err(rustix::io::Errno::EXIST) | Ok(()) => Ok(()),
                Err(error) => Err(error),
            }
        });
        if let Some(added) = added {
            added?;
            signal(Some(&self.shared.wake));
        }
        Ok(())
    }

    /// Stops listening to an eventfd.
    pub fn unwatch(&self, kick: &File) {
        // Not being watched is fine.
        let _ = epoll::delete(&self.shared.epoll, kick);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        signal(Some(&self.shared.wake));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a worker thread has panicked; please report this");
        }
    }
}

impl Shared {
    fn run<D: VirtioDevice>(&self, device: &D, memory: &GuestMemoryAtomic<GuestMemoryMmap>, mut scratch: D::Scratch) {
        let mut events = Vec::with_capacity(self.vrings.len() + 1);
        while !self.stop.load(Ordering::Acquire) {
            events.clear();
            let mut more = false;
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // It never should. Looking at the queues now and then is worse than being told, but serves them.
                    log::error!("a worker cannot wait for notifications: {}", io::Error::from(error));
                    thread::sleep(Duration::from_millis(10));
                    more = true;
                }
            }
            for event in &events {
                let (data, flags) = (event.data.u64(), event.flags);
                if data == WAKE {
                    drain_event(&self.wake);
                    more = true;
                } else if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.give_up(data);
                } else if let Some(vring) = self.vrings.iter().find(|vring| vring.index() as u64 == data) {
                    vring.with_kick(drain_event);
                    more |= self.drain(device, memory, vring, &mut scratch);
                }
            }
            // A queue with more than its share of work, or a wake-up: every queue has its turn until all are empty.
            while more && !self.stop.load(Ordering::Acquire) {
                more = false;
                for vring in &self.vrings {
                    more |= self.drain(device, memory, vring, &mut scratch);
                }
            }
        }
    }

    /// Something that is no eventfd has lost its other end, and would wake us for ever.
    fn give_up(&self, queue: u64) {
        if let Some(vring) = self.vrings.iter().find(|vring| vring.index() as u64 == queue) {
            vring.with_kick(|kick| epoll::delete(&self.epoll, kick));
            vring.retire("its notification descriptor is not an eventfd");
        }
    }

    /// Serves at most about as many chains as the queue is long. Returns whether there may be more.
    fn drain<D: VirtioDevice>(
        &self,
        device: &D,
        memory: &GuestMemoryAtomic<GuestMemoryMmap>,
        vring: &Vring,
        scratch: &mut D::Scratch,
    ) -> bool {
        let budget = usize::from(device.queue_size());
        let mut served = 0;
        while served < budget {
            let Some(turn) = vring.begin() else { return false };
            let snapshot = memory.memory();
            let mut chains = Vec::new();
            let taken = turn.take(&snapshot, &mut chains);
            if taken == Taken::Chains {
                served += chains.len();
                let completions: Vec<_> =
                    chains.into_iter().map(|taken| serve(device, vring, taken, scratch)).collect();
                turn.give_back(&snapshot, &completions);
            }
            if vring.newly_retired() {
                device.queue_broken(vring.index());
            }
            if taken == Taken::Nothing {
                return false;
            }
        }
        true
    }
}

fn serve<D: VirtioDevice>(device: &D, vring: &Vring, taken: TakenChain<'_>, scratch: &mut D::Scratch) -> Completion {
    let written = match taken.chain {
        Ok(chain) => device.process(vring.index(), chain, scratch),
        Err(error) => {
            log::debug!("queue {}: head {}: {error}", vring.index(), taken.head);
            vring.retire("a descriptor chain is broken");
            0
        }
    };
    Completion { head: taken.head, written }
}
