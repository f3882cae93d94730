// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Capabilities, and the ways to get them.
#![forbid(unsafe_code)]

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::{FILTERED, Missing, SandboxError};
use crate::probe;

/// Drops all capabilities. The limit on locked memory keeps its effect: io_uring locks the buffers of each connection.
/// Returns what a filter around this program forbids.
pub(super) fn drop_all() -> Result<Option<Missing>, SandboxError> {
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Ok(Some(error.to_string())),
        _ => Err(SandboxError::Privileges(error)),
    };
    let reason = match drop_capabilities() {
        Ok(true) => None,
        Ok(false) => Some(FILTERED.to_owned()),
        Err(error) => refused(error)?,
    };
    Ok(reason.map(|reason| Missing(format!("the dropping of privileges: {reason}"))))
}

/// Returns false if a filter would kill the process for this.
fn drop_capabilities() -> io::Result<bool> {
    set_no_new_privs(true)?;
    let had = capabilities(None)?;
    if had.effective.contains(CapabilitySet::IPC_LOCK) {
        keep_locking_memory();
    }
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
            // On an error, the kernel has no capability of this number.
            if let Ok(true) = capability_is_in_bounding_set(capability) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    // Kernels before 4.3 have no ambient set. It is empty anyway without a permitted one.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    if had.permitted.is_empty() && had.inheritable.is_empty() {
        return Ok(true);
    }
    if !probe::is_allowed(|| set_capabilities(None, had).is_ok()) {
        return Ok(false);
    }
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(true)
}

/// The limit counts once the capability is gone, so it is raised before.
fn keep_locking_memory() {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        // As far as possible. What cannot be locked later works without it and reports that.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
}
