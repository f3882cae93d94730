// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests of one worker that wait for a limited resource, first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use crate::tasks::Token;

/// The waiting requests.
#[derive(Default)]
pub(super) struct WaitQueue {
    waiting: RefCell<VecDeque<Token>>,
    /// The first request was woken, and has not been polled since.
    announced: Cell<bool>,
}

impl WaitQueue {
    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Waits until `take` returns something, and until all earlier requests have got theirs. `ready`: the requests that the worker
    /// polls next.
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
                // There may be enough for the next request, too.
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

    /// Call this when some of the resource was returned: it wakes the first request, unless that is awake already.
    pub(super) fn announce(&self, ready: &RefCell<Vec<Token>>) {
        if let Some(&first) = self.waiting.borrow().front()
            && !self.announced.replace(true)
        {
            ready.borrow_mut().push(first);
        }
    }
}
