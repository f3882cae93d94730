// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps on the host that go through QEMU's monitor: pauses, and what is plugged in and out while the guest runs.

use crate::case::parse_size;
use crate::qmp::Monitor;
use crate::vm::Vm;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::thread;
use std::time::Duration;

/// How long a pause lasts, and the time to the next one.
const PAUSE: Duration = Duration::from_millis(400);
/// How long the guest may take to release a disk.
const UNPLUG: Duration = Duration::from_secs(60);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuStep {
    /// Stops and resumes the guest, this many times.
    Pause(u32),
    /// Takes the disk out of the guest and plugs it in again.
    Replug,
    /// Plugs in a second disk with the socket of the first. The device must refuse it, and QEMU must not wait for it.
    Second,
    /// Plugs in memory.
    Memory(u64),
}

impl QemuStep {
    /// How they are written.
    pub const FORMS: &str = "pause TIMES, replug, second or memory SIZE";

    /// From the words of a case's header; `None` when it is another kind of step.
    pub fn parse(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match words {
            ["pause", times] => Self::Pause(times.parse().context("pause is followed by a number")?),
            ["replug"] => Self::Replug,
            ["second"] => Self::Second,
            ["memory", size] => Self::Memory(parse_size(size)?),
            _ => return Ok(None),
        }))
    }

    /// Does it.
    pub fn act(&self, monitor: &mut Monitor, vm: &Vm) -> Result<()> {
        match self {
            Self::Pause(times) => {
                for _ in 0..*times {
                    monitor.execute("stop", &json!({}))?;
                    thread::sleep(PAUSE);
                    monitor.execute("cont", &json!({}))?;
                    thread::sleep(PAUSE);
                }
            }
            Self::Replug => {
                monitor.execute("device_del", &json!({"id": "disk0"}))?;
                monitor.wait_for("DEVICE_DELETED", "disk0", UNPLUG)?;
                let socket = vm.disks.first().context("there is no first disk")?;
                monitor.execute("device_add", &vm.disk(0, socket))?;
            }
            Self::Second => {
                let socket = vm.disks.first().context("there is no first disk")?;
                let address = json!({"type": "unix", "data": {"path": socket}});
                let backend = json!({"type": "socket", "data": {"addr": address, "server": false}});
                monitor.execute("chardev-add", &json!({"id": "disk1", "backend": backend}))?;
                let added = monitor.execute("device_add", &vm.disk(1, socket));
                let refused = added.err().context("QEMU has two disks with one socket")?.to_string();
                ensure!(refused.starts_with("QEMU refuses"), "{refused}");
                let status = monitor.execute("query-status", &json!({}))?;
                ensure!(status["status"] == "running", "with a second disk refused, the guest is {}", status["status"]);
                monitor.execute("chardev-remove", &json!({"id": "disk1"}))?;
            }
            Self::Memory(bytes) => {
                let memory = json!({"qom-type": "memory-backend-memfd", "id": "more", "size": bytes, "share": true});
                monitor.execute("object-add", &memory)?;
                monitor.execute("device_add", &json!({"driver": "pc-dimm", "id": "dimm", "memdev": "more"}))?;
            }
        }
        Ok(())
    }
}
