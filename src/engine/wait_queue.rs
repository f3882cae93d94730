// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests of one worker that wait for their share of something, in the order in which they came.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use crate::tasks::Token;

/// Those who wait.
#[derive(Default)]
pub(super) struct WaitQueue {
    waiting: RefCell<VecDeque<Token>>,
    /// The first of them has been told that there may be something, and has not looked.
    announced: Cell<bool>,
}

impl WaitQueue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Waits until `take` gives something, after those who came before. `ready`: whom the worker polls next.
    pub(super) async fn take<T>(
        &self,
        token: Token,
        ready: &RefCell<Vec<Token>>,
        mut take: impl FnMut() -> Option<T>,
    ) -> T {
        poll_fn(|_| {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.front() == Some(&token) {
                self.announced.set(false);
            }
            let is_first = waiting.front().is_none_or(|&first| first == token);
            if is_first && let Some(taken) = take() {
                waiting.pop_front();
                drop(waiting);
                // There may be more.
                self.announce(ready);
                return Poll::Ready(taken);
            }
            if !waiting.contains(&token) {
                waiting.push_back(token);
            }
            Poll::Pending
        })
        .await
    }

    /// There may be something: lets the first who waits look, once.
    pub(super) fn announce(&self, ready: &RefCell<Vec<Token>>) {
        if let Some(&first) = self.waiting.borrow().front()
            && !self.announced.replace(true)
        {
            ready.borrow_mut().push(first);
        }
    }
}
