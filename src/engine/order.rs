// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Each worker executes its commands one at a time, in the order of their arrival.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use super::worker::Worker;
use crate::tasks::Token;

#[derive(Default)]
pub(super) struct Commands {
    /// The command that executes now.
    holder: Cell<Option<Token>>,
    pub(super) waiting: RefCell<VecDeque<Token>>,
}

/// The right to execute a command. Dropping it lets the next command execute.
pub(super) struct CommandTurn<'w>(&'w Worker);

impl Worker {
    /// Waits until all earlier commands are complete.
    pub(super) async fn command_turn(&self, token: Token) -> CommandTurn<'_> {
        let commands = &self.commands;
        match commands.holder.get() {
            None => commands.holder.set(Some(token)),
            Some(_) => commands.waiting.borrow_mut().push_back(token),
        }
        poll_fn(|_| if commands.holder.get() == Some(token) { Poll::Ready(()) } else { Poll::Pending }).await;
        CommandTurn(self)
    }
}

impl Drop for CommandTurn<'_> {
    fn drop(&mut self) {
        let commands = &self.0.commands;
        let next = commands.waiting.borrow_mut().pop_front();
        commands.holder.set(next);
        self.0.ready.borrow_mut().extend(next);
    }
}
