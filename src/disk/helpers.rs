// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Threads for what would hold a worker up: system calls that wait for storage.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use super::lane::{Answer, Transfer};
use super::{Buffer, Image};
use crate::threads::named;

/// The most threads. They are made when there is work for them and stay.
const MOST_THREADS: usize = 16;

/// Something to do with the image, other than moving data.
pub type Action = Box<dyn FnOnce(&Image) -> io::Result<()> + Send>;

/// What a helper does.
pub enum Task {
    /// Moves data.
    Transfer(Transfer, Buffer),
    /// Anything else.
    Action(Action),
}

/// The helpers of an image; any number of lanes use them.
pub struct Helpers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    image: Arc<Image>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<(Task, usize, Arc<Mailbox>)>,
    idle: usize,
    stop: bool,
}

/// Where the answers for one lane arrive.
pub struct Mailbox {
    answers: Mutex<Vec<(usize, Answer)>>,
    /// Length of `answers`: looking must be cheap.
    arrived: AtomicUsize,
    event: File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain lists, which a panic elsewhere cannot leave half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Helpers {
    /// No threads yet.
    pub fn new(image: Arc<Image>) -> Self {
        let shared = Shared { image, state: Mutex::default(), work: Condvar::new() };
        Self { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Has a helper do something; the answer goes to `mailbox` under `token`.
    pub fn give(&self, task: Task, token: usize, mailbox: &Arc<Mailbox>) {
        let mut state = lock(&self.shared.state);
        state.tasks.push_back((task, token, Arc::clone(mailbox)));
        let need_one_more = state.tasks.len() > state.idle;
        drop(state);
        if need_one_more {
            self.add_thread();
        }
        self.shared.work.notify_one();
    }

    fn add_thread(&self) {
        let mut threads = lock(&self.threads);
        if threads.len() == MOST_THREADS {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match named(format!("helper {}", threads.len())).spawn(move || shared.run()) {
            Ok(thread) => threads.push(thread),
            Err(error) if threads.is_empty() => {
                log::error!("cannot start a helper thread, its work is done in the worker: {error}");
                self.shared.run_what_is_there();
            }
            // The others do the work.
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

impl Shared {
    /// Works until it is told to stop and nothing is left.
    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some((task, token, mailbox)) = state.tasks.pop_front() {
                drop(state);
                mailbox.put(token, task.run(&self.image));
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
        let tasks = std::mem::take(&mut lock(&self.state).tasks);
        for (task, token, mailbox) in tasks {
            mailbox.put(token, task.run(&self.image));
        }
    }
}

impl Task {
    /// Does it here and now.
    pub fn run(self, image: &Image) -> Answer {
        match self {
            Self::Transfer(transfer, mut buffer) => {
                let result = transfer.run(image, &mut buffer);
                Answer { result, buffer: Some(buffer) }
            }
            Self::Action(action) => Answer { result: action(image), buffer: None },
        }
    }
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// When an eventfd cannot be had.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into();
        Ok(Self { answers: Mutex::default(), arrived: AtomicUsize::new(0), event })
    }

    fn put(&self, token: usize, answer: Answer) {
        let mut answers = lock(&self.answers);
        answers.push((token, answer));
        self.arrived.store(answers.len(), Ordering::Release);
        if answers.len() == 1 {
            // It cannot fill up: the count is at most 1.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Moves what has arrived to `answers`.
    pub fn take(&self, answers: &mut Vec<(usize, Answer)>) {
        if self.arrived.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut arrived = lock(&self.answers);
        self.arrived.store(0, Ordering::Release);
        answers.append(&mut arrived);
        // Under the lock, so that no signal of a later answer is taken away.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

impl AsFd for Mailbox {
    /// Readable when something has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
