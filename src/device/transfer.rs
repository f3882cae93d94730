// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Moving data: guest memory, bounce buffer, engine, image.

use super::{Device, Failure};
use crate::crypto::Dun;
use crate::disk::Bounce;
use crate::keyslot::KeyHandle;
use crate::queue::Segments;
use crate::request::{CryptoTag, Extent, Reply};

/// The key and the DUN of a request, checked against its length.
struct Inline {
    key: KeyHandle,
    first: Dun,
}

/// A piece of a transfer that fits in the bounce buffer: offsets in the request and in the image, and the length.
struct Step {
    in_request: u64,
    in_image: u64,
    len: usize,
}

fn steps(extent: Extent, buffer: usize) -> impl Iterator<Item = Step> {
    let step = buffer as u64; // usize to u64 loses nothing
    (0..extent.len.div_ceil(step)).map(move |number| {
        let in_request = number * step;
        let len = (extent.len - in_request).min(step) as usize; // at most `buffer`
        Step { in_request, in_image: extent.offset + in_request, len }
    })
}

impl Inline {
    /// The DUN of the data unit at an offset, which is a multiple of the data unit size.
    fn dun_at(&self, offset: u64) -> Option<Dun> {
        self.first.checked_add(offset >> self.key.key().config.data_unit_bits)
    }

    fn decrypt(&self, offset: u64, data: &mut [u8]) -> Result<(), Failure> {
        let dun = self.dun_at(offset).ok_or(Failure::Malformed)?;
        let key = self.key.key();
        key.xts.decrypt(dun, key.config.data_unit_bits, data);
        Ok(())
    }

    fn encrypt(&self, offset: u64, data: &mut [u8]) -> Result<(), Failure> {
        let dun = self.dun_at(offset).ok_or(Failure::Malformed)?;
        let key = self.key.key();
        key.xts.encrypt(dun, key.config.data_unit_bits, data);
        Ok(())
    }
}

impl Device {
    /// Takes the key that the slot holds now, and checks that the transfer goes with it.
    fn inline(&self, extent: Extent, tag: CryptoTag) -> Result<Inline, Failure> {
        let key = self.keyslots.acquire(tag.slot)?.ok_or(Failure::NoKey)?;
        let first = Dun::new(tag.dun);
        key.key().config.check(first, extent.len)?;
        Ok(Inline { key, first })
    }

    pub(super) fn read(
        &self,
        extent: Extent,
        crypto: Option<CryptoTag>,
        reply: &mut Reply<'_>,
        bounce: &mut Bounce,
    ) -> Result<(), Failure> {
        let inline = crypto.map(|tag| self.inline(extent, tag)).transpose()?;
        let buffer = bounce.bytes();
        for step in steps(extent, buffer.len()) {
            let data = buffer.get_mut(..step.len).ok_or(Failure::Malformed)?;
            self.image.read(step.in_image, data)?;
            if let Some(inline) = &inline {
                inline.decrypt(step.in_request, data)?;
            }
            reply.write(step.in_request, data);
        }
        self.stats.count_read(extent.len, inline.as_ref().map(|inline| inline.key.key().config.data_unit_bits));
        Ok(())
    }

    pub(super) fn write(
        &self,
        extent: Extent,
        crypto: Option<CryptoTag>,
        source: &Segments<'_>,
        bounce: &mut Bounce,
    ) -> Result<(), Failure> {
        let inline = crypto.map(|tag| self.inline(extent, tag)).transpose()?;
        let buffer = bounce.bytes();
        for step in steps(extent, buffer.len()) {
            let data = buffer.get_mut(..step.len).ok_or(Failure::Malformed)?;
            if source.copy_to(step.in_request, data) != step.len {
                return Err(Failure::Malformed);
            }
            if let Some(inline) = &inline {
                inline.encrypt(step.in_request, data)?;
            }
            self.image.write(step.in_image, data)?;
        }
        self.stats.count_write(extent.len, inline.as_ref().map(|inline| inline.key.key().config.data_unit_bits));
        // The key is not needed to make the data durable.
        drop(inline);
        self.commit()
    }
}
