// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a request failed.

use std::io;

use crate::faults::{ControllerFault, KeepError};
use crate::keyslot::{NoSuchSlot, TransferError};
use crate::ratelimit::log_limited;
use crate::secret::wipe_signal_stack;
use crate::sigbus;
use crate::wrapped::WrapError;

/// Why a request failed. The front end maps this to a status.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum Failure {
    #[error("the device does not offer this")]
    Unsupported,
    #[error("the request is malformed")]
    Malformed,
    #[error("the keyslot is empty")]
    NoKey,
    #[error("there is no memory for a buffer")]
    NoMemory,
    #[error(transparent)]
    NoSuchSlot(#[from] NoSuchSlot),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Wrap(#[from] WrapError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error("an injected fault")]
    Fault,
    #[error("an injected fault of the host controller")]
    Controller(ControllerFault),
    #[error("part of the guest's memory is missing: its file was truncated, or there is no memory or huge page for it")]
    GuestMemory,
    #[error(transparent)]
    Disk(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // System calls report missing guest memory like this. Our own memory is never missing.
        if error.raw_os_error() == Some(libc::EFAULT) { Self::GuestMemory } else { Self::Disk(error) }
    }
}

/// Call this after reading guest memory, before using what was read.
///
/// # Errors
/// [`Failure::GuestMemory`], as long as the frontend's session lasts.
pub fn check_guest_memory() -> Result<(), Failure> {
    if sigbus::guest_memory_is_sound() {
        return Ok(());
    }
    // SIGBUS may have struck while the engine worked.
    wipe_signal_stack();
    Err(Failure::GuestMemory)
}

impl Failure {
    /// Logs mistakes of the guest at debug level, and problems of the host as warnings.
    pub fn report(&self) {
        match self {
            Self::Disk(error) => log_limited!(warn, "an access to the image failed: {error}"),
            Self::GuestMemory | Self::NoMemory | Self::Keep(_) | Self::Wrap(WrapError::Random) => {
                log_limited!(warn, "a request failed: {self}");
            }
            _ => log::debug!("a request failed: {self}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_guest_memory_is_not_the_disks_fault() {
        let failure = |code| Failure::from(io::Error::from_raw_os_error(code));
        assert!(matches!(failure(libc::EFAULT), Failure::GuestMemory));
        for code in [libc::EIO, libc::ENOSPC, libc::EOPNOTSUPP] {
            assert!(matches!(failure(code), Failure::Disk(error) if error.raw_os_error() == Some(code)));
        }
        assert!(matches!(Failure::from(io::Error::from(io::ErrorKind::UnexpectedEof)), Failure::Disk(_)));
    }
}
