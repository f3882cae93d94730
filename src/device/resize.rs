// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Resizing the disk while it is in use.

use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::Device;
use crate::disk::ResizeError;
use crate::lock::lock;
use crate::vhost::Notifier;

/// The result of a resize.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resized {
    /// The size now.
    pub bytes: u64,
    /// The size before.
    pub before: u64,
    /// Whether the frontend knows.
    pub frontend: FrontendKnows,
    /// Why it was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether the frontend knows of a new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendKnows {
    /// It was told, and tells the guest.
    Told,
    /// It is connected, and could not be told.
    NotTold,
    /// There is none.
    NotConnected,
    /// There is no way to tell it, and its driver finds out with its next request.
    WithNextRequest,
    /// There was nothing to tell: the size is the same.
    Unchanged,
}

/// The frontend to tell of a new size. The lock is held while the size changes, so no frontend connects meanwhile.
#[derive(Default)]
pub struct ResizeNotifier(Mutex<Frontend>);

#[derive(Default)]
struct Frontend {
    connected: bool,
    notifier: Option<Arc<Notifier>>,
    /// The size has changed while no queue ran.
    missed: bool,
}

impl ResizeNotifier {
    fn with<T>(&self, action: impl FnOnce(&mut Frontend) -> T) -> T {
        action(&mut lock(&self.0))
    }

    /// A frontend has connected or disconnected.
    pub fn set_connected(&self, connected: bool) {
        let before = self.with(|frontend| std::mem::replace(frontend, Frontend { connected, ..Frontend::default() }));
        if let Some(notifier) = before.notifier {
            notifier.close();
        }
    }

    /// Sets the notifier of the frontend.
    pub fn set_notifier(&self, notifier: Notifier) {
        if let Some(before) = self.with(|frontend| frontend.notifier.replace(Arc::new(notifier))) {
            before.close();
        }
    }

    /// A queue has been started: tells the frontend again what it may have missed. QEMU's vhost-user-blk gives the
    /// guest the size that it read on connecting, and ignores changes before the driver is there.
    pub fn queue_started(&self) {
        let missed = self.with(|frontend| std::mem::take(&mut frontend.missed).then(|| frontend.notifier.clone()));
        if let Some(notifier) = missed.flatten() {
            notifier.send_config_changed();
        }
    }
}

impl Device {
    /// Takes over the current size of the image, or first enlarges the image to `bytes`. All queues serve the new size
    /// at once; then the frontend is told, if possible. Requests in flight are not affected.
    ///
    /// # Errors
    /// When the image cannot have this size, or would shrink with a frontend connected.
    pub fn resize(&self, bytes: Option<u64>) -> Result<Resized, ResizeError> {
        self.resize_lun(0, bytes)
    }

    /// As [`resize`](Self::resize), for one of several disks.
    ///
    /// # Errors
    /// Those, or that there is no such disk.
    pub fn resize_lun(&self, lun: usize, bytes: Option<u64>) -> Result<Resized, ResizeError> {
        let disks = self.engine.disks().count();
        let disk = self.engine.disks().nth(lun).ok_or(ResizeError::NoDisk { lun, disks })?;
        let block = self.config.engine.logical_block_size;
        let (sizes, connected, notifier) = self.resize_notifier.with(|frontend| {
            let sizes = disk.image().resize(bytes, block, !frontend.connected)?;
            frontend.missed |= sizes.0 != sizes.1 && self.observer().running_queues().next().is_none();
            Ok::<_, ResizeError>((sizes, frontend.connected, frontend.notifier.clone()))
        })?;
        let (before, bytes) = sizes;
        // Without the lock: the frontend reads the configuration space before it replies, and may hang up instead.
        let (frontend, reason) = match notifier {
            _ if before == bytes => (FrontendKnows::Unchanged, None),
            _ if !connected => (FrontendKnows::NotConnected, None),
            // By a unit attention.
            None if self.config.ufs => (FrontendKnows::WithNextRequest, None),
            None => {
                let reason = "it has opened no backend channel; the guest sees the new size after its next reset";
                (FrontendKnows::NotTold, Some(reason.to_owned()))
            }
            Some(notifier) => match notifier.config_changed() {
                Ok(()) => (FrontendKnows::Told, None),
                Err(error) => (FrontendKnows::NotTold, Some(error.to_string())),
            },
        };
        if before != bytes {
            let which = if self.config.ufs { format!("LUN {lun}") } else { "the disk".into() };
            log::info!("the size of {which} has changed from {before} to {bytes} bytes");
        }
        Ok(Resized { bytes, before, frontend, reason })
    }
}
