// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The last byte of a chain: the status.

use vm_memory::VolatileSlice;

use crate::protocol::Status;
use crate::segments::{Room, Segments};

/// The status byte. No other code writes one.
#[derive(Debug)]
#[must_use = "the driver waits for a status"]
pub struct StatusByte<'m>(Option<VolatileSlice<'m>>);

impl<'m> StatusByte<'m> {
    /// Splits the status byte off the writable part of a chain. The rest is room for data.
    pub(super) fn split(mut writable: Segments<'m>) -> (Self, Room<'m>) {
        let status = writable.split_last();
        (Self(status), Room::new(writable))
    }

    /// Whether there is room for a status.
    pub fn exists(&self) -> bool {
        self.0.is_some()
    }

    /// Writes the status of a request. Returns the used length: bytes written into the chain, data and status.
    pub fn finish(&mut self, status: Status, room: &Room<'_>) -> u32 {
        let written = self.write(status).saturating_add(room.written());
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    /// Writes the status of a chain that is not a request, if there is room for it. Returns the used length, which is
    /// 0.
    pub fn finish_malformed(&mut self, status: Status) -> u32 {
        self.write(status);
        0
    }

    fn write(&mut self, status: Status) -> u64 {
        self.0.take().map_or(0, |byte| {
            byte.copy_from(&[status as u8]);
            1
        })
    }
}
