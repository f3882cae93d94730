// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Traces: a binary record of fixed size for each request. `docs/trace.md` describes the file.
//!
//! A worker puts records into a ring of its own without a lock. A thread writes the rings to the file every few
//! milliseconds. A full ring loses records, which are counted: a trace never delays a request.

mod format;
pub mod print;
mod ring;
mod writer;

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub(super) use format::encode;
pub use format::{HEADER_BYTES, MAGIC, RECORD_BYTES, Reader, TraceEntry, TraceRecord, VERSION};
pub(super) use ring::TraceRing;
pub(super) use writer::Tracer;

/// The state of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceStatus {
    /// Its file.
    #[serde(serialize_with = "as_text")]
    pub file: PathBuf,
    /// Requests in the file.
    pub records: u64,
    /// Requests lost because the writer could not keep up.
    pub dropped: u64,
    /// Why nothing more is written.
    pub error: Option<String>,
}

/// A file name as text, even if it is not valid text.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
