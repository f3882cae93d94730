// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A request that waits, and how it goes on.

use std::time::{Duration, Instant};

use super::lane::Answer;
use super::transfer::Moving;
use super::{Device, DeviceLane, Failure};
use crate::disk;
use crate::faults::Fate;
use crate::observe::{Record, Stage};
use crate::protocol::Status;
use crate::queue::Segments;
use crate::request::{ControlCommand, Reply, Request};
use crate::vhost::{Progress, Token};

/// A request that waits for the disk, or until it is alone.
pub struct Job<'m> {
    pub(super) reply: Reply<'m>,
    pub(super) work: Work<'m>,
    pub(super) record: Record,
    /// What faults have in mind with it.
    pub(super) fate: Option<Box<Fate>>,
}

/// What is left to do.
pub(super) enum Work<'m> {
    /// Data from the disk.
    Read(Moving),
    /// Data to the disk.
    Write(Moving, Segments<'m>),
    /// A change of the image that is not data; then it is made durable if need be.
    Change,
    /// Making durable.
    Flush,
    /// The emulated engine's time; then a write is made durable if need be.
    Later {
        /// It was a write.
        written: bool,
    },
    /// A command that may have to wait for requests which use a key.
    Control(ControlCommand<'m>),
    /// Everything: a fault does not let it begin.
    Stuck(Box<Request<'m>>, Box<Fate>),
    /// Everything, after keys have been lost.
    Lose(Box<Request<'m>>, Box<Fate>),
    /// Nothing: a fault holds the answer back.
    Over(Status),
}

/// How far a request has come.
pub(super) enum Next<'m> {
    /// It has been done.
    Done,
    /// The disk has it.
    Wait(Work<'m>),
    /// It goes on when it is alone.
    Alone(Work<'m>),
}

impl Device {
    /// The one place where a request ends, whatever happened.
    pub(super) fn settle<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        reply: Reply<'m>,
        record: &mut Record,
        fate: Option<Box<Fate>>,
        next: Result<Next<'m>, Failure>,
    ) -> Progress<Job<'m>> {
        let status = match next {
            Ok(Next::Done) => Status::Ok,
            Ok(Next::Wait(work)) => return Progress::Waiting(Job { reply, work, record: *record, fate }),
            Ok(Next::Alone(work)) => return Progress::Alone(Job { reply, work, record: *record, fate }),
            Err(failure) => {
                super::report(&failure);
                failure.status()
            }
        };
        match fate {
            None => Self::complete(lane, reply, record, status),
            Some(fate) => self.end_struck(lane, token, reply, record, &fate, status),
        }
    }

    /// The status is written, and all that there is to say about the request has been said.
    pub(super) fn complete<'m>(
        lane: &mut DeviceLane,
        reply: Reply<'m>,
        record: &mut Record,
        status: Status,
    ) -> Progress<Job<'m>> {
        record.finish(status);
        let written = reply.finish(status);
        lane.observe.finished(record);
        Progress::Done(written)
    }

    /// Goes on with a request.
    pub(super) fn go_on<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        job: Job<'m>,
        answer: Option<Answer>,
    ) -> Progress<Job<'m>> {
        let Job { mut reply, work, mut record, fate } = job;
        match &answer {
            Some(Answer::Disk(_)) => record.watch.lap(Stage::Disk),
            // The emulated engine's time is not what we do, nor the disk.
            Some(Answer::Time | Answer::Held(_) | Answer::Turn) => record.watch.lap(Stage::Other),
            None => {}
        }
        let next = match (work, answer) {
            (Work::Read(moving), Some(Answer::Disk(answer))) => {
                self.read_answered(lane, token, moving, answer, &mut reply, &mut record)
            }
            (Work::Write(moving, source), Some(Answer::Disk(answer))) => {
                self.write_answered(lane, token, moving, source, answer, &mut record)
            }
            (Work::Read(moving), Some(Answer::Turn)) => {
                lane.has_turn();
                self.read(lane, token, moving, &mut reply, &mut record)
            }
            (Work::Write(moving, source), Some(Answer::Turn)) => {
                lane.has_turn();
                self.write(lane, token, moving, source, &mut record)
            }
            (Work::Change, Some(Answer::Disk(answer))) => {
                answer.result.map_err(Failure::from).and_then(|()| self.commit(lane, token))
            }
            (Work::Flush, Some(Answer::Disk(answer))) => self.flushed(answer),
            (Work::Later { written }, Some(Answer::Time)) => self.data_moved(lane, token, None, written),
            (Work::Control(command), None) => {
                self.control(lane, token, command, &mut reply, &mut record, fate.as_deref())
            }
            (Work::Over(status), Some(Answer::Held(_))) => return Self::complete(lane, reply, &mut record, status),
            (Work::Stuck(request, fate), Some(Answer::Held(how))) => {
                return self.stuck(lane, token, (*request, reply, fate), record, how);
            }
            (Work::Lose(request, fate), None) => return self.lose(lane, token, *request, reply, record, fate),
            // Not how the worker calls this.
            _ => Err(Failure::Malformed),
        };
        self.settle(lane, token, reply, &mut record, fate, next)
    }

    /// Done, but not before this time has passed. Without a time the clock is not even looked at.
    pub(super) fn after<'m>(&self, lane: &mut DeviceLane, token: Token, time: Duration) -> Next<'m> {
        if time.is_zero() {
            return Next::Done;
        }
        lane.later.at(token, Instant::now() + time);
        Next::Wait(Work::Later { written: false })
    }

    /// All data is where it belongs: done, but not before the emulated engine is, and for a write durable if need be.
    pub(super) fn data_moved<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        due: Option<Instant>,
        written: bool,
    ) -> Result<Next<'m>, Failure> {
        match due {
            Some(due) if due > Instant::now() => {
                lane.later.at(token, due);
                Ok(Next::Wait(Work::Later { written }))
            }
            _ if written => self.commit(lane, token),
            _ => Ok(Next::Done),
        }
    }

    /// After a change of the image: durable now, in write-through mode.
    pub(super) fn commit<'m>(&self, lane: &mut DeviceLane, token: Token) -> Result<Next<'m>, Failure> {
        if self.write_through() { self.make_durable(lane, token) } else { Ok(Next::Done) }
    }

    /// Makes everything durable that has been completed so far.
    pub(super) fn make_durable<'m>(&self, lane: &mut DeviceLane, token: Token) -> Result<Next<'m>, Failure> {
        match lane.disk.flush(token) {
            Some(answer) => self.flushed(answer),
            None => Ok(Next::Wait(Work::Flush)),
        }
    }

    fn flushed<'m>(&self, answer: disk::Answer) -> Result<Next<'m>, Failure> {
        answer.result?;
        self.observer.count_flush();
        Ok(Next::Done)
    }
}
