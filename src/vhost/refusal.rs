// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a message of the frontend is refused, and which option fixes that.
#![forbid(unsafe_code)]

use std::io;

use vhost::vhost_user::message::{FrontendReq, VhostUserVirtioFeatures};
use vhost::vhost_user::{Error, Result};

use super::backend_channel::Header;

/// What to do when guest memory is missing.
pub const SHARE: &str = "share all of the guest's memory (QEMU: -object memory-backend-memfd,id=mem,size=...,share=on with \
                         -machine ...,memory-backend=mem)";

/// An error with a text.
pub fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}

/// An error for a protocol feature that was not offered.
pub fn unsupported<T>(what: &str) -> Result<T> {
    Err(refused(format!("{what} is not supported")))
}

/// An error for a queue number that does not exist among `count`.
pub fn no_such_queue(index: u64, count: usize) -> Error {
    refused(format!(
        "there is no queue {index}: the device has {} request queues and a control virtqueue; start it with a larger \
         --num-queues, or give the frontend fewer queues (QEMU: num-queues=, num_vqs=)",
        count.saturating_sub(1)
    ))
}

/// An error for a ring size that is not possible.
pub fn ring_size(index: u32, size: u32, most: u16) -> Error {
    if size > most.into() {
        refused(format!(
            "the frontend wants {size} entries in queue {index}, and --queue-size is {most}; raise it, or give the frontend \
             smaller queues (QEMU: queue-size=, vq_size=)"
        ))
    } else {
        refused(format!("the frontend wants {size} entries in queue {index}, which is not a power of two"))
    }
}

/// An error for a part of a ring outside shared memory.
pub fn ring_is_nowhere(index: u32, address: u64, no_memory: bool) -> Error {
    let what = if no_memory {
        "the frontend shares no memory".into()
    } else {
        format!("{address:#x} is not in shared memory")
    };
    refused(format!("the ring of queue {index} cannot be reached: {what}; {SHARE}"))
}

/// An error for a ring that is not aligned, or whose end is not in memory.
pub fn ring_is_malformed(index: u32) -> Error {
    refused(format!("the ring of queue {index} is not aligned, or does not lie in shared memory as a whole; {SHARE}"))
}

/// An error for a notification descriptor that is not an eventfd.
pub fn no_eventfd(index: u8, error: &io::Error) -> Error {
    refused(format!("a notification descriptor of queue {index} cannot be used: {error}"))
}

/// An error for feature bits that were not offered.
pub fn features(bits: u64) -> Error {
    if bits == VhostUserVirtioFeatures::LOG_ALL.bits() {
        return refused("live migration (VHOST_F_LOG_ALL) is not supported; use a cold migration");
    }
    refused(format!("the frontend sets the features {bits:#x}, which the device does not offer"))
}

/// Explains why a message could not be served.
pub fn explain(header: Header, error: &Error) -> String {
    let Ok(request) = FrontendReq::try_from(header.request) else {
        return format!("message {} is not known", header.request);
    };
    let memory = matches!(request, FrontendReq::SET_MEM_TABLE | FrontendReq::ADD_MEM_REG);
    match error {
        Error::ReqHandlerError(error) => format!("{request:?}: {error}{}", crate::descriptors::hint(error)),
        Error::InvalidMessage | Error::InvalidParam | Error::IncorrectFds if memory => {
            format!("{request:?}: the message is malformed, or a region of memory has no file descriptor; {SHARE}")
        }
        Error::InactiveFeature(_) | Error::InactiveOperation(_) => {
            format!("{request:?}: the feature that it belongs to was not negotiated")
        }
        Error::InvalidMessage => format!("{request:?}: the message is malformed, or not supported"),
        error => format!("{request:?}: {error}"),
    }
}
