// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The setup by a virtual machine monitor and a driver, before the first request.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use test_driver::wire::{SECTOR, config, feature};
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::memory::{Memory, RING_SIZE, USER_SHIFT};
use crate::ring::Ring;

/// A device that is ready for requests.
pub struct Connection<'m> {
    /// The connection. The device stops its queues when it closes.
    _frontend: Frontend,
    /// The first request queue.
    pub requests: Ring<'m>,
    /// The control queue, of a device with inline encryption.
    pub control: Option<Ring<'m>>,
    /// Bytes of the disk.
    pub capacity: u64,
}

/// Connects and starts the first request queue and, with `encrypted`, the control queue.
pub fn connect<'m>(socket: &Path, memory: &'m Memory, encrypted: bool) -> Result<Connection<'m>> {
    // The largest number of queues that messages can name.
    let mut frontend =
        Frontend::connect(socket, 256).with_context(|| format!("cannot connect to {}", socket.display()))?;
    frontend.set_owner().context("SET_OWNER")?;
    let offered = frontend.get_features().context("GET_FEATURES")?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    ensure!(offered & protocol != 0, "the device has no vhost-user protocol features");
    let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG;
    let has = frontend.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
    ensure!(has.contains(wanted), "the device lacks the protocol features MQ and CONFIG");
    frontend.set_protocol_features(wanted).context("SET_PROTOCOL_FEATURES")?;

    let mut features = feature::EVENT_IDX | feature::VERSION_1;
    if encrypted {
        features |= feature::CTRL_VQ | feature::INLINE_ENCRYPTION | feature::MQ;
    }
    ensure!(
        offered & features == features,
        "the device does not offer all of the features {features:#x} that this load needs, but {offered:#x}"
    );
    // A driver without FLUSH tells the device to make every write durable before it completes.
    features |= offered & (feature::MQ | feature::FLUSH);
    frontend.set_features(features | protocol).context("SET_FEATURES")?;
    frontend.set_mem_table(&[memory.info()]).context("SET_MEM_TABLE")?;

    let space = config_space(&mut frontend, encrypted)?;
    let num_queues =
        space.get(config::NUM_QUEUES..).and_then(|rest| rest.first_chunk()).context("a short configuration")?;
    let capacity = u64::from_le_bytes(*space.first_chunk().context("a short configuration")?) * SECTOR as u64;
    let mut start = |number: usize, queue: usize| -> Result<Ring<'m>> {
        let ring = Ring::new(memory, number)?;
        start_ring(&mut frontend, &ring, queue).with_context(|| format!("queue {queue} cannot be started"))?;
        Ok(ring)
    };
    let requests = start(0, 0)?;
    let control = encrypted.then(|| start(1, u16::from_le_bytes(*num_queues).into())).transpose()?;
    Ok(Connection { _frontend: frontend, requests, control, capacity })
}

fn config_space(frontend: &mut Frontend, encrypted: bool) -> Result<Vec<u8>> {
    // Other devices end before the inline-encryption part.
    let bytes = if encrypted { config::BYTES } else { 60 };
    let blank = vec![0; bytes];
    let (_, read) =
        frontend.get_config(0, bytes as u32, VhostUserConfigFlags::empty(), &blank).context("GET_CONFIG")?;
    ensure!(read.len() == bytes, "the device's configuration space has {} bytes, not {bytes}", read.len());
    Ok(read)
}

fn start_ring(frontend: &mut Frontend, ring: &Ring<'_>, queue: usize) -> Result<()> {
    frontend.set_vring_num(queue, RING_SIZE)?;
    frontend.set_vring_addr(queue, &ring.queue.addresses(RING_SIZE, USER_SHIFT))?;
    frontend.set_vring_base(queue, 0)?;
    frontend.set_vring_call(queue, &ring.call)?;
    frontend.set_vring_kick(queue, &ring.kick)?;
    frontend.set_vring_enable(queue, true)?;
    Ok(())
}
