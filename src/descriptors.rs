// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The limit on open files: a frontend passes three descriptors per queue, and one per memory region.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit. The soft limit is low by tradition, for programs that use `select`.
pub fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        log::warn!("cannot raise the limit on open files to its maximum: {}", io::Error::from(error));
    }
}

/// The limit; `None` if there is none.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Warns if `more` descriptors exceed the limit, because sessions that need them would fail.
pub fn warn_of_need(more: u64) {
    // Without /proc the open ones cannot be counted.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64; // usize to u64 loses nothing
    let need = open.saturating_add(more);
    if let Some(limit) = limit().filter(|&limit| limit < need) {
        log::warn!(
            "the device may need {need} descriptors, and the limit is {limit}; a frontend that uses all \
             queues, or many memory regions, may be refused{HINT}"
        );
    }
}

/// Advice for an error message when descriptors run out.
pub const HINT: &str = "; raise the limit on open files (ulimit -Hn, LimitNOFILE=), or use fewer queues (--num-queues)";

/// [`HINT`], if descriptors have run out.
pub fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => HINT,
        _ => "",
    }
}

/// Whether descriptors or memory have run out: the same call may succeed later.
pub fn have_run_out(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
