// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The context of a request, and the waits that all requests share.

use std::time::Instant;

use super::Failure;
use super::channel::{BounceBuffer, Channel};
use super::digested::Digesting;
use super::held::{Hold, Released};
use super::worker::{Wakeup, Worker};
use crate::disk::{self, Disk, Transfer};
use crate::observe::{Record, Stage};
use crate::segments::Room;
use crate::tasks::Token;

/// A request in execution.
pub struct Io<'m> {
    pub(super) worker: &'m Worker,
    /// To the disk that it is for.
    pub(super) channel: &'m Channel,
    /// Identifies it to the worker.
    pub token: Token,
    /// The queue that it came from, for faults.
    pub queue: usize,
    /// Its changes must be durable before it completes.
    pub durable: bool,
    /// Where its reply goes in guest memory.
    pub room: Room<'m>,
    /// Its statistics.
    pub record: Record,
    /// The digests, of a request that wants them.
    pub(super) digesting: Option<Digesting<'m>>,
}

impl<'m> Io<'m> {
    /// A new request, for the first disk.
    pub fn new(worker: &'m Worker, queue: usize, head: u16, durable: bool, room: Room<'m>) -> Self {
        let record = Record::new(queue, head, worker.observe.borrow_mut().stopwatch());
        Self { worker, channel: &worker.channel, token: 0, queue, durable, room, record, digesting: None }
    }

    /// The same request for another disk, if there is such a disk.
    pub fn on_disk(self, disk: usize) -> Option<Self> {
        let channel = self.worker.channel(disk)?;
        Some(Self { channel, ..self })
    }

    /// The disk that it is for.
    pub(super) fn disk(&self) -> &'m Disk {
        &self.channel.disk
    }

    /// Counts the finished request.
    pub fn finished(&self) {
        self.worker.observe.borrow_mut().finished(&self.record);
    }

    pub(super) async fn sleep_until(&mut self, due: Instant) {
        if due > Instant::now() {
            self.worker.timers.borrow_mut().arm(self.token, due);
            self.worker.wakeup(self.token).await;
            // Neither our work nor the disk's.
            self.record.watch.lap(Stage::Other);
        }
    }

    /// Waits until no fault holds it back.
    pub(super) async fn hold(&mut self, hold: Hold) -> Released {
        self.worker.hold(self.token, self.queue, hold);
        let wakeup = self.worker.wakeup(self.token).await;
        self.record.watch.lap(Stage::Other);
        match wakeup {
            Wakeup::Held(released) => released,
            _ => Released::Due,
        }
    }

    /// A bounce buffer for a transfer of `len` bytes, or as many of them as fit.
    pub(super) async fn buffer(&mut self, len: u64) -> Result<BounceBuffer<'m>, Failure> {
        self.channel.buffer(&self.worker.ready, self.token, len).await.ok_or(Failure::NoMemory)
    }

    /// As [`buffer`](Self::buffer), if there is one now.
    pub(super) fn buffer_now(&self, len: u64) -> Option<BounceBuffer<'m>> {
        self.channel.buffer_now(&self.worker.ready, len)
    }

    /// Moves data between the front of a bounce buffer and the image.
    pub(super) async fn transfer(&mut self, transfer: Transfer, bounce: &mut BounceBuffer<'m>) -> Result<(), Failure> {
        let Some(buffer) = bounce.buffer.take() else { return Err(Failure::NoMemory) };
        let begun = self.channel.io.borrow_mut().transfer(self.token, transfer, buffer);
        let disk::IoCompletion { result, buffer } = self.disk_completion(begun).await;
        self.record.watch.lap(Stage::Disk);
        bounce.buffer = buffer;
        Ok(result?)
    }

    /// Lets the worker serve other requests and queues.
    pub(super) async fn yield_now(&self) {
        self.worker.yield_now(self.token).await;
    }

    /// Makes earlier writes durable.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let begun = self.channel.io.borrow_mut().flush(self.token);
        let completion = self.disk_completion(begun).await;
        self.record.watch.lap(Stage::Disk);
        Ok(completion.result?)
    }

    /// Runs an action on `bytes` bytes of the image that may wait.
    pub(super) async fn run(
        &mut self,
        bytes: u64,
        action: impl FnOnce(&disk::Image) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), Failure> {
        let begun = self.channel.io.borrow_mut().run(self.token, bytes, Box::new(action));
        let completion = self.disk_completion(begun).await;
        self.record.watch.lap(Stage::Disk);
        Ok(completion.result?)
    }

    async fn disk_completion(&self, begun: Option<disk::IoCompletion>) -> disk::IoCompletion {
        match begun {
            Some(completion) => completion,
            None => match self.worker.wakeup(self.token).await {
                Wakeup::Disk(completion) => completion,
                _ => disk::IoCompletion { result: Err(std::io::ErrorKind::Interrupted.into()), buffer: None },
            },
        }
    }
}
