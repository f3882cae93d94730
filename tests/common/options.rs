// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A test's options for the device, its frontend and its driver.

use scattered_xts::Implementation;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::disk::Aio;
use vhost_user_blk_crypto::engine::{EngineConfig, Timing};
use vhost_user_blk_crypto::vhost::WorkerConfig;
use vhost_user_blk_crypto::wrapped::Wrapping;

/// All that a driver with inline encryption negotiates.
pub const ALL_FEATURES: u64 = u64::MAX;

pub struct Options {
    pub config: DeviceConfig,
    pub image_bytes: u64,
    /// Sizes of more images, for more logical units of a UFS host controller.
    pub more_images: Vec<u64>,
    /// A block device to use in place of a temporary file.
    pub block_device: Option<std::path::PathBuf>,
    pub read_only: bool,
    /// The features that the driver accepts if they are offered.
    pub accept: u64,
    /// Request queues that the driver uses; with crypto, the control queue is one more.
    pub queues: usize,
    pub ring_size: u16,
    /// Protocol features that the frontend negotiates, besides the required ones.
    pub protocol: VhostUserProtocolFeatures,
    /// Offer hardware-wrapped keys.
    pub wrapped_keys: bool,
    pub disk: DiskKind,
    pub workers: WorkerConfig,
    /// The socket of a device in a process of its own, with the same configuration. The device in this process is then
    /// idle, with a memory disk.
    pub socket: Option<std::path::PathBuf>,
}

/// The kind of image, and how the device accesses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A file, cached.
    File(Aio),
    /// A file on a file system in memory.
    Tmpfs,
    /// A file, with O_DIRECT.
    Direct(Aio),
    /// Memory. The host cannot look at it.
    Memory,
}

impl Options {
    pub fn wrapping(&self) -> Option<Wrapping> {
        self.wrapped_keys.then(|| Wrapping::new(None).expect("wrapping keys"))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: DeviceConfig {
                engine: EngineConfig {
                    keyslots: 4,
                    cache_unwrapped: true,
                    crypto_engine: Implementation::detect(),
                    raw_keys: true,
                    data_unit_mask: 0x1fe00,
                    max_dun_bytes: 16,
                    digests: DigestAlgorithm::ALL.to_vec(),
                    logical_block_size: 512,
                    serial: "serial-of-the-test".into(),
                    timing: Timing::default(),
                },
                num_queues: 2,
                queue_size: 256,
                seg_max: 253,
                physical_block_size: 512,
                writeback: true,
                keep_keys_on_reset: false,
                in_band: false,
                access_platform: false,
                ufs: false,
            },
            image_bytes: 8 << 20,
            more_images: Vec::new(),
            block_device: None,
            read_only: false,
            accept: ALL_FEATURES,
            queues: 2,
            ring_size: 64,
            protocol: VhostUserProtocolFeatures::empty(),
            wrapped_keys: false,
            disk: DiskKind::File(Aio::Sync),
            workers: WorkerConfig { workers: 2, ..WorkerConfig::default() },
            socket: None,
        }
    }
}
