// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options of `selftest`.

use std::path::PathBuf;

use clap::Args;

/// Check that the engine encrypts as it should, and what this machine has for the device.
///
/// Takes a few seconds and needs neither a guest nor an image. Exit status: 0 when the device can serve a frontend, also when
/// something is missing that it can do without; 1 when it cannot.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct SelftestArgs {
    /// The QEMU to look at [default: qemu-system-x86_64 (or that of this CPU) in $PATH]
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<PathBuf>,
}
