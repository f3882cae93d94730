// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Worker threads: each waits for notifications of its queues and for completions, and serves them.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::VirtioDevice;
use super::memory::View;
use super::poller::{self, Poller};
use super::polling::Polling;
use crate::queue::{Event, STUCK, Vring};
use crate::ratelimit::log_limited;
use crate::reactor::Reactor;
use crate::{eventfd, sigbus, threads};

/// A running worker.
pub struct WorkerThread {
    shared: Arc<WorkerState>,
    thread: Option<thread::JoinHandle<()>>,
}

/// State that the frontend's thread and the worker share.
struct WorkerState {
    epoll: OwnedFd,
    wake: Arc<File>,
    stop: AtomicBool,
    vrings: Vec<Arc<Vring>>,
    connection: Arc<UnixStream>,
}

/// `epoll` data of the wake-up eventfd; queue numbers are below.
const WAKE: u64 = u64::MAX;
/// `epoll` data of descriptors that signal completions.
const COMPLETION: u64 = u64::MAX - 1;

/// The maximum number of events per call.
const EVENTS: usize = 16;

/// Options of a worker.
pub struct WorkerOptions {
    /// Name of the thread.
    pub name: String,
    /// The longest time to poll for work before sleeping.
    pub poll: Duration,
    /// The CPU to bind the thread to.
    pub cpu: Option<usize>,
}

impl WorkerThread {
    /// Starts a thread for `vrings`. When the session cannot continue, the thread shuts the connection down for
    /// reading.
    ///
    /// # Errors
    /// When an eventfd, an epoll or a thread cannot be created.
    pub fn start<D: VirtioDevice>(
        options: WorkerOptions,
        device: Arc<D>,
        memory: GuestMemoryAtomic<GuestMemoryMmap>,
        vrings: Vec<Arc<Vring>>,
        connection: Arc<UnixStream>,
    ) -> io::Result<Self> {
        let shared = Arc::new(WorkerState {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: Arc::new(eventfd::new()?),
            stop: AtomicBool::new(false),
            vrings,
            connection,
        });
        for vring in &shared.vrings {
            vring.set_waker(&shared.wake);
        }
        let part = device.worker()?;
        epoll::add(&shared.epoll, &*shared.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        part.events(&mut |event| {
            // Edge-triggered: nothing clears an event that comes while no request is in flight.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            Ok(epoll::add(&shared.epoll, event, epoll::EventData::new_u64(COMPLETION), flags)?)
        })?;
        let thread = threads::named(options.name).spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Some(cpu) = options.cpu {
                    threads::bind(cpu);
                }
                shared.run(&*device, &memory, &part, Polling::new(options.poll));
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether this worker serves the queue.
    pub fn serves(&self, queue: usize) -> bool {
        self.shared.vrings.iter().any(|vring| vring.index() == queue)
    }

    /// Starts to watch a queue that has been enabled, and checks it once: the driver may have notified before.
    ///
    /// # Errors
    /// When the notification descriptor cannot be polled.
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
            eventfd::signal(&self.shared.wake);
        }
        Ok(())
    }

    /// Stops watching an eventfd.
    pub fn unwatch(&self, kick: &File) {
        // It fails if the eventfd is not watched.
        let _ = epoll::delete(&self.shared.epoll, kick);
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        eventfd::signal(&self.shared.wake);
        let Some(thread) = self.thread.take() else { return };
        let asked = Instant::now();
        while !thread.is_finished() {
            thread::sleep(Duration::from_millis(1));
            if asked.elapsed() > STUCK {
                // A frontend that fills its eventfds on purpose must not block us.
                Event::unblock_all();
            }
        }
        if thread.join().is_err() {
            log::error!("a worker thread has panicked; please report this");
        }
    }
}

impl WorkerState {
    fn run<D: VirtioDevice>(
        &self,
        device: &D,
        memory: &GuestMemoryAtomic<GuestMemoryMmap>,
        part: &D::Worker,
        mut polling: Polling,
    ) {
        while !self.stop.load(Ordering::Acquire) {
            if !self.work(device, memory, part, &mut polling) {
                polling.sleeps();
                self.sleep(device);
                polling.wakes();
            }
        }
    }

    /// Works until nothing is left to do and the drivers know that they must notify. Returns true if it ended for
    /// another reason, so that there may be work.
    fn work<D: VirtioDevice>(
        &self,
        device: &D,
        memory: &GuestMemoryAtomic<GuestMemoryMmap>,
        part: &D::Worker,
        polling: &mut Polling,
    ) -> bool {
        let Some(turns) = poller::begin(&self.vrings) else {
            // No queue runs, so there are no requests. The device's own timers still run.
            part.poll_completions(&mut Vec::new());
            part.submit();
            return false;
        };
        let view = View::new(memory.clone());
        let serve = |token, request| device.serve(token, request);
        let mut poller = Poller::new(device, part, &view, &self.vrings, turns, serve);
        loop {
            let found = poller.poll() || polling.poll(|| poller.poll());
            if !sigbus::guest_memory_is_sound() {
                // The queues stop by themselves, and the frontend's thread reports the reason. It may have closed the
                // connection already.
                let _ = self.connection.shutdown(Shutdown::Read);
            }
            if poller.is_over() {
                return true;
            }
            if found || poller.arm() {
                continue;
            }
            if poller.is_empty() {
                return false;
            }
            polling.sleeps();
            self.sleep(device);
            polling.wakes();
        }
    }

    fn sleep<D: VirtioDevice>(&self, device: &D) {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        let (events, _) = match epoll::wait(&self.epoll, &mut events, None) {
            Ok(events) => events,
            Err(rustix::io::Errno::INTR) => return,
            Err(error) => {
                // This should not happen. Polling the queues now and then is slower, but serves them.
                log_limited!(error, "a worker cannot wait for notifications: {}", io::Error::from(error));
                thread::sleep(Duration::from_millis(10));
                return;
            }
        };
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == WAKE {
                eventfd::drain(&self.wake);
                self.vrings.iter().for_each(|vring| vring.signal_error());
            } else if data == COMPLETION {
                // The poller checks for completions anyway.
            } else if let Some(vring) = self.vrings.iter().find(|vring| vring.index() as u64 == data) {
                let hung_up = flags.contains(epoll::EventFlags::HUP);
                if hung_up || vring.with_kick(eventfd::drain) == Some(false) {
                    self.give_up(device, vring);
                }
            }
        }
    }

    /// Stops using a descriptor that is not an eventfd and would wake us forever.
    fn give_up<D: VirtioDevice>(&self, device: &D, vring: &Vring) {
        vring.with_kick(|kick| epoll::delete(&self.epoll, kick));
        vring.retire("its notification descriptor is not an eventfd");
        if vring.take_retirement() {
            device.queue_broken(vring.index());
        }
        vring.signal_error();
    }
}
