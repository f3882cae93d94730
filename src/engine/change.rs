// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests without data: flush, discard, write zeroes, serial number.

use super::{Engine, Failure, Io, SERIAL_BYTES};
use crate::disk::ZeroMode;
use crate::request::{Extent, Request};

impl Engine {
    /// Executes a request without data.
    pub(super) async fn change(&self, io: &mut Io<'_>, request: &mut Request<'_>) -> Result<(), Failure> {
        self.finish_prefetch(io);
        match request {
            Request::Flush => return self.make_durable(io).await,
            Request::GetId => {
                let mut id = [0; SERIAL_BYTES];
                id.iter_mut().zip(self.config.serial.bytes()).for_each(|(to, from)| *to = from);
                io.room.write(0, &id);
                return Ok(());
            }
            Request::Discard(extents) => {
                let extents = std::mem::take(extents);
                io.run(total(&extents), move |image| {
                    extents.iter().try_for_each(|extent| image.discard(extent.offset, extent.len))
                })
                .await?;
            }
            Request::SecureErase(extents) => {
                let extents = std::mem::take(extents);
                io.run(total(&extents), move |image| {
                    extents.iter().try_for_each(|extent| image.secure_erase(extent.offset, extent.len))
                })
                .await?;
            }
            Request::WriteZeroes(ranges) => {
                let ranges = std::mem::take(ranges);
                let bytes = ranges.iter().fold(0, |sum, range| range.extent.len.saturating_add(sum));
                io.run(bytes, move |image| {
                    ranges.iter().try_for_each(|range| {
                        let mode = if range.may_deallocate { ZeroMode::MayDeallocate } else { ZeroMode::Keep };
                        image.write_zeroes(range.extent.offset, range.extent.len, mode)
                    })
                })
                .await?;
            }
            // `read`, `write` and `command` execute these.
            Request::Read { .. } | Request::Write { .. } | Request::Control(_) => return Err(Failure::Unsupported),
        }
        self.commit(io).await
    }

    /// After a change of the image: makes it durable if required.
    pub(super) async fn commit(&self, io: &mut Io<'_>) -> Result<(), Failure> {
        if io.durable { self.make_durable(io).await } else { Ok(()) }
    }

    /// Makes all completed writes durable.
    async fn make_durable(&self, io: &mut Io<'_>) -> Result<(), Failure> {
        io.flush().await?;
        self.observer.count_flush();
        Ok(())
    }
}

fn total(extents: &[Extent]) -> u64 {
    extents.iter().fold(0, |sum, extent| extent.len.saturating_add(sum))
}
