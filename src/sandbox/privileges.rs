// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Capabilities, and the ways to get them.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Drops all capabilities. What memory may be locked stays as it was: io_uring locks the buffers of each connection.
pub(super) fn drop_all() -> io::Result<()> {
    set_no_new_privs(true)?;
    let effective = capabilities(None)?.effective;
    if effective.contains(CapabilitySet::IPC_LOCK) {
        keep_locking_memory();
    }
    if effective.contains(CapabilitySet::SETPCAP) {
        for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
            // An error: the kernel does not know so many.
            if let Ok(true) = capability_is_in_bounding_set(capability) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    // Kernels before 4.3 have no ambient set. It is empty without a permitted one, anyhow.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// The limit counts from now on; with the capability it did not.
fn keep_locking_memory() {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        // As far as it goes. What cannot be locked then works without, and says so.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
}
