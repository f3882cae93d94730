// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a worker thread asks of the layer that executes its requests.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::Waker;

use crate::tasks::Token;

/// One worker's part of the layer below: it knows which of the worker's requests can go on.
pub trait Reactor: Send {
    /// How many more requests may be started. While it is 0, requests are in flight.
    fn room(&self) -> usize;
    /// Submits what requests have asked of the disk since the last call.
    fn submit(&self);
    /// Adds the requests that can go on. Never waits.
    fn poll_completions(&self, tokens: &mut Vec<Token>);
    /// Requests are about to be completed, or the worker is going to rest: releases the keys that are kept for requests to
    /// come, and lets other CPUs see what has been stored.
    fn before_completion(&self);
    /// Whether faults hold requests back: those that [`Reactor::drain`] is about.
    fn has_held_requests(&self) -> bool;
    /// Somebody waits until all requests of a queue are done: releases those that are held back. Returns whether there were
    /// any.
    fn drain(&self, queue: usize) -> bool;
    /// Gives `action` descriptors that are readable when there are completions.
    ///
    /// # Errors
    /// Those of `action`.
    fn events(&self, action: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()>;
    /// Requests are polled with this.
    fn waker(&self) -> &Waker;
}
