// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is printed. `println!` and its like panic where nobody reads, or where the disk is full.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Writes a text to standard output. Returns `success`, unless that fails; whoever has hung up has seen enough.
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

/// Writes an error to standard error. If that fails, nobody is left to be told.
pub fn complain(error: &str) {
    let _ = writeln!(std::io::stderr(), "vhost-user-blk-crypto: error: {error}");
}
