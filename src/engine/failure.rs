// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a request was not done.

use std::io;

use crate::faults::KeepError;
use crate::keyslot::{NoSuchSlot, TransferError};
use crate::ratelimit::RateLimit;
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
    #[error(transparent)]
    Disk(#[from] io::Error),
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
            _ => log::debug!("a request fails: {self}"),
        }
    }
}
