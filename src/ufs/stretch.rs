// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registers and requests of a client, from one removal of guest memory to the next.
#![forbid(unsafe_code)]

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use smallvec::SmallVec;
use zeroize::Zeroize;

use super::controller::{Action, Controller, MOST_TRANSFERS};
use super::protocol::register as reg;
use super::session::broken;
use super::transfer::{Job, Purpose};
use crate::device::{self, Device};
use crate::engine::{Engine, Failure, Io, Worker, check_guest_memory};
use crate::protocol::Status;
use crate::reactor::Reactor;
use crate::request::Request;
use crate::segments::Room;
use crate::tasks::{Tasks, Token};
use crate::vfio_user::protocol::region;
use crate::vfio_user::{Access, Client, Next};
use crate::vhost::{ServeError, View, VirtioDevice};

/// How long accesses to registers wait for keyslots. Only a fault or a hanging disk takes longer; then the slot cannot be used
/// until the change is done.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What the change of a keyslot takes beside the latency that it was given.
const A_MOMENT: Duration = Duration::from_millis(5);

/// The maximum number of messages before other work gets its turn: a client may never stop sending.
const MOST_MESSAGES: usize = 64;

/// What [`Stretch::step`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Nothing to do.
    Nothing,
    /// Work, all of which is done.
    Work,
    /// Work, and there may be more.
    More,
}

/// What to do when nothing is in flight.
enum Wait {
    Disable,
    Reset,
    /// Guest memory is removed.
    Unmap,
    End(Result<(), ServeError>),
}

/// Executes a request.
pub async fn serve<'m>(engine: &'m Engine, token: Token, mut job: Job<'m>) -> (Purpose, Result<(), Failure>) {
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
pub struct Stretch<'m, 'c, S, F> {
    device: &'c Device,
    worker: &'m Worker,
    view: &'m View,
    /// The client.
    pub client: &'c mut Client,
    controller: &'c mut Controller,
    tasks: Tasks<F>,
    serve: S,
    /// Transfer requests that wait until the engine has room, one bit each.
    transfers: u32,
    /// The number of transfer requests that this step has begun.
    begun: u32,
    /// The number of keyslots that change, and until when accesses wait for them.
    key_changes: usize,
    key_deadline: Instant,
    wait: Option<Wait>,
    tokens: Vec<Token>,
    /// The engine's token of each transfer request that it executes.
    of_transfers: [Token; MOST_TRANSFERS as usize],
}

impl<'m, 'c, S, F> Stretch<'m, 'c, S, F>
where
    S: Fn(Token, Job<'m>) -> F,
    F: Future<Output = (Purpose, Result<(), Failure>)>,
{
    /// A stretch with nothing in flight. `serve` is the function [`serve`].
    pub fn new(
        (device, client, controller): (&'c Device, &'c mut Client, &'c mut Controller),
        worker: &'m Worker,
        view: &'m View,
        serve: S,
    ) -> Self {
        Self {
            device,
            worker,
            view,
            client,
            controller,
            tasks: Tasks::default(),
            serve,
            transfers: 0,
            begun: 0,
            key_changes: 0,
            key_deadline: Instant::now(),
            wait: None,
            tokens: Vec::new(),
            of_transfers: [0; MOST_TRANSFERS as usize],
        }
    }

    /// Ends the session when nothing is in flight. Keeps the first reason.
    pub fn end(&mut self, how: Result<(), ServeError>) {
        if !self.is_ending() {
            self.controller.give_all_up();
            self.transfers = 0;
            self.wait = Some(Wait::End(how));
        }
    }

    /// Whether the session is ending.
    pub fn is_ending(&self) -> bool {
        matches!(self.wait, Some(Wait::End(_)))
    }

    /// Whether this stretch is over: by the end of the session (its result), or by the removal of guest memory (`None`).
    pub fn over(&mut self) -> Option<Option<Result<(), ServeError>>> {
        if !self.tasks.is_empty() {
            return None;
        }
        match self.wait.take()? {
            Wait::Unmap => return Some(None),
            Wait::End(how) => return Some(Some(how)),
            Wait::Disable => self.controller.disable(),
            Wait::Reset => self.controller.reset(),
        }
        // This waits until no request uses a key. None does on this thread.
        self.worker.before_completion();
        self.device.reset();
        // First the line, as after each access.
        self.client.line().set(self.controller.interrupts());
        if let Err(error) = self.client.done() {
            self.end(Err(broken(error)));
        }
        None
    }

    /// Whether [`over`](Self::over) has something to do.
    pub fn is_going_on(&self) -> bool {
        self.wait.is_some() && self.tasks.is_empty()
    }

    /// Whether accesses to registers must wait.
    fn is_blocked(&self) -> bool {
        self.wait.is_some() || self.transfers != 0 || self.key_changes > 0 && Instant::now() < self.key_deadline
    }

    /// The maximum time to sleep.
    pub fn timeout(&mut self) -> Option<Timespec> {
        let held = self.client.line().is_held();
        let waits = held || self.key_changes > 0 || self.wait.is_some() || self.controller.unwanted() != 0;
        waits.then_some(Timespec { tv_sec: 0, tv_nsec: 20_000_000 })
    }

    /// Serves the client's messages, and polls requests that can continue.
    pub fn step(&mut self) -> Found {
        let mut found = Found::Nothing;
        self.begun = 0;
        for _ in 0..MOST_MESSAGES {
            // Requests that are complete at once, too, get their turn only once.
            if self.is_blocked() || self.begun >= u32::from(MOST_TRANSFERS) {
                break;
            }
            match self.client.receive() {
                Ok(Next::Nothing) => {
                    found = found.min(Found::Work);
                    break;
                }
                Ok(Next::Served) => self.view = self.view.newest(),
                Ok(Next::Access(access)) => {
                    if let Err(error) = self.access(access) {
                        self.end(Err(broken(error)));
                    }
                }
                Ok(Next::End) => self.end(Ok(())),
                Err(error) => self.end(Err(broken(error))),
            }
            found = Found::More;
        }
        let mut progress = self.begin_transfers();
        self.worker.submit();
        if !self.tasks.is_empty() {
            // Requests that a fault holds back.
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
        if progress { Found::More } else { found }
    }

    fn access(&mut self, access: Access) -> io::Result<()> {
        match access {
            Access::Read { region, offset, len } => {
                let mut data: SmallVec<[u8; 8]> = smallvec::smallvec![0; len];
                self.controller.read(region, offset, &mut data);
                match (region, offset) {
                    (region::BAR0, reg::IS) => self.client.line().hold(),
                    // An interrupt handler reads these before it writes IS. Reading them changes nothing.
                    (region::BAR0, reg::IE | reg::UTRLDBR) => {}
                    _ => self.client.line().release(),
                }
                return self.client.read_done(&data);
            }
            Access::Write { region, offset, mut data } => {
                let action = self.controller.write(region, offset, &data);
                // It may be a part of a key.
                data.as_mut_slice().zeroize();
                // Another CPU may ring the doorbell meanwhile.
                if (region, offset) != (region::BAR0, reg::UTRLDBR) {
                    self.client.line().release();
                }
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
        // First the line: the client may look at it as soon as it has the reply.
        self.client.line().set(self.controller.interrupts());
        self.client.done()
    }

    /// Begins transfer requests, as many as the engine has room for. Returns whether there were any.
    fn begin_transfers(&mut self) -> bool {
        let before = self.transfers;
        while self.transfers != 0 && self.worker.room() > 0 {
            let slot = self.transfers.trailing_zeros();
            self.transfers &= self.transfers - 1;
            self.begun += 1;
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

    /// Releases transfer requests that a fault holds back and that will not be answered. Returns whether there were any.
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
        let now = Instant::now();
        if self.key_changes == 0 {
            self.key_deadline = now + PATIENCE;
        } else if self.key_deadline <= now {
            // Others are stuck. This one may be, too, so it gets no more than it needs: the driver would wait for the sum.
            let timing = &self.device.settings().engine.timing;
            self.key_deadline = now + timing.program.max(timing.evict) + A_MOMENT;
        }
        self.key_changes += 1;
        self.start(Job {
            io,
            request: Request::Control(change.into_command(slot)),
            purpose: Purpose::Key { slot, programs },
        });
    }
}
