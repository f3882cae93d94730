// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Output without `println!`, which panics when the reader is gone or the disk is full.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Writes a text to standard output. Returns `success`, unless the write fails; a closed pipe is not a failure.
pub fn print(text: &str, success: ExitCode) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => success,
    }
}

/// Writes an error to standard error. If that fails, nothing can report it.
pub fn complain(error: &str) {
    let _ = writeln!(std::io::stderr(), "vhost-user-blk-crypto: error: {error}");
}
