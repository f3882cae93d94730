// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads: image, engine, guest memory.

use super::digested::crcs;
use super::inline::Inline;
use super::{Engine, Failure, Io, TURN, check_guest_memory};
use crate::disk::{IoDirection, Transfer};
use crate::faults::Fate;
use crate::observe::Stage;
use crate::request::{CryptoTag, Extent, Payload};
use scattered_xts::Prefetch;

impl Engine {
    /// Executes a read. Data in memory is decrypted into guest memory in one pass; other data goes through a bounce
    /// buffer, in steps if necessary.
    pub(super) async fn read<'e>(
        &'e self,
        io: &mut Io<'e>,
        extent: Extent,
        crypto: Option<&CryptoTag>,
        payload: &Payload<'_>,
        fate: Option<&Fate>,
    ) -> Result<(), Failure> {
        let mut inline = self.inline(io, IoDirection::Read, extent, crypto, payload, fate).await?;
        let extent = inline.extent;
        let mut done = 0;
        while done < extent.len {
            if done > 0 {
                io.yield_now().await;
            }
            let turn = extent.len.min(done + TURN);
            if io.needs_private_ciphertext() {
                done += self.read_digested(io, extent, done, turn - done, &inline)?;
            } else if self.read_at_once(io, extent, done, turn - done, &inline)? {
                done = turn;
            }
            while done < turn {
                let mut bounce = io.buffer(turn - done).await?;
                let len = bounce.capacity_for(turn - done);
                // Inside the extent, so it cannot overflow.
                let transfer = Transfer { direction: IoDirection::Read, offset: extent.offset + done, len };
                io.record.watch.lap(Stage::Other);
                io.transfer(transfer, &mut bounce).await?;
                check_guest_memory()?;
                let crcs = crcs(&mut io.digesting, done, len);
                io.room.fill(done, len, |room| {
                    inline.decrypt(done, bounce.piece(len), room, Prefetch::default(), crcs)?;
                    Ok::<_, Failure>(true)
                })?;
                io.digest(done, bounce.bytes(len));
                io.record.watch.lap(inline.stage());
                done += len as u64; // usize to u64 loses nothing
            }
        }
        inline.done(io.worker);
        if let Some(due) = inline.due {
            io.sleep_until(due).await;
        }
        Ok(())
    }

    /// Reads `len` bytes without a bounce buffer, if that is possible now: in place, or plain data by one system call.
    fn read_at_once(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        done: u64,
        len: u64,
        inline: &Inline<'_>,
    ) -> Result<bool, Failure> {
        let offset = extent.offset + done; // inside the extent
        let bytes = usize::try_from(len).map_err(|_| Failure::Malformed)?;
        let prefetch = self.take_prefetch(io, inline);
        let disk = io.disk();
        io.record.watch.lap(Stage::Other);
        let in_place = disk.read_in_place(offset, len);
        self.lap_lookup(io);
        let moved = match in_place {
            Some(bytes) => {
                let crcs = crcs(&mut io.digesting, done, bytes.len());
                io.room.fill(done, bytes.len(), |room| {
                    inline.decrypt(done, bytes, room, prefetch, crcs)?;
                    Ok(disk.image().in_place_is_sound())
                })
            }
            None if inline.is_encrypted() => return Ok(false),
            None => Ok(io.room.fill(done, bytes, |room| disk.transfer_directly(IoDirection::Read, offset, room))?),
        };
        io.record.watch.lap(inline.stage());
        moved
    }
}
