// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How many descriptors this process may open: a frontend passes three for each queue, and one for each region of memory.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. The soft one is low by tradition, for programs that use `select`.
pub fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        log::warn!("cannot raise the limit on open files to its maximum: {}", io::Error::from(error));
    }
}

/// The limit; none when there is none.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Warns when so many more descriptors cannot be opened. The sessions that need them would end.
pub fn warn_of_need(more: u64) {
    // It cannot be told where /proc is not mounted.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64; // usize to u64 loses nothing
    let need = open.saturating_add(more);
    if let Some(limit) = limit().filter(|&limit| limit < need) {
        log::warn!(
            "up to {need} descriptors may be needed, but no more than {limit} can be open; a frontend that uses all \
             queues, or many regions of memory, may be turned away{HINT}"
        );
    }
}

/// What to do when descriptors run out, to be put behind an error message.
pub const HINT: &str = "; raise the limit on open files (ulimit -Hn, LimitNOFILE=), or use fewer queues (--num-queues)";

/// [`HINT`], if this is such an error.
pub fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => HINT,
        _ => "",
    }
}
