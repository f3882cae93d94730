// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Traces: a binary record of fixed size for each request. `docs/trace.md` describes the file.
//!
//! A worker puts records into a ring of its own, without a lock; a thread empties the rings into the file every few
//! milliseconds. A ring that is full loses records, which are counted: a trace never holds a request up.

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

/// How a trace stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceStatus {
    /// Its file.
    #[serde(serialize_with = "as_text")]
    pub file: PathBuf,
    /// Requests in the file.
    pub records: u64,
    /// Requests lost because the writer could not keep up.
    pub dropped: u64,
    /// Why nothing is written any more.
    pub error: Option<String>,
}

/// A name of a file as text, also where it is none.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
