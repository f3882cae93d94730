// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Locking that ignores poisoning.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. Our locks protect plain values: a panic elsewhere, which only a bug could cause, cannot leave them
/// half-changed.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
