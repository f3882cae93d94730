// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The interface of a worker thread to the layer that executes its requests.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::Waker;

use crate::tasks::Token;

/// One worker's part of the layer below. It knows which of the worker's requests can continue.
pub trait Reactor: Send {
    /// How many more requests may start. While it is 0, requests are in flight.
    fn room(&self) -> usize;
    /// Submits the disk operations that requests have queued since the last call.
    fn submit(&self);
    /// Adds the requests that can continue. Never waits.
    fn poll_completions(&self, tokens: &mut Vec<Token>);
    /// Called before requests complete and before the worker rests: releases keys that were kept for later requests,
    /// and makes stores visible to other CPUs.
    fn before_completion(&self);
    /// Whether faults hold requests back, or the emulated engine's time, which [`Reactor::drain`] would end.
    fn has_held_requests(&self) -> bool;
    /// Releases requests of a queue that are held back, because somebody waits for all its requests. Returns whether there were any.
    fn drain(&self, queue: usize) -> bool;
    /// Passes the descriptors to `action` that become readable when there are completions.
    ///
    /// # Errors
    /// Those of `action`.
    fn events(&self, action: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()>;
    /// The waker to poll requests with.
    fn waker(&self) -> &Waker;
}
