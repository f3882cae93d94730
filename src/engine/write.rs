// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Writes: guest memory, engine, image. The guest's memory never changes.

use super::inline::Inline;
use super::{Engine, Failure, Io, check_guest_memory};
use crate::disk::{Direction, Transfer};
use crate::faults::Fate;
use crate::observe::Stage;
use crate::request::{CryptoTag, Extent};
use crate::segments::{Pieces, Segments};

impl Engine {
    /// One write. Where the image can be written in place, data is encrypted from guest memory to there in one pass; anything
    /// else goes through a bounce buffer, in steps if need be.
    pub(super) async fn write(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        crypto: Option<&CryptoTag>,
        data: &Segments<'_>,
        fate: Option<&Fate>,
    ) -> Result<(), Failure> {
        self.fetch_announced(io);
        let mut inline = self.inline(io, extent, crypto, fate)?;
        let mut done = if self.write_at_once(io, extent, &inline, data)? { extent.len } else { 0 };
        while done < extent.len {
            let mut bounce = io.buffer(extent.len - done).await?;
            let len = bounce.capacity_for(extent.len - done);
            io.record.watch.lap(Stage::Other);
            inline.encrypt(done, &data.pieces(done, len), bounce.piece(len), false)?;
            check_guest_memory()?;
            io.record.watch.lap(inline.stage());
            // Inside the extent, so it cannot overflow.
            let transfer = Transfer { direction: Direction::Write, offset: extent.offset + done, len };
            done += len as u64; // usize to u64 loses nothing
            if done == extent.len {
                // The key is not needed while the disk writes.
                inline.done(io.worker);
            }
            io.transfer(transfer, &mut bounce).await?;
        }
        inline.done(io.worker);
        if let Some(due) = inline.due {
            io.sleep_until(due).await;
        }
        self.commit(io).await
    }

    /// Writes without a bounce buffer, where that can be done now: in place, or plain data by one system call.
    fn write_at_once(
        &self,
        io: &mut Io<'_>,
        extent: Extent,
        inline: &Inline<'_>,
        data: &Segments<'_>,
    ) -> Result<bool, Failure> {
        let Extent { offset, len } = extent;
        let disk = &*self.disk;
        io.record.watch.lap(Stage::Other);
        let in_place = disk.write_in_place(offset, len);
        self.lap_of_looking(io);
        let moved = match in_place {
            Some(bytes) => {
                // A memory disk is small. The pages of a file are written back, if anything.
                let past_caches = inline.is_encrypted() && !disk.image().is_in_memory();
                io.worker.unfenced.set(io.worker.unfenced.get() | past_caches);
                inline.encrypt(0, &whole(data, len)?, bytes, past_caches)?;
                // The image holds it already, but nobody is told so.
                check_guest_memory()?;
                disk.image().in_place_is_sound()
            }
            None if inline.is_encrypted() => return Ok(false),
            None => disk.transfer_directly(Direction::Write, offset, &whole(data, len)?)?,
        };
        io.record.watch.lap(inline.stage());
        Ok(moved)
    }
}

/// Bytes of a request, which must be there.
fn whole<'m>(data: &Segments<'m>, len: u64) -> Result<Pieces<'m>, Failure> {
    let len = usize::try_from(len).map_err(|_| Failure::Malformed)?;
    Ok(data.pieces(0, len))
}
