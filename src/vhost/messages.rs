// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What each vhost-user message does to a session (QEMU's docs/interop/vhost-user.rst).
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vm_memory::GuestMemoryBackend;

use super::VirtioDevice;
use super::refusal::{self, refused, unsupported};
use super::session::Session;
use crate::protocol::feature;
use crate::queue::{Beginning, Event, InflightRegion, MOST_REGIONS, RingAddresses, check_eventfd, region_bytes};
use crate::ratelimit::log_limited;

/// How long a frontend may be silent after its read of the configuration space has failed.
const SILENCE: Duration = Duration::from_secs(2);

fn event(index: u8, file: Option<File>) -> Result<Option<Arc<Event>>> {
    file.map(Event::new).transpose().map_err(|error| refusal::no_eventfd(index, &error))
}

impl<D: VirtioDevice> VhostUserBackendReqHandlerMut for Session<D> {
    fn set_owner(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.owned, true) {
            // QEMU does this when the device is unplugged and plugged again on the same character device.
            log_limited!(info, "the frontend starts over");
            self.begin_anew()?;
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.stop_all();
        self.device.disconnected();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        // Frontends may keep the in-flight region.
        self.vrings.iter().for_each(|vring| vring.forget_in_flight());
        self.device.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let unknown = features & !(self.device.features() | protocol);
        if unknown != 0 {
            return Err(refusal::features(unknown));
        }
        let paused = Self::pause(&self.vrings);
        self.device.set_features(features & !protocol);
        drop(paused);
        for vring in &self.vrings {
            vring.set_event_idx(features & feature::EVENT_IDX != 0);
            if features & protocol == 0 {
                // Without SET_VRING_ENABLE the rings start enabled.
                vring.set_enabled(true);
                self.watch(vring)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        if postcopy.is_some() {
            return unsupported("postcopy migration");
        }
        // Chains taken with the old memory are returned before the frontend learns that it may unmap it.
        let _paused = Self::pause(&self.vrings);
        self.memory.replace(regions, files)?;
        self.memory_added();
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let vring = self.vring(index)?;
        let set = u16::try_from(num).is_ok_and(|size| vring.set_size(size));
        set.then_some(()).ok_or_else(|| refusal::ring_size(index, num, self.device.queue_size()))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let (vring, memory) = (self.vring(index)?, self.memory.snapshot());
        let translate = |address| {
            let nowhere = |_| refusal::ring_is_nowhere(index, address, memory.num_regions() == 0);
            self.memory.translate(address).map_err(nowhere)
        };
        let addresses = RingAddresses {
            descriptor_table: translate(descriptor)?,
            avail_ring: translate(available)?,
            used_ring: translate(used)?,
        };
        vring.set_addresses(&memory, addresses).then_some(()).ok_or_else(|| refusal::ring_is_malformed(index))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let no_index = |_| refused(format!("queue {index} cannot begin at {base}: indices have 16 bits"));
        self.vring(index)?.set_next_avail(u16::try_from(base).map_err(no_index)?);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let vring = Arc::clone(self.vring(index)?);
        let was_started = vring.started();
        let next_avail = self.stop(&vring);
        if was_started && !self.vrings.iter().any(|vring| vring.started()) {
            // A paused machine, or a reset by a frontend without RESET_DEVICE. The indices at which the queues start
            // again tell which.
            self.vrings.iter().for_each(|vring| vring.save_position());
            self.device.stopped();
        }
        Ok(VhostUserVringState::new(index, next_avail.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let Some(kick) = fd else {
            return unsupported(
                "a queue without a notification descriptor (VHOST_USER_VRING_NOFD_MASK), to be polled,",
            );
        };
        check_eventfd(&kick).map_err(|error| refusal::no_eventfd(index, &error))?;
        let vring = self.vring(index)?;
        // The queue may be enabled already.
        let paused = vring.pause();
        let (old, beginning) = vring.set_kick(Some(kick));
        // It may show that the keys are another driver's. They can be wiped only when no request has one, and a worker that hangs at
        // an eventfd of the frontend's is freed only by who waits for its queue.
        let all_paused = (beginning == Beginning::Afresh).then(|| Self::pause(&self.vrings));
        self.device.queue_begins(vring.index(), beginning);
        drop((all_paused, paused));
        self.unwatch(vring, old.as_ref());
        self.watch(vring)?;
        // The in-flight region was invalid, so the queue is retired. No worker takes a turn at such a queue, so it is
        // counted here. Telling the frontend may block, so the worker does it.
        if vring.take_retirement() {
            self.device.queue_broken(vring.index());
            vring.wake();
        }
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index)?.set_call(event(index, fd)?);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index)?.set_err(event(index, fd)?);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.protocol_features = VhostUserProtocolFeatures::from_bits_truncate(features);
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64) // usize to u64 loses nothing
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let vring = self.vring(index)?;
        vring.with_kick(|kick| {
            if !enable {
                self.unwatch(vring, Some(kick));
            }
        });
        vring.set_enabled(enable);
        self.watch(vring)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let (Ok(offset), Ok(size)) = (usize::try_from(offset), usize::try_from(size)) else {
            return Err(Error::InvalidParam);
        };
        let config = self.device.config();
        if offset >= config.len() {
            log_limited!(
                error,
                "GET_CONFIG: the frontend asks for {size} bytes of the configuration space at {offset:#x}, but that has {} \
                 bytes and begins at 0 (cloud-hypervisor makes this mistake before 2026: use a newer one)",
                config.len()
            );
            // The session continues: a reply of size 0 reports the failure. Frontends that use the `vhost` crate wait
            // for the rest of the reply instead, while they start.
            let waits = !self.vrings.iter().any(|vring| vring.started());
            self.silence_ends = waits.then(|| Instant::now() + SILENCE);
            return Err(Error::InvalidParam);
        }
        // A reply has the requested size, with zeroes past the end of the configuration space.
        let mut reply: Vec<u8> = config.into_iter().skip(offset).collect();
        reply.resize(size, 0);
        Ok(reply)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        // Writes in flight are taken for another cache mode than the one that may come now.
        let _paused = Self::pause(&self.vrings);
        self.device.write_config(offset, data);
        Ok(())
    }

    /// Reached only with a header that came in pieces: see [`backend_channel`](super::backend_channel).
    fn set_backend_req_fd(&mut self, _backend: Backend) {}

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MOST_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        if postcopy.is_some() {
            return unsupported("postcopy migration");
        }
        // This waits for nothing: requests in flight keep their memory.
        self.memory.add(region, file)?;
        self.memory_added();
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let _paused = Self::pause(&self.vrings);
        self.memory.remove(region)
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (wanted.num_queues, wanted.queue_size);
        if usize::from(queues) > self.vrings.len() || size > self.device.queue_size() {
            log_limited!(
                error,
                "the frontend wants to track {queues} queues of {size} entries; this device has {} of {} (--num-queues, \
                 --queue-size)",
                self.vrings.len(),
                self.device.queue_size()
            );
            return Err(Error::InvalidParam);
        }
        let file = InflightRegion::create(queues, size).map_err(Error::ReqHandlerError)?;
        Ok((VhostUserInflight::new(region_bytes(queues, size), 0, queues, size), file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *given;
        let region = InflightRegion::map(file, mmap_offset, mmap_size, num_queues, queue_size)
            .map_err(|error| Error::ReqHandlerError(io::Error::other(error)))?;
        for vring in &self.vrings {
            if !vring.set_log(region.queue(vring.index())) {
                return unsupported("another in-flight region for a queue that runs");
            }
        }
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        unsupported("a GPU socket")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported("shared objects")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        unsupported("migration")
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported("migration")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported("shared memory regions")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported("migration")
    }
}
