// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Writes: guest memory, engine, image. The guest's memory is never changed.

use super::digested::crcs;
use super::inline::Inline;
use super::{Engine, Failure, Io, TURN, check_guest_memory};
use crate::disk::{IoDirection, Transfer};
use crate::faults::Fate;
use crate::observe::Stage;
use crate::request::{CryptoTag, Extent, Payload};

impl Engine {
    /// Executes a write. Where the image can be written in place, data is encrypted from guest memory in one pass;
    /// other data goes through a bounce buffer, in steps if necessary.
    pub(super) async fn write<'e>(
        &'e self,
        io: &mut Io<'e>,
        extent: Extent,
        crypto: Option<&CryptoTag>,
        payload: &Payload<'_>,
        fate: Option<&Fate>,
    ) -> Result<(), Failure> {
        self.finish_prefetch(io);
        let mut inline = self.inline(io, IoDirection::Write, extent, crypto, payload, fate).await?;
        let mut done = 0;
        while done < extent.len {
            if done > 0 {
                io.yield_now().await;
            }
            let turn = extent.len.min(done + TURN);
            if io.needs_private_ciphertext() {
                done += self.write_digested(io, extent, done, turn - done, &inline, payload)?;
            } else if self.write_at_once(io, extent, done, turn - done, &inline, payload)? {
                done = turn;
            }
            while done < turn {
                let mut bounce = io.buffer(turn - done).await?;
                let len = bounce.capacity_for(turn - done);
                io.record.watch.lap(Stage::Other);
                let data = payload.data(done, len);
                inline.encrypt(done, &data, bounce.piece(len), false, crcs(&mut io.digesting, done, len))?;
                io.digest(done, bounce.bytes(len));
                check_guest_memory()?;
                io.record.watch.lap(inline.stage());
                // Inside the extent, so it cannot overflow.
                let transfer = Transfer { direction: IoDirection::Write, offset: extent.offset + done, len };
                done += len as u64; // usize to u64 loses nothing
                if done == extent.len {
                    // The disk does not need the key.
                    inline.done(io.worker);
                }
                io.transfer(transfer, &mut bounce).await?;
            }
        }
        inline.done(io.worker);
        if let Some(due) = inline.due {
            io.sleep_until(due).await;
        }
        self.commit(io).await
    }

    /// Whether ciphertext goes to the image past the CPU's caches. A memory disk is small. The pages of a file are
    /// only read again for write-back.
    fn writes_past_caches(&self, io: &Io<'_>) -> bool {
        let past_caches = !io.disk().image().is_in_memory();
        io.worker.unfenced.set(io.worker.unfenced.get() | past_caches);
        past_caches
    }

    /// Writes `len` bytes without a bounce buffer, if that is possible now: in place, or plain data by one system call.
    fn write_at_once(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        done: u64,
        len: u64,
        inline: &Inline<'_>,
        payload: &Payload<'_>,
    ) -> Result<bool, Failure> {
        let offset = extent.offset + done; // inside the extent
        let bytes = usize::try_from(len).map_err(|_| Failure::Malformed)?;
        let disk = io.disk();
        io.record.watch.lap(Stage::Other);
        let in_place = disk.write_in_place(offset, len);
        self.lap_lookup(io);
        let moved = match in_place {
            Some(to) => {
                let past_caches = inline.is_encrypted() && self.writes_past_caches(io);
                let crcs = crcs(&mut io.digesting, done, bytes);
                inline.encrypt(done, &payload.data(done, bytes), to, past_caches, crcs)?;
                // The image has the data already, but the request fails.
                check_guest_memory()?;
                disk.image().in_place_is_sound()
            }
            None if inline.is_encrypted() => return Ok(false),
            None => disk.transfer_directly(IoDirection::Write, offset, &payload.data(done, bytes))?,
        };
        io.record.watch.lap(inline.stage());
        Ok(moved)
    }
}
