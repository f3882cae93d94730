// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A chain from the queue: parsed, then announced, then started.
//!
//! A worker parses all chains that it has taken before it starts the first one. So it knows which bytes of the image come
//! next, and has the CPU fetch them while it serves what is before them.

use super::{Device, DeviceLane, check_guest_memory, report};
use crate::observe::Record;
use crate::queue::Chain;
use crate::request::{Extent, Refusal, Reply, Request, parse};
use crate::vhost::{Progress, Token};

use super::job::Job;

/// A chain that has been parsed.
pub struct Accepted<'m> {
    queue: usize,
    record: Record,
    reply: Reply<'m>,
    request: Result<Request<'m>, Refusal>,
}

impl Device {
    pub(super) fn accept_chain<'m>(
        &self,
        lane: &mut DeviceLane,
        queue: usize,
        head: u16,
        chain: Chain<'m>,
    ) -> Accepted<'m> {
        let record = Record::new(queue, head, lane.observe.stopwatch());
        let (reply, mut request) = parse(chain, self.role(queue), &self.limits());
        if let Err(failure) = check_guest_memory() {
            report(&failure);
            // What was taken for a chain or a request need not be one.
            request = Err(Refusal { request_type: None, status: failure.status(), malformed: false });
        }
        Accepted { queue, record, reply, request }
    }

    pub(super) fn announce(lane: &mut DeviceLane, accepted: &Accepted<'_>) {
        match accepted.request {
            Ok(Request::Read { extent: Extent { offset, len }, .. }) => {
                // What was announced before, and the engine had no time for.
                lane.soon.fetch_rest();
                lane.soon = lane.disk.will_read(offset, len).unwrap_or_default();
            }
            Ok(Request::Write { extent: Extent { offset, len }, .. }) => lane.disk.will_write(offset, len),
            _ => {}
        }
    }

    pub(super) fn start_accepted<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        accepted: Accepted<'m>,
    ) -> Progress<Job<'m>> {
        let Accepted { queue, mut record, mut reply, request } = accepted;
        match request {
            Ok(request) => {
                record.describe(&request);
                if self.faults.armed()
                    && let Some(fate) = self.fate(queue, &request)
                {
                    return self.start_struck(lane, token, request, reply, record, fate);
                }
                let next = self.execute(lane, token, request, &mut reply, &mut record, None);
                self.settle(lane, token, reply, &mut record, None, next)
            }
            Err(refusal) => {
                record.describe_refusal(&refusal);
                let written = Self::refuse(reply, refusal);
                lane.observe.finished(&record);
                Progress::Done(written)
            }
        }
    }
}
