// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a request was not done.

use std::io;

use crate::faults::KeepError;
use crate::keyslot::{NoSuchSlot, TransferError};
use crate::ratelimit::RateLimit;
use crate::secret::wipe_signal_stack;
use crate::sigbus;
use crate::wrapped::WrapError;

/// Why a request was not done. What the driver is told of it is the front end's business.
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
    #[error("a fault has been asked for")]
    Fault,
    #[error(
        "a part of the guest's memory is not there: its file has been cut off, or there is no room or huge page for it"
    )]
    GuestMemory,
    #[error(transparent)]
    Disk(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // System calls say it like this. Memory of our own is there.
        if error.raw_os_error() == Some(libc::EFAULT) { Self::GuestMemory } else { Self::Disk(error) }
    }
}

/// To be asked when something has been read from the guest's memory, and before anything is made of it.
///
/// # Errors
/// [`Failure::GuestMemory`], as long as the frontend's session lasts.
pub fn check_guest_memory() -> Result<(), Failure> {
    if sigbus::guest_memory_is_sound() {
        return Ok(());
    }
    // The signal may have struck while the engine worked.
    wipe_signal_stack();
    Err(Failure::GuestMemory)
}

impl Failure {
    /// The guest's mistakes are its own business; trouble of the host's is the user's.
    pub fn report(&self) {
        static LIMIT: RateLimit = RateLimit::new();
        match self {
            Self::Disk(error) => {
                if let Some(suppressed) = LIMIT.allow() {
                    log::warn!("the image fails: {error} ({suppressed} such lines left out before)");
                }
            }
            Self::GuestMemory => {
                if let Some(suppressed) = LIMIT.allow() {
                    log::warn!("a request fails: {self} ({suppressed} such lines left out before)");
                }
            }
            _ => log::debug!("a request fails: {self}"),
        }
    }
}
