// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Locking, whatever has panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. What our locks protect are plain values: a panic elsewhere, which could only come from a defect, cannot leave them
/// half-changed.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
