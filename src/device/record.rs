// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The record of a request, for statistics and traces.

use crate::observe::{Kind, Record, Stage};
use crate::protocol::{SECTOR_SHIFT, Status, request_type};
use crate::request::{ControlCommand, Extent, Refusal, Request};

impl Record {
    /// Fills in the type and extent of a request.
    pub(crate) fn describe(&mut self, request: &Request<'_>) {
        let (request_type, extent) = match request {
            Request::Read { extent, crypto: None, .. } => (request_type::IN, Some(*extent)),
            Request::Read { extent, crypto: Some(tag), .. } => {
                (if tag.is_extended() { request_type::CRYPTO_IN_EXT } else { request_type::CRYPTO_IN }, Some(*extent))
            }
            Request::Write { extent, crypto: None, .. } => (request_type::OUT, Some(*extent)),
            Request::Write { extent, crypto: Some(tag), .. } => {
                (if tag.is_extended() { request_type::CRYPTO_OUT_EXT } else { request_type::CRYPTO_OUT }, Some(*extent))
            }
            Request::Flush => (request_type::FLUSH, None),
            Request::GetId => (request_type::GET_ID, None),
            Request::Discard(extents) => (request_type::DISCARD, sum(extents.iter().copied())),
            Request::WriteZeroes(ranges) => (request_type::WRITE_ZEROES, sum(ranges.iter().map(|range| range.extent))),
            Request::SecureErase(extents) => (request_type::SECURE_ERASE, sum(extents.iter().copied())),
            Request::Control(command) => (command_type(command), None),
        };
        self.request_type = Some(request_type);
        if let Some(extent) = extent {
            self.sector = extent.offset >> SECTOR_SHIFT;
            self.bytes = extent.len;
        }
    }

    /// Fills in the status, and the time of a request with a single stage.
    pub(crate) fn finish(&mut self, status: Status) {
        self.status = status;
        // Reads, writes and commands measure their stages themselves.
        if self.watch.runs()
            && matches!(self.kind(), Kind::Flush | Kind::Discard | Kind::WriteZeroes | Kind::SecureErase)
        {
            self.watch.lap(Stage::Disk);
        }
    }

    /// Fills in the type of a refused chain.
    pub(crate) fn describe_refusal(&mut self, refusal: &Refusal) {
        self.request_type = refusal.request_type;
        self.status = refusal.status;
        self.refused = true;
    }
}

/// The start of the first extent and the length of all.
fn sum(mut extents: impl Iterator<Item = Extent>) -> Option<Extent> {
    let first = extents.next()?;
    let len = extents.fold(first.len, |sum, extent| sum.saturating_add(extent.len));
    Some(Extent { offset: first.offset, len })
}

fn command_type(command: &ControlCommand<'_>) -> u32 {
    match command {
        ControlCommand::GetCryptoModes => request_type::GET_CRYPTO_MODES,
        ControlCommand::GetCharacteristics => request_type::GET_CRYPTO_CHARACTERISTICS,
        ControlCommand::GetExtensions => request_type::GET_CRYPTO_EXTENSIONS,
        ControlCommand::Program(_) => request_type::KEYSLOT_PROGRAM,
        ControlCommand::Evict { .. } => request_type::KEYSLOT_EVICT,
        ControlCommand::DeriveSwSecret(_) => request_type::DERIVE_SW_SECRET,
        ControlCommand::GenerateKey => request_type::GENERATE_KEY,
        ControlCommand::ImportKey(_) => request_type::IMPORT_KEY,
        ControlCommand::PrepareKey(_) => request_type::PREPARE_KEY,
    }
}
