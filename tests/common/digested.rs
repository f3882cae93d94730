// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Encrypted requests with a keyslot and digests.

use vhost_user_blk_crypto::device::DeviceConfig;
use vhost_user_blk_crypto::digest::DigestAlgorithm;
use vhost_user_blk_crypto::engine::EngineConfig;

use super::*;

#[derive(Debug, Clone)]
pub struct Digested {
    pub sector: u64,
    pub slot: u32,
    pub algorithm: u8,
    pub dun: u64,
}

impl Digested {
    /// All but the data of a write.
    pub fn header(&self, request_type: u32) -> Vec<u8> {
        let extensions = [self.algorithm, 0, 0, 0];
        extended_header(request_type, self.sector, self.slot, extensions, [self.dun, 0, 0, 0])
    }

    pub fn write_bytes(&self, data: &[u8]) -> Vec<u8> {
        [&self.header(CRYPTO_OUT_EXT), data].concat()
    }

    /// With room for this many bytes of digests.
    pub fn write(&self, guest: &mut Guest, queue: usize, data: &[u8], array: usize) -> Answer {
        guest.request(queue, &self.write_bytes(data), array + 1)
    }

    /// With room for this many bytes of data, and then of digests.
    pub fn read(&self, guest: &mut Guest, queue: usize, len: usize, array: usize) -> Answer {
        guest.request(queue, &self.header(CRYPTO_IN_EXT), len + array + 1)
    }
}

pub fn program(guest: &mut Guest, slot: u32, raw: &[u8; 64], unit_bits: u32) {
    let control = guest.control();
    guest.request(control, &Program::new(slot, raw, unit_bits).bytes(), 1).assert_only_status(OK);
}

/// A device that offers these algorithms.
pub fn with_digests(digests: &[DigestAlgorithm]) -> Options {
    let config = Options::default().config;
    let engine = EngineConfig { digests: digests.to_vec(), ..config.engine };
    Options { config: DeviceConfig { engine, ..config }, ..Options::default() }
}
