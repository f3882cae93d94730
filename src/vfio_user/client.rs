// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The client's messages. Those about the protocol are served here; the others become accesses to the device.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use smallvec::SmallVec;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroize;

use super::connection::{Connection, MOST_FILES, Received};
use super::info::{self, Regions};
use super::interrupt::Line;
use super::memory::{DmaMemory, MOST_RANGES, PAGE_BYTES};
use super::protocol::{
    DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, IrqSet, OneWrite, RegionAccess, RegionInfo, UNMAP_FLAG_ALL, Version,
    command, header_flag,
};

/// The maximum size of an access to a region. QEMU reads the whole configuration space at once.
const MOST_DATA: usize = 4096;

/// What the client asks of the device. The device answers each before it gets the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Read registers, then call [`Client::read_done`]. The range is inside the region.
    Read {
        /// The region.
        region: u32,
        /// Its first byte.
        offset: u64,
        /// Bytes.
        len: usize,
    },
    /// Write registers, then call [`Client::done`]. The range is inside the region.
    Write {
        /// The region.
        region: u32,
        /// Its first byte.
        offset: u64,
        /// The data.
        data: SmallVec<[u8; 8]>,
    },
    /// Reset the device, then call [`Client::done`].
    Reset,
    /// Guest memory is removed: stop using it, then call [`Client::done`].
    Unmap,
}

/// What [`Client::receive`] has found.
#[derive(Debug)]
pub enum Next {
    /// The device has something to do.
    Access(Access),
    /// A message was served. There may be more.
    Served,
    /// There is no message now.
    Nothing,
    /// The client has hung up.
    End,
}

/// An access that has no reply yet.
#[derive(Debug)]
enum Pending {
    None,
    Read {
        header: Header,
        access: RegionAccess,
    },
    Write {
        header: Header,
        access: RegionAccess,
    },
    /// Several writes. `next` is the number of the next one. They stay in the message, which is wiped later.
    Writes {
        header: Header,
        count: usize,
        next: usize,
    },
    Reset(Header),
    Unmap(Header, DmaUnmap),
}

/// A client, with its guest memory and its interrupt line.
pub struct Client {
    connection: Connection,
    regions: Regions,
    memory: DmaMemory,
    line: Line,
    negotiated: bool,
    pending: Pending,
}

impl Client {
    /// A client that has just connected.
    pub fn new(stream: UnixStream, regions: Regions) -> Self {
        let (connection, memory, line) = (Connection::new(stream), DmaMemory::new(), Line::default());
        Self { connection, regions, memory, line, negotiated: false, pending: Pending::None }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        self.connection.stream()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &DmaMemory {
        &self.memory
    }

    /// The interrupt line.
    pub fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Whether it has sent VERSION.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Whether it has hung up, so that nothing more arrives.
    pub fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream(), PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// The socket had an event. Call it after each sleep: until then a socket that was empty is not looked at.
    pub fn woken(&mut self, hung_up: bool) {
        self.connection.woken(hung_up);
    }

    /// Whether replies wait for room in the socket. It is writable when there is room.
    pub fn is_full(&self) -> bool {
        self.connection.is_full()
    }

    /// Serves its next message. Never blocks. The access before must have been answered.
    ///
    /// # Errors
    /// When the connection is broken, or a header is invalid.
    pub fn receive(&mut self) -> io::Result<Next> {
        if let Pending::Writes { count, next, .. } = &mut self.pending {
            let number = *next;
            *next += 1;
            let Some(mut write) = (number < *count).then(|| self.write(number)).flatten() else {
                return self.finish_writes();
            };
            let data = write.data.get(..write.access.count.get() as usize).unwrap_or_default();
            let (region, offset) = (write.access.region.get(), write.access.offset.get());
            let data = SmallVec::from_slice(data);
            // It may be a part of a key.
            write.data.zeroize();
            return Ok(Next::Access(Access::Write { region, offset, data }));
        }
        self.connection.flush()?;
        if self.connection.is_full() {
            return Ok(Next::Nothing);
        }
        let header = match self.connection.receive()? {
            Received::Nothing => return Ok(Next::Nothing),
            Received::Dropped => return Ok(Next::Served),
            Received::End => return Ok(Next::End),
            Received::TooLong(header) => {
                self.connection.reply_error(&header, Errno::TOOBIG)?;
                return Ok(Next::Served);
            }
            Received::Message(header) => header,
        };
        if header.flags.get() & header_flag::TYPE != 0 {
            // The device sends no commands.
            return Ok(Next::Served);
        }
        match self.command(&header) {
            Ok(Some(access)) => Ok(Next::Access(access)),
            Ok(None) => Ok(Next::Served),
            Err(Refusal::Command(errno)) => {
                log::debug!("the client's command {} is refused: {errno}", header.command.get());
                self.connection.reply_error(&header, errno)?;
                Ok(Next::Served)
            }
            Err(Refusal::Connection(error)) => Err(error),
        }
    }

    /// Answers [`Access::Read`].
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn read_done(&mut self, data: &[u8]) -> io::Result<()> {
        match std::mem::replace(&mut self.pending, Pending::None) {
            Pending::Read { header, access } => self.connection.reply(&header, &[access.as_bytes(), data]),
            other => {
                self.pending = other;
                Ok(())
            }
        }
    }

    /// Answers the other accesses.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn done(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.pending, Pending::None) {
            Pending::Write { header, access } => self.connection.reply(&header, &[access.as_bytes()]),
            Pending::Reset(header) => self.connection.reply(&header, &[]),
            Pending::Unmap(header, unmap) => {
                if unmap.flags.get() & UNMAP_FLAG_ALL != 0 {
                    self.memory.clear();
                } else {
                    self.memory.unmap(unmap.address.get(), unmap.size.get());
                }
                self.connection.reply(&header, &[unmap.as_bytes()])
            }
            other => {
                self.pending = other;
                Ok(())
            }
        }
    }

    fn finish_writes(&mut self) -> io::Result<Next> {
        if let Pending::Writes { header, count, .. } = std::mem::replace(&mut self.pending, Pending::None) {
            self.connection.reply(&header, &[&(count as u64).to_le_bytes()])?; // usize to u64 loses nothing
        }
        Ok(Next::Served)
    }

    /// The next write of REGION_WRITE_MULTI.
    fn write(&self, number: usize) -> Option<OneWrite> {
        let writes = self.connection.body().get(size_of::<U64>()..)?;
        let bytes = writes.get(number.checked_mul(size_of::<OneWrite>())?..)?;
        OneWrite::read_from_prefix(bytes).ok().map(|(write, _)| write)
    }

    fn command(&mut self, header: &Header) -> Result<Option<Access>, Refusal> {
        let command = header.command.get();
        if self.negotiated == (command == command::VERSION) {
            // A second VERSION, or another command before it.
            return Err(Errno::INVAL.into());
        }
        match command {
            command::VERSION => self.version(header)?,
            command::DMA_MAP => {
                let map: DmaMap = self.structure()?;
                let file = self.connection.take_files().into_iter().next();
                self.memory.map(&map, file)?;
                self.connection.reply(header, &[])?;
            }
            command::DMA_UNMAP => return self.unmap(header).map(Some),
            command::DEVICE_GET_INFO => {
                let asked: DeviceInfo = self.structure()?;
                self.answer(header, asked.argsz.get(), &info::device(&asked))?;
            }
            command::DEVICE_GET_REGION_INFO => {
                let asked: RegionInfo = self.structure()?;
                let answer = self.regions.info(&asked)?;
                self.answer(header, asked.argsz.get(), &answer)?;
            }
            command::DEVICE_GET_IRQ_INFO => {
                let asked: IrqInfo = self.structure()?;
                let answer = info::interrupts(&asked)?;
                self.answer(header, asked.argsz.get(), &answer)?;
            }
            command::DEVICE_SET_IRQS => {
                let set: IrqSet = self.structure()?;
                let files = self.connection.take_files();
                let data = self.connection.body().get(size_of::<IrqSet>()..).unwrap_or_default();
                self.line.configure(&set, data, files)?;
                self.connection.reply(header, &[])?;
            }
            command::REGION_READ => {
                let access: RegionAccess = self.structure()?;
                let len = self.check(&access, MOST_DATA)?;
                self.pending = Pending::Read { header: *header, access };
                let (region, offset) = (access.region.get(), access.offset.get());
                return Ok(Some(Access::Read { region, offset, len }));
            }
            command::REGION_WRITE => {
                let access: RegionAccess = self.structure()?;
                let len = self.check(&access, MOST_DATA)?;
                let data = self.connection.body().get(size_of::<RegionAccess>()..).and_then(|data| data.get(..len));
                let data = SmallVec::from_slice(data.ok_or(Errno::INVAL)?);
                self.pending = Pending::Write { header: *header, access };
                return Ok(Some(Access::Write { region: access.region.get(), offset: access.offset.get(), data }));
            }
            command::REGION_WRITE_MULTI => self.writes(header)?,
            command::DEVICE_RESET => {
                self.pending = Pending::Reset(*header);
                return Ok(Some(Access::Reset));
            }
            _ => return Err(Errno::NOTSUP.into()),
        }
        Ok(None)
    }

    fn version(&mut self, header: &Header) -> Result<(), Refusal> {
        let version: Version = self.structure()?;
        if version.major.get() != 0 {
            return Err(Errno::NOTSUP.into());
        }
        let capabilities = serde_json::json!({ "capabilities": {
            "max_msg_fds": MOST_FILES,
            "max_data_xfer_size": MOST_DATA,
            "max_dma_maps": MOST_RANGES,
            "pgsizes": PAGE_BYTES,
            "write_multiple": true,
        }});
        let text = format!("{capabilities}\0");
        self.negotiated = true;
        self.connection.reply(header, &[Version::default().as_bytes(), text.as_bytes()])?;
        Ok(())
    }

    fn unmap(&mut self, header: &Header) -> Result<Access, Refusal> {
        let unmap: DmaUnmap = self.structure()?;
        let all = unmap.flags.get() == UNMAP_FLAG_ALL;
        if !all && unmap.flags.get() != 0 {
            return Err(Errno::INVAL.into());
        }
        if !all && !self.memory.has(unmap.address.get(), unmap.size.get()) {
            return Err(Errno::NOENT.into());
        }
        self.pending = Pending::Unmap(*header, unmap);
        Ok(Access::Unmap)
    }

    /// Checks all writes before the first one is done.
    fn writes(&mut self, header: &Header) -> Result<(), Refusal> {
        let count: U64 = self.structure()?;
        let count = usize::try_from(count.get()).map_err(|_| Errno::INVAL)?;
        // The end of the message ends this, whatever the count says.
        for number in 0..count {
            let mut write = self.write(number).ok_or(Errno::INVAL)?;
            write.data.zeroize();
            self.check(&write.access, write.data.len())?;
        }
        self.pending = Pending::Writes { header: *header, count, next: 0 };
        Ok(())
    }

    /// The size of an access, if the region has this range.
    fn check(&self, access: &RegionAccess, most: usize) -> Result<usize, Errno> {
        let bytes = self.regions.size(access.region.get()).ok_or(Errno::INVAL)?;
        let (offset, count) = (access.offset.get(), u64::from(access.count.get()));
        if count == 0 || count > most as u64 || count > bytes || offset > bytes - count {
            return Err(Errno::INVAL);
        }
        Ok(count as usize) // at most `most`
    }

    /// The structure at the start of the message's body.
    fn structure<T: FromBytes + KnownLayout + Immutable + Unaligned>(&self) -> Result<T, Errno> {
        T::read_from_prefix(self.connection.body()).map(|(structure, _)| structure).map_err(|_| Errno::INVAL)
    }

    /// Replies with a structure, if the client has room for it.
    fn answer<T: IntoBytes + Immutable>(&mut self, header: &Header, argsz: u32, answer: &T) -> Result<(), Refusal> {
        if (argsz as usize) < size_of::<T>() {
            return Err(Errno::INVAL.into());
        }
        Ok(self.connection.reply(header, &[answer.as_bytes()])?)
    }
}

/// Why a command was not served.
enum Refusal {
    /// The client gets an error reply.
    Command(Errno),
    /// The connection is broken.
    Connection(io::Error),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Command(errno)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}
