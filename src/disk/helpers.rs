// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Threads for system calls that wait for storage and would block a worker.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::io_channel::{IoCompletion, Transfer};
use super::{Buffer, Image};
use crate::eventfd;
use crate::lock::lock;
use crate::ratelimit::log_limited;
use crate::threads;

/// The maximum number of threads. They are started on demand and stay.
const MOST_THREADS: usize = 16;

/// The maximum number of threads for actions, which may take long. The others are for data and flushes.
const MOST_ACTING: usize = 8;

/// An operation on the image other than moving data.
pub type Action = Box<dyn FnOnce(&Image) -> io::Result<()> + Send>;

/// A task for a helper.
pub enum Task {
    /// Moves data.
    Transfer(Transfer, Buffer),
    /// Makes earlier writes durable.
    Flush,
    /// Anything else.
    Action(Action),
}

/// Where a completion goes: the token, and the completion queue of its channel.
type Recipient = (usize, Arc<CompletionQueue>);

/// What a helper has taken from the lists.
enum Work {
    Transfer(Transfer, Buffer, Recipient),
    Action(Action, Recipient),
    /// One flush serves everybody who asked before it begins.
    Flush(Vec<Recipient>),
}

/// The helpers of an image, shared by any number of channels.
pub struct Helpers {
    shared: Arc<HelperState>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct HelperState {
    image: Arc<Image>,
    state: Mutex<TaskQueues>,
    work: Condvar,
}

#[derive(Default)]
struct TaskQueues {
    transfers: VecDeque<(Transfer, Buffer, Recipient)>,
    actions: VecDeque<(Action, Recipient)>,
    /// Helpers that execute actions.
    acting: usize,
    /// Requests for the next flush.
    flushes: Vec<Recipient>,
    /// A helper is flushing. Another one would only wait for it.
    flushing: bool,
    idle: usize,
    stop: bool,
}

impl TaskQueues {
    fn add(&mut self, task: Task, to: Recipient) {
        match task {
            Task::Transfer(transfer, buffer) => self.transfers.push_back((transfer, buffer, to)),
            Task::Action(action) => self.actions.push_back((action, to)),
            Task::Flush => self.flushes.push(to),
        }
    }

    /// How many helpers would find work.
    fn ready(&self) -> usize {
        let actions = self.actions.len().min(MOST_ACTING.saturating_sub(self.acting));
        self.transfers.len() + actions + usize::from(!self.flushing && !self.flushes.is_empty())
    }

    fn take(&mut self) -> Option<Work> {
        if !self.flushing && !self.flushes.is_empty() {
            self.flushing = true;
            return Some(Work::Flush(std::mem::take(&mut self.flushes)));
        }
        if self.acting < MOST_ACTING
            && let Some((action, to)) = self.actions.pop_front()
        {
            self.acting += 1;
            return Some(Work::Action(action, to));
        }
        self.transfers.pop_front().map(|(transfer, buffer, to)| Work::Transfer(transfer, buffer, to))
    }
}

/// Where the completions of one channel arrive.
pub struct CompletionQueue {
    completions: Mutex<Vec<(usize, IoCompletion)>>,
    /// Length of `completions`, so that polling is cheap.
    arrived: AtomicUsize,
    event: File,
}

impl Helpers {
    /// No threads yet.
    pub fn new(image: Arc<Image>) -> Self {
        let shared = HelperState { image, state: Mutex::default(), work: Condvar::new() };
        Self { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Submits a task. Its completion goes to `completion_queue` under `token`.
    pub fn submit(&self, task: Task, token: usize, completion_queue: &Arc<CompletionQueue>) {
        let mut state = lock(&self.shared.state);
        state.add(task, (token, Arc::clone(completion_queue)));
        let need_one_more = state.ready() > state.idle;
        drop(state);
        if need_one_more {
            self.add_thread();
        }
        self.shared.work.notify_one();
    }

    fn add_thread(&self) {
        let mut helpers = lock(&self.threads);
        if helpers.len() == MOST_THREADS {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let run = move || {
            // --cpus is for workers, one of which starts this thread. It serves all of them.
            threads::unbind();
            shared.run();
        };
        match threads::named(format!("helper {}", helpers.len())).spawn(run) {
            Ok(thread) => helpers.push(thread),
            Err(error) if helpers.is_empty() => {
                log_limited!(error, "cannot start a helper thread, so a worker does its work: {error}");
                self.shared.run_what_is_there();
            }
            // The other helpers do the work.
            Err(_) => {}
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.work.notify_all();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                log::error!("a helper thread has panicked; please report this");
            }
        }
    }
}

impl HelperState {
    /// Works until it is told to stop and nothing is left.
    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(work) = state.take() {
                drop(state);
                self.carry_out(work);
                state = lock(&self.state);
            } else if state.stop {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    fn run_what_is_there(&self) {
        loop {
            let Some(work) = lock(&self.state).take() else { return };
            self.carry_out(work);
        }
    }

    fn carry_out(&self, work: Work) {
        match work {
            Work::Transfer(transfer, mut buffer, (token, completion_queue)) => {
                let result = transfer.run(&self.image, &mut buffer);
                completion_queue.post(token, IoCompletion { result, buffer: Some(buffer) });
            }
            Work::Action(action, (token, completion_queue)) => {
                let result = action(&self.image);
                lock(&self.state).acting -= 1;
                completion_queue.post(token, IoCompletion { result, buffer: None });
            }
            Work::Flush(all) => {
                let result = self.image.flush();
                lock(&self.state).flushing = false;
                for (token, completion_queue) in all {
                    completion_queue.post(token, IoCompletion { result: copy(&result), buffer: None });
                }
            }
        }
    }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
    }
}

impl CompletionQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// When an eventfd cannot be created.
    pub fn new() -> io::Result<Self> {
        let event = eventfd::new()?;
        Ok(Self { completions: Mutex::default(), arrived: AtomicUsize::new(0), event })
    }

    fn post(&self, token: usize, completion: IoCompletion) {
        let mut completions = lock(&self.completions);
        completions.push((token, completion));
        self.arrived.store(completions.len(), Ordering::Release);
        if completions.len() == 1 {
            // It cannot overflow: the count is at most 1.
            eventfd::signal(&self.event);
        }
    }

    /// Moves what has arrived to `completions`.
    pub fn drain_into(&self, completions: &mut Vec<(usize, IoCompletion)>) {
        if self.arrived.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut arrived = lock(&self.completions);
        self.arrived.store(0, Ordering::Release);
        completions.append(&mut arrived);
        // Under the lock, to keep the signal of a later completion.
        eventfd::drain(&self.event);
    }
}

impl AsFd for CompletionQueue {
    /// Readable when something has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
