// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The state of the device, as `status` and `keyslots` of the control socket print it.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::Device;
use crate::digest::DigestAlgorithm;
use crate::disk::Disk;
use crate::observe::trace::TraceStatus;
use crate::protocol::feature;
use crate::request::QueueRole;

/// The only mode.
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
    (feature::ACCESS_PLATFORM, "ACCESS_PLATFORM"),
];

/// The device and its state.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceStatus {
    /// The engine.
    pub engine: EngineStatus,
    /// The image, or the first of several.
    pub image: ImageStatus,
    /// The images of all logical units, of a UFS host controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub luns: Vec<ImageStatus>,
    /// A frontend is connected.
    pub connected: bool,
    /// Features that the driver has negotiated.
    pub features: FeatureStatus,
    /// Latencies are recorded.
    pub latency: bool,
    /// The trace that is being written.
    pub trace: Option<TraceStatus>,
    /// All queues that run.
    pub queues: Vec<QueueStatus>,
}

/// What the engine offers.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStatus {
    /// The AES-XTS implementation, as `--crypto-engine` names it.
    pub crypto_engine: &'static str,
    /// Crypto modes.
    pub modes: Vec<&'static str>,
    /// Number of keyslots.
    pub keyslots: u16,
    /// Slots that hold a key.
    pub keyslots_in_use: usize,
    /// `raw`, `wrapped`.
    pub key_types: Vec<&'static str>,
    /// Bytes.
    pub data_unit_sizes: Vec<u32>,
    /// The most bytes a DUN may have.
    pub max_dun_bytes: u8,
    /// Digests of the ciphertext that requests may ask for.
    pub digests: Vec<DigestAlgorithm>,
}

/// The image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageStatus {
    /// Its size.
    pub bytes: u64,
    /// A memory disk, which is lost when the device ends.
    pub in_memory: bool,
    /// How data is moved that is not moved in place, as `--aio` names it.
    pub aio: &'static str,
    /// Writes are refused.
    pub read_only: bool,
    /// The image can free space.
    pub discard: bool,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// Completed writes may be in the cache until a flush.
    pub writeback: bool,
}

/// Feature bits.
#[derive(Debug, Clone, Serialize)]
pub struct FeatureStatus {
    /// As a number in hexadecimal.
    pub bits: String,
    /// Names of the known bits.
    pub names: Vec<&'static str>,
}

/// A queue that is started and enabled.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStatus {
    /// Its number.
    pub queue: usize,
    /// `request` or `control`.
    pub role: &'static str,
}

/// The state of a keyslot. Never a key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyslotStatus {
    /// Its number.
    pub slot: usize,
    /// Its current key; nothing if it is empty.
    #[serde(flatten)]
    pub key: Option<KeyStatus>,
    /// Successful program commands.
    pub programs: u64,
    /// Evict commands that found a key.
    pub evictions: u64,
    /// Encrypted requests that found a key here.
    pub hits: u64,
}

/// What a key was programmed for.
#[derive(Debug, Clone, Serialize)]
pub struct KeyStatus {
    /// Which programming it is; rises with every program command of the device.
    pub generation: u64,
    /// Crypto mode.
    pub mode: &'static str,
    /// Bytes of a data unit.
    pub data_unit_size: u32,
    /// Bytes a DUN may have.
    pub dun_bytes: u8,
}

impl Device {
    /// The state of a slot's key. Holds the key only during this call.
    fn key_info(&self, slot: usize) -> Option<KeyStatus> {
        let key = self.engine.keyslots().peek(u32::try_from(slot).ok()?)?;
        let config = key.key().config;
        let (data_unit_size, dun_bytes) = (1u32.checked_shl(config.data_unit_bits.into())?, config.dun_bytes);
        Some(KeyStatus { generation: key.generation(), mode: MODE, data_unit_size, dun_bytes })
    }

    fn engine_status(&self) -> EngineStatus {
        let types = [(self.config.engine.raw_keys, "raw"), (self.engine.takes_wrapped_keys(), "wrapped")];
        let sizes = (0..u32::BITS).map(|bit| 1 << bit).filter(|size| self.config.engine.data_unit_mask & size != 0);
        let in_use = |slot: &u16| self.key_info(usize::from(*slot)).is_some();
        EngineStatus {
            crypto_engine: self.config.engine.crypto_engine.name(),
            modes: vec![MODE],
            keyslots: self.config.engine.keyslots,
            keyslots_in_use: (0..self.config.engine.keyslots).filter(in_use).count(),
            key_types: types.into_iter().filter_map(|(offered, name)| offered.then_some(name)).collect(),
            data_unit_sizes: sizes.collect(),
            max_dun_bytes: self.config.engine.max_dun_bytes,
            digests: self.config.engine.digests.clone(),
        }
    }

    fn image_status(&self, disk: &Disk) -> ImageStatus {
        let image = disk.image();
        ImageStatus {
            bytes: image.len(),
            in_memory: image.is_in_memory(),
            aio: disk.aio().name(),
            read_only: image.read_only(),
            discard: image.can_discard(),
            logical_block_size: self.config.engine.logical_block_size,
            writeback: self.writeback.load(Ordering::Acquire),
        }
    }

    /// The device and its state.
    pub fn status(&self) -> DeviceStatus {
        let features = self.features.load(Ordering::Acquire);
        let disks = self.engine.disks();
        let queue = |queue: usize| match self.role(queue) {
            QueueRole::Request => QueueStatus { queue, role: "request" },
            QueueRole::Control | QueueRole::Either => QueueStatus { queue, role: "control" },
        };
        DeviceStatus {
            engine: self.engine_status(),
            image: self.image_status(self.disk()),
            luns: if self.config.ufs { disks.map(|disk| self.image_status(disk)).collect() } else { Vec::new() },
            connected: self.observer().connected(),
            features: FeatureStatus {
                bits: format!("{features:#x}"),
                names: FEATURES.iter().filter(|(bit, _)| features & bit != 0).map(|(_, name)| *name).collect(),
            },
            latency: self.observer().latency(),
            trace: self.observer().trace_status(),
            queues: self.observer().running_queues().map(queue).collect(),
        }
    }

    /// The keyslots, in order.
    pub fn keyslots(&self) -> Vec<KeyslotStatus> {
        let slots = self.observer().slots().into_iter().enumerate();
        slots
            .map(|(slot, used)| KeyslotStatus {
                slot,
                key: self.key_info(slot),
                programs: used.programs,
                evictions: used.evictions,
                hits: used.hits,
            })
            .collect()
    }
}
