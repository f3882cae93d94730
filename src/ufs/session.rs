// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One client: its messages, and the requests of its driver, all on one thread.
//!
//! Registers are served in the order in which they are accessed. A transfer request takes its key at the doorbell: before any
//! later write to a keyslot. While a keyslot changes, no register is served, so that the driver finds the slot as it wants it.
#![forbid(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use smallvec::SmallVec;
use zeroize::Zeroize;

use super::controller::{Action, Controller, MOST_TRANSFERS};
use super::pci::CONFIG_BYTES;
use super::protocol::BAR_BYTES;
use super::transfer::{Job, Purpose};
use crate::device::{self, Device};
use crate::engine::{Engine, Failure, Io, Worker, check_guest_memory};
use crate::protocol::Status;
use crate::reactor::Reactor;
use crate::request::Request;
use crate::segments::Room;
use crate::sigbus;
use crate::tasks::{Tasks, Token};
use crate::vfio_user::{Access, Client, Listener, Next, Regions};
use crate::vhost::{Polling, ServeError, Stop, View, VirtioDevice};

/// How long registers wait for a keyslot. Only a fault, or storage that stands still, takes longer; then the slot cannot be used
/// until it has changed.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most messages that are served before everything else gets its turn: a client may never stop to send.
const MOST_MESSAGES: usize = 64;

/// The most clients that are hung up on at a time.
const MOST_CLIENTS: usize = 64;

/// What waits until nothing is in flight.
enum Wait {
    Disable,
    Reset,
    /// Guest memory is removed.
    Unmap,
    End(Result<(), ServeError>),
}

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
    /// A client that has said nothing yet.
    ///
    /// # Errors
    /// When there is no memory, no descriptor, or no way to the disk.
    pub fn new(device: &Arc<Device>, stream: UnixStream, poll: Duration) -> io::Result<Self> {
        let worker = device.engine().worker()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edges only: all of these are looked at before each sleep.
        let edges = epoll::EventFlags::ET | epoll::EventFlags::IN;
        worker.events(&mut |event| Ok(epoll::add(&epoll, event, epoll::EventData::new_u64(0), edges)?))?;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(0), edges | epoll::EventFlags::OUT)?;
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

    /// Whether the client has said which protocol it speaks.
    pub fn is_negotiated(&self) -> bool {
        self.client.is_negotiated()
    }

    /// Serves the client until it has gone, gives way to another one, or somebody wants to stop.
    ///
    /// # Errors
    /// What has ended the session too early.
    pub fn run(&mut self, listener: &mut Listener<'_>, stop: &Stop) -> Result<(), ServeError> {
        let Self { device, worker, client, controller, polling, epoll } = self;
        let data = || epoll::EventData::new_u64(0);
        // Both stay readable while the session ends.
        let edges = epoll::EventFlags::ET | epoll::EventFlags::IN;
        epoll::add(&*epoll, stop.event(), data(), edges).map_err(|error| session(error.into()))?;
        if let Some(socket) = listener.socket() {
            epoll::add(&*epoll, socket, data(), edges).map_err(|error| session(error.into()))?;
        }
        let engine = device.engine();
        loop {
            // Requests borrow guest memory from this.
            let view = View::new(client.memory().handle());
            let mut stretch = Stretch {
                device,
                worker,
                view: &view,
                client,
                controller,
                tasks: Tasks::default(),
                serve: |token, job| serve(engine, token, job),
                transfers: 0,
                key_changes: 0,
                key_since: Instant::now(),
                wait: None,
                tokens: Vec::new(),
                of_transfers: [0; MOST_TRANSFERS as usize],
            };
            let ended = loop {
                if let Some(ended) = stretch.over() {
                    break ended;
                }
                let found = stretch.step() || polling.poll(|| stretch.step());
                if !stretch.is_ending()
                    && let Some(how) = interrupted(stretch.client, listener, stop)
                {
                    stretch.end(how);
                }
                if found || stretch.wait.is_some() && stretch.tasks.is_empty() {
                    continue;
                }
                let timeout = stretch.timeout();
                if stretch.tasks.is_empty() {
                    polling.sleeps();
                }
                sleep(epoll, timeout);
                polling.wakes();
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

/// Whether the session is to end: somebody wants to stop, comes while the client is silent, or the guest's memory is not there.
fn interrupted(client: &Client, listener: &mut Listener<'_>, stop: &Stop) -> Option<Result<(), ServeError>> {
    if stop.requested() {
        return Some(Ok(()));
    }
    if !sigbus::guest_memory_is_sound() {
        return Some(Err(ServeError::GuestMemory));
    }
    // Until nobody is there: the next edge comes with the next client only.
    for _ in 0..MOST_CLIENTS {
        match listener.accept() {
            Ok(None) => return None,
            Ok(Some(stream)) => {
                let (silent, gone) = (!client.is_negotiated(), client.has_hung_up());
                if silent || gone {
                    listener.keep(stream);
                    // What a client had sent before it hung up is still served.
                    return (silent && !gone).then_some(Ok(()));
                }
                log::debug!("another client has connected; it is hung up on, because the device serves one at a time");
            }
            Err(error) => {
                log::debug!("cannot accept and hang up on another client: {error}");
                return None;
            }
        }
    }
    None
}

fn sleep(epoll: &OwnedFd, timeout: Option<Timespec>) {
    let mut events = [const { MaybeUninit::uninit() }; 8];
    match epoll::wait(epoll, &mut events, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => {
            // It never should.
            log::error!("cannot wait for a client: {}", io::Error::from(error));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn session(error: io::Error) -> ServeError {
    ServeError::Session(error)
}

fn broken(error: io::Error) -> ServeError {
    ServeError::Frontend(error.to_string())
}

/// A request on its way through the engine.
async fn serve<'m>(engine: &'m Engine, token: Token, mut job: Job<'m>) -> (Purpose, Result<(), Failure>) {
    job.io.token = token;
    let Job { io, request, purpose } = &mut job;
    io.record.describe(request);
    let served = engine.serve(io, request).await.and_then(|()| check_guest_memory());
    if let Err(failure) = &served {
        failure.report();
    }
    io.record.finish(served.as_ref().map_or_else(device::status, |()| Status::Ok));
    io.finished();
    let purpose = std::mem::replace(purpose, Purpose::Key { slot: 0, programs: false });
    (purpose, served)
}

/// The time from one removal of guest memory to the next.
struct Stretch<'m, 'c, S, F> {
    device: &'c Device,
    worker: &'m Worker,
    view: &'m View,
    client: &'c mut Client,
    controller: &'c mut Controller,
    tasks: Tasks<F>,
    serve: S,
    /// Transfer requests that wait for the engine to have room.
    transfers: u32,
    /// Keyslots that change, and since when.
    key_changes: usize,
    key_since: Instant,
    wait: Option<Wait>,
    tokens: Vec<Token>,
    /// Which request of the engine a transfer request is, of those that it has.
    of_transfers: [Token; MOST_TRANSFERS as usize],
}

impl<'m, S, F> Stretch<'m, '_, S, F>
where
    S: Fn(Token, Job<'m>) -> F,
    F: Future<Output = (Purpose, Result<(), Failure>)>,
{
    /// Ends the session when nothing is in flight. The first reason counts.
    fn end(&mut self, how: Result<(), ServeError>) {
        if !self.is_ending() {
            self.controller.give_all_up();
            self.transfers = 0;
            self.wait = Some(Wait::End(how));
        }
    }

    /// Whether the session ends when nothing is in flight.
    fn is_ending(&self) -> bool {
        matches!(self.wait, Some(Wait::End(_)))
    }

    /// What has ended this stretch: the session, or the removal of guest memory.
    fn over(&mut self) -> Option<Option<Result<(), ServeError>>> {
        if !self.tasks.is_empty() {
            return None;
        }
        match self.wait.take()? {
            Wait::Unmap => return Some(None),
            Wait::End(how) => return Some(Some(how)),
            Wait::Disable => self.controller.disable(),
            Wait::Reset => self.controller.reset(),
        }
        // This waits for whoever uses a key. That is nobody on this thread.
        self.worker.before_completion();
        self.device.reset();
        if let Err(error) = self.client.done() {
            self.end(Err(broken(error)));
        }
        None
    }

    /// Whether registers have to wait.
    fn is_blocked(&self) -> bool {
        self.wait.is_some() || self.transfers != 0 || self.key_changes > 0 && self.key_since.elapsed() < PATIENCE
    }

    /// The longest time to sleep.
    fn timeout(&self) -> Option<Timespec> {
        let waits = self.key_changes > 0 || self.wait.is_some() || self.controller.unwanted() != 0;
        waits.then_some(Timespec { tv_sec: 0, tv_nsec: 20_000_000 })
    }

    /// Serves what the client has said, and goes on with what can go on. Returns whether there was anything.
    fn step(&mut self) -> bool {
        let mut progress = false;
        for _ in 0..MOST_MESSAGES {
            if self.is_blocked() {
                break;
            }
            match self.client.receive() {
                Ok(Next::Nothing) => break,
                Ok(Next::Served) => self.view = self.view.newest(),
                Ok(Next::Access(access)) => {
                    if let Err(error) = self.access(access) {
                        self.end(Err(broken(error)));
                    }
                }
                Ok(Next::End) => self.end(Ok(())),
                Err(error) => self.end(Err(broken(error))),
            }
            progress = true;
        }
        progress |= self.begin_transfers();
        self.worker.submit();
        if !self.tasks.is_empty() {
            // Whoever is held back by a fault.
            progress |= if self.wait.is_some() { self.worker.drain(0) } else { self.release_unwanted() };
            let mut tokens = std::mem::take(&mut self.tokens);
            self.worker.poll_completions(&mut tokens);
            progress |= !tokens.is_empty();
            tokens.drain(..).for_each(|token| self.poll(token));
            self.tokens = tokens;
            self.worker.submit();
        }
        self.worker.before_completion();
        self.client.line().set(self.controller.interrupts());
        progress
    }

    fn access(&mut self, access: Access) -> io::Result<()> {
        match access {
            Access::Read { region, offset, len } => {
                let mut data: SmallVec<[u8; 8]> = smallvec::smallvec![0; len];
                self.controller.read(region, offset, &mut data);
                return self.client.read_done(&data);
            }
            Access::Write { region, offset, mut data } => {
                let action = self.controller.write(region, offset, &data);
                // It may be a part of a key.
                data.as_mut_slice().zeroize();
                match action {
                    Action::Nothing => {}
                    Action::Transfers(slots) => {
                        self.transfers |= slots;
                        self.begin_transfers();
                    }
                    Action::Tasks(tasks) => {
                        self.controller.manage(tasks, self.view.memory());
                    }
                    Action::Clear(slots) => self.controller.give_up(slots),
                    Action::Key(slot) => self.change_key(slot),
                    Action::Disable => {
                        self.controller.give_all_up();
                        self.wait = Some(Wait::Disable);
                        return Ok(());
                    }
                }
            }
            Access::Reset => {
                self.controller.give_all_up();
                self.wait = Some(Wait::Reset);
                return Ok(());
            }
            Access::Unmap => {
                self.wait = Some(Wait::Unmap);
                return Ok(());
            }
        }
        // The line first: what follows the reply finds it as it is now.
        self.client.line().set(self.controller.interrupts());
        self.client.done()
    }

    /// Begins transfer requests, as many as the engine has room for. Returns whether there were any.
    fn begin_transfers(&mut self) -> bool {
        let before = self.transfers;
        while self.transfers != 0 && self.worker.room() > 0 {
            let slot = self.transfers.trailing_zeros();
            self.transfers &= self.transfers - 1;
            if let Some(job) = self.controller.begin(slot as u8, self.view.memory(), self.worker) {
                // At most 31.
                self.start(job);
            }
        }
        before != self.transfers
    }

    fn start(&mut self, job: Job<'m>) {
        let serve = &self.serve;
        let transfer = if let Purpose::Transfer(reply) = &job.purpose { Some(reply.slot) } else { None };
        let token = self.tasks.insert(|token| serve(token, job));
        if let Some(of_transfer) = transfer.and_then(|slot| self.of_transfers.get_mut(usize::from(slot))) {
            *of_transfer = token;
        }
        self.poll(token);
    }

    /// Lets those transfer requests go on that a fault holds back and nobody wants any more. Returns whether there were any.
    fn release_unwanted(&self) -> bool {
        let unwanted = self.controller.unwanted();
        let tokens = (0..).zip(&self.of_transfers).filter(|(slot, _)| unwanted & 1 << slot != 0);
        tokens.fold(false, |released, (_, token)| self.worker.release(*token) || released)
    }

    fn poll(&mut self, token: Token) {
        let mut context = Context::from_waker(self.worker.waker());
        let Poll::Ready((purpose, result)) = self.tasks.poll(token, &mut context) else { return };
        match purpose {
            Purpose::Transfer(reply) => {
                self.worker.before_completion();
                self.controller.finish(&reply, self.view.memory(), result);
            }
            Purpose::Key { slot, programs } => {
                self.key_changes -= 1;
                if self.controller.crypto.finished(slot, programs, result.is_ok()) {
                    self.change_key(slot);
                }
            }
        }
    }

    fn change_key(&mut self, slot: u32) {
        let Some(change) = self.controller.crypto.take(slot) else { return };
        let programs = change.programs();
        let io = Io::new(self.worker, 0, slot as u16, false, Room::default()); // at most 255
        self.key_changes += 1;
        self.key_since = Instant::now();
        self.start(Job {
            io,
            request: Request::Control(change.into_command(slot)),
            purpose: Purpose::Key { slot, programs },
        });
    }
}
