// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The header of a report: the machine, the programs and the settings of a run.

use super::cpus::Cpus;
use super::root::Root;
use crate::measure::header::{self, Header, read};
use anyhow::Result;
use std::path::Path;

/// Collects the header. `note` is about the cores.
pub fn header(device: &Path, root: &Root, how: &str, cpus: Cpus, note: Option<String>) -> Result<Header> {
    let mut header = Header::new()?;
    header.add("CPU", header::cpu(&read("/proc/cpuinfo")));
    header.add("kernel", read("/proc/sys/kernel/osrelease"));
    header.add_version("device", device)?;
    for (name, version) in root.versions()? {
        header.add(name, version);
    }
    header.add_command(how);
    header.add(
        "cores",
        match (cpus.server, cpus.client) {
            (Some(server), Some(client)) => format!("server {server}, client {client}"),
            _ => "not pinned".to_owned(),
        },
    );
    for note in note.into_iter().chain(io_uring_note()) {
        header.add("note", note);
    }
    Ok(header)
}

/// What this kernel does not allow, and what follows from it.
fn io_uring_note() -> Option<String> {
    let disabled = read("/proc/sys/kernel/io_uring_disabled");
    match disabled.trim() {
        "2" => Some("io_uring is switched off (kernel.io_uring_disabled=2): contenders that need it cannot run".into()),
        "1" if !crate::process::is_root() => {
            Some("io_uring is for root only (kernel.io_uring_disabled=1): contenders that need it may not run".into())
        }
        _ => None,
    }
}
