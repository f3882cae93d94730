// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One client: its messages, and the requests of its driver, all on one thread.
//!
//! Accesses to registers are served in their order. A transfer request takes its key at the doorbell, before any later write to
//! a keyslot. While a keyslot changes, no access is served: so the driver's next request finds the new key.
#![forbid(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use super::controller::Controller;
use super::pci::CONFIG_BYTES;
use super::protocol::BAR_BYTES;
use super::stretch::{self, Found, Stretch};
use crate::device::Device;
use crate::engine::Worker;
use crate::ratelimit::log_limited;
use crate::reactor::Reactor;
use crate::sigbus;
use crate::vfio_user::{Client, Listener, Regions};
use crate::vhost::{Polling, ServeError, Stop, View};

/// The maximum number of other clients to refuse at a time.
const MOST_CLIENTS: usize = 64;

/// While there is always work, the session looks for other clients after this number of steps: a look is a system call.
const STEPS_PER_LOOK: u32 = 1024;

/// Marks events of the listening socket.
const CLIENTS: u64 = 1;
/// Marks events of the client's socket.
const STREAM: u64 = 2;
/// Marks all other events. Each step looks at their sources anyway.
const OTHERS: u64 = 0;
/// What the session wants to know of its client's socket, at each edge.
const OF_STREAM: epoll::EventFlags = epoll::EventFlags::ET.union(epoll::EventFlags::IN).union(epoll::EventFlags::RDHUP);

/// A session.
pub struct Session {
    device: Arc<Device>,
    worker: Worker,
    client: Client,
    controller: Controller,
    polling: Polling,
    epoll: OwnedFd,
}

impl Session {
    /// A session for a client that has just connected.
    ///
    /// # Errors
    /// When memory or descriptors are short, or the disk cannot be used.
    pub fn new(device: &Arc<Device>, stream: UnixStream, poll: Duration) -> io::Result<Self> {
        let worker = device.engine().worker()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: the session looks at all of these before each sleep.
        let edges = epoll::EventFlags::ET | epoll::EventFlags::IN;
        worker.events(&mut |event| Ok(epoll::add(&epoll, event, data(OTHERS), edges)?))?;
        epoll::add(&epoll, &stream, data(STREAM), OF_STREAM)?;
        let regions = Regions { bar0: BAR_BYTES, config: CONFIG_BYTES as u64 };
        Ok(Self {
            controller: Controller::new(device)?,
            client: Client::new(stream, regions),
            device: Arc::clone(device),
            polling: Polling::new(poll),
            worker,
            epoll,
        })
    }

    /// Whether the client has sent VERSION.
    pub fn is_negotiated(&self) -> bool {
        self.client.is_negotiated()
    }

    /// Serves the client until it hangs up, another one takes its place, or the process stops.
    ///
    /// # Errors
    /// The reason why the session ended too early.
    pub fn run(&mut self, listener: &mut Listener<'_>, stop: &Stop) -> Result<(), ServeError> {
        let Self { device, worker, client, controller, polling, epoll } = self;
        // Both stay readable while the session ends.
        let edges = epoll::EventFlags::ET | epoll::EventFlags::IN;
        epoll::add(&*epoll, stop.event(), data(OTHERS), edges).map_err(|error| session(error.into()))?;
        if let Some(socket) = listener.socket() {
            epoll::add(&*epoll, socket, data(CLIENTS), edges).map_err(|error| session(error.into()))?;
        }
        let engine = device.engine();
        // Steps until the next look for other clients.
        let mut patience = 0;
        let mut was_full = false;
        loop {
            // Requests borrow guest memory from this.
            let view = View::new(client.memory().handle());
            let serve = |token, job| stretch::serve(engine, token, job);
            let mut stretch = Stretch::new((&**device, &mut *client, &mut *controller), worker, &view, serve);
            let ended = loop {
                if let Some(ended) = stretch.over() {
                    break ended;
                }
                // After work the time to poll begins anew.
                let found = stretch.step() == Found::More
                    || polling.poll(|| stretch.step() != Found::Nothing || interrupted(stop).is_some());
                let mut how = interrupted(stop);
                if patience == 0 && how.is_none() && !stretch.is_ending() {
                    let visit = visitors(stretch.client, listener);
                    patience = if visit == Visit::Many { 0 } else { STEPS_PER_LOOK };
                    how = (visit == Visit::GiveWay).then_some(Ok(()));
                }
                patience = patience.saturating_sub(1);
                if let Some(how) = how {
                    stretch.end(how);
                }
                if found || stretch.is_going_on() {
                    continue;
                }
                if was_full != stretch.client.is_full() {
                    was_full = !was_full;
                    // Only then: otherwise each reply that the client reads would wake this thread.
                    let wanted = if was_full { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
                    let modified = epoll::modify(&*epoll, stretch.client.stream(), data(STREAM), OF_STREAM | wanted);
                    if let Err(error) = modified {
                        stretch.end(Err(session(error.into())));
                        continue;
                    }
                }
                let timeout = stretch.timeout();
                polling.sleeps();
                let woken = sleep(epoll, timeout);
                if woken.clients {
                    patience = 0;
                }
                stretch.client.woken(woken.hung_up);
                if woken.event {
                    polling.wakes();
                }
            };
            drop(stretch);
            drop(view);
            match ended {
                None => client.done().map_err(broken)?,
                Some(ended) => return if client.memory().is_sound() { ended } else { Err(ServeError::GuestMemory) },
            }
        }
    }
}

/// Whether the session must end: the process stops, or a part of guest memory is missing.
fn interrupted(stop: &Stop) -> Option<Result<(), ServeError>> {
    if stop.requested() {
        return Some(Ok(()));
    }
    (!sigbus::guest_memory_is_sound()).then_some(Err(ServeError::GuestMemory))
}

/// Other clients that have connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    /// None that takes the place of this client.
    Nobody,
    /// The same, and there may be more clients.
    Many,
    /// One that takes the place of this client, which has sent nothing.
    GiveWay,
}

fn visitors(client: &Client, listener: &mut Listener<'_>) -> Visit {
    // Accept all: only a new client triggers the next edge.
    for _ in 0..MOST_CLIENTS {
        match listener.accept() {
            Ok(None) => return Visit::Nobody,
            Ok(Some(stream)) => {
                let (silent, gone) = (!client.is_negotiated(), client.has_hung_up());
                if silent || gone {
                    listener.keep(stream);
                    // Messages that a client sent before it hung up are still served.
                    return if silent && !gone { Visit::GiveWay } else { Visit::Nobody };
                }
                log::debug!("another client has connected; it is hung up on, because the device serves one at a time");
            }
            Err(error) => {
                log::debug!("cannot accept and hang up on another client: {error}");
                return Visit::Many;
            }
        }
    }
    Visit::Many
}

fn data(number: u64) -> epoll::EventData {
    epoll::EventData::new_u64(number)
}

/// Why the session woke up.
#[derive(Default)]
struct Woken {
    /// Something has happened. Otherwise, the time was over.
    event: bool,
    /// Other clients have connected.
    clients: bool,
    /// The session's client has hung up.
    hung_up: bool,
}

/// Sleeps until an event.
fn sleep(epoll: &OwnedFd, timeout: Option<Timespec>) -> Woken {
    let gone = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
    let mut events = [const { MaybeUninit::uninit() }; 8];
    let mut woken = Woken::default();
    match epoll::wait(epoll, &mut events, timeout.as_ref()) {
        Ok((events, _)) => {
            for event in events.iter() {
                // The structure is packed.
                let (of, flags) = (event.data.u64(), event.flags);
                woken.event = true;
                woken.clients |= of == CLIENTS;
                woken.hung_up |= of == STREAM && flags.intersects(gone);
            }
        }
        Err(rustix::io::Errno::INTR) => {}
        Err(error) => {
            // This cannot happen.
            log_limited!(error, "cannot wait for a client: {}", io::Error::from(error));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    woken
}

fn session(error: io::Error) -> ServeError {
    ServeError::Session(error)
}

/// An error that the client has caused.
pub fn broken(error: io::Error) -> ServeError {
    ServeError::Frontend(error.to_string())
}
