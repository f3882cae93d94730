// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the control socket is told, and may do.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::Device;
use crate::control::{Controlled, Engine, Features, Image, KeyInfo, Keyslot, Queue, Resized, Status};
use crate::faults::FaultStatus;
use crate::observe::Stats;
use crate::observe::trace::TraceStatus;
use crate::protocol::feature;
use crate::request::QueueRole;

/// The name of the one mode there is.
const MODE: &str = "AES-256-XTS";

const FEATURES: &[(u64, &str)] = &[
    (feature::SEG_MAX, "SEG_MAX"),
    (feature::RO, "RO"),
    (feature::BLK_SIZE, "BLK_SIZE"),
    (feature::FLUSH, "FLUSH"),
    (feature::TOPOLOGY, "TOPOLOGY"),
    (feature::CONFIG_WCE, "CONFIG_WCE"),
    (feature::MQ, "MQ"),
    (feature::DISCARD, "DISCARD"),
    (feature::WRITE_ZEROES, "WRITE_ZEROES"),
    (feature::SECURE_ERASE, "SECURE_ERASE"),
    (feature::CTRL_VQ, "CTRL_VQ"),
    (feature::INLINE_ENCRYPTION, "INLINE_ENCRYPTION"),
    (feature::INDIRECT_DESC, "INDIRECT_DESC"),
    (feature::EVENT_IDX, "EVENT_IDX"),
    (feature::VERSION_1, "VERSION_1"),
];

impl Device {
    /// What the key of a slot was programmed for. The hold on the key is as short as this call.
    fn key_info(&self, slot: usize) -> Option<KeyInfo> {
        let key = self.engine.keyslots().peek(u32::try_from(slot).ok()?)?;
        let config = key.key().config;
        let (data_unit_size, dun_bytes) = (1u32.checked_shl(config.data_unit_bits.into())?, config.dun_bytes);
        Some(KeyInfo { generation: key.generation(), mode: MODE, data_unit_size, dun_bytes })
    }

    fn engine_status(&self) -> Engine {
        let types = [(self.config.engine.raw_keys, "raw"), (self.engine.takes_wrapped_keys(), "wrapped")];
        let sizes = (0..u32::BITS).map(|bit| 1 << bit).filter(|size| self.config.engine.data_unit_mask & size != 0);
        let in_use = |slot: &u16| self.key_info(usize::from(*slot)).is_some();
        Engine {
            crypto_engine: self.config.engine.crypto_engine.name(),
            modes: vec![MODE],
            keyslots: self.config.engine.keyslots,
            keyslots_in_use: (0..self.config.engine.keyslots).filter(in_use).count(),
            key_types: types.into_iter().filter_map(|(offered, name)| offered.then_some(name)).collect(),
            data_unit_sizes: sizes.collect(),
            max_dun_bytes: self.config.engine.max_dun_bytes,
        }
    }
}

impl Controlled for Device {
    fn status(&self) -> Status {
        let features = self.features.load(Ordering::Acquire);
        let queue = |queue: usize| match self.role(queue) {
            QueueRole::Request => Queue { queue, role: "request" },
            QueueRole::Control | QueueRole::Either => Queue { queue, role: "control" },
        };
        Status {
            engine: self.engine_status(),
            image: Image {
                bytes: self.disk().image().len(),
                in_memory: self.disk().image().is_in_memory(),
                aio: self.disk().aio().name(),
                read_only: self.disk().image().read_only(),
                discard: self.disk().image().can_discard(),
                logical_block_size: self.config.engine.logical_block_size,
                writeback: self.writeback.load(Ordering::Acquire),
            },
            connected: self.observer().connected(),
            features: Features {
                bits: format!("{features:#x}"),
                names: FEATURES.iter().filter(|(bit, _)| features & bit != 0).map(|(_, name)| *name).collect(),
            },
            latency: self.observer().latency(),
            trace: self.observer().trace_status(),
            queues: self.observer().running_queues().map(queue).collect(),
        }
    }

    fn stats(&self) -> Stats {
        Device::stats(self)
    }

    fn keyslots(&self) -> Vec<Keyslot> {
        let slots = self.observer().slots().into_iter().enumerate();
        slots
            .map(|(slot, used)| Keyslot {
                slot,
                key: self.key_info(slot),
                programs: used.programs,
                evictions: used.evictions,
                hits: used.hits,
            })
            .collect()
    }

    fn set_latency(&self, on: bool) {
        self.observer().set_latency(on);
    }

    fn reset_engine(&self) -> usize {
        let lost = self.engine.lose_keys();
        self.observer().count_engine_reset(lost);
        lost
    }

    fn resize(&self, bytes: Option<u64>) -> Result<Resized, String> {
        Device::resize(self, bytes).map_err(|error| error.to_string())
    }

    fn add_fault(&self, spec: &str) -> Result<u64, String> {
        self.faults().add(spec).map_err(|error| error.to_string())
    }

    fn faults(&self) -> Vec<FaultStatus> {
        self.faults().list()
    }

    fn clear_faults(&self, id: Option<u64>) -> Result<usize, String> {
        self.faults().clear(id).map_err(|error| error.to_string())
    }

    fn start_trace(&self, file: &Path) -> io::Result<()> {
        if self.disk().image().is_at(file) {
            return Err(io::Error::other("it is the image; name another file"));
        }
        self.observer().start_trace(file)
    }

    fn stop_trace(&self) -> Option<TraceStatus> {
        self.observer().stop_trace()
    }

    fn sync_trace(&self) -> Option<TraceStatus> {
        self.observer().sync_trace()
    }
}
