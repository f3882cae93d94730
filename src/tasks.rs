// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The requests that one worker has in flight, each a future.
//!
//! This is no runtime. A request waits for things that name it by its [`Token`], so the worker knows which request can
//! continue, and polls that one. The place and memory of a finished request are reused. A future must not move after
//! its first poll, so each place is an allocation of its own.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll};

/// Names a request in flight of one worker. Tokens are small numbers and are reused.
pub type Token = usize;

/// Requests in flight, by token.
pub struct Tasks<F> {
    places: Vec<Pin<Box<Option<F>>>>,
    free: Vec<Token>,
}

impl<F> Default for Tasks<F> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<F: Future> Tasks<F> {
    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many requests are in flight.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Adds a request; `make` gets its token. The request does nothing before its first poll.
    pub fn insert(&mut self, make: impl FnOnce(Token) -> F) -> Token {
        let token = self.free.pop().unwrap_or_else(|| {
            self.places.push(Box::pin(None));
            self.places.len() - 1
        });
        if let Some(place) = self.places.get_mut(token) {
            place.set(Some(make(token)));
        }
        token
    }

    /// Polls a request. When it is done, its token is free. Returns `Pending` for a free token.
    pub fn poll(&mut self, token: Token, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(place) = self.places.get_mut(token) else { return Poll::Pending };
        let Some(future) = place.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = future.poll(context);
        if polled.is_ready() {
            place.set(None);
            self.free.push(token);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::task::Waker;

    #[test]
    fn places_are_used_again_and_nothing_is_polled_twice() {
        let open = Cell::new(false);
        let polls = Cell::new(0);
        let request = |value| {
            poll_fn({
                let (open, polls) = (&open, &polls);
                move |_| {
                    polls.set(polls.get() + 1);
                    if open.get() { Poll::Ready(value) } else { Poll::Pending }
                }
            })
        };
        let mut tasks = Tasks::default();
        let mut context = Context::from_waker(Waker::noop());
        let first = tasks.insert(|_| request(1));
        let second = tasks.insert(|_| request(2));
        assert_eq!((first, second, polls.get()), (0, 1, 0));
        assert_eq!(tasks.poll(first, &mut context), Poll::Pending);
        open.set(true);
        assert_eq!(tasks.poll(first, &mut context), Poll::Ready(1));
        assert_eq!(tasks.poll(first, &mut context), Poll::Pending, "it is gone");
        assert_eq!(tasks.poll(99, &mut context), Poll::Pending);
        assert_eq!(polls.get(), 2);
        assert_eq!(tasks.insert(|token| request(token as u32 + 10)), first);
        assert_eq!(tasks.poll(first, &mut context), Poll::Ready(10));
        assert_eq!(tasks.len(), 1);
        assert_eq!(tasks.poll(second, &mut context), Poll::Ready(2));
        assert!(tasks.is_empty());
    }
}
