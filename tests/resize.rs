// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The disk is resized while a frontend is connected. The other end of the backend channel is the `vhost` crate's.

mod common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::*;
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandlerMut,
};
use vhost_user_blk_crypto::device::FrontendKnows;
use vhost_user_blk_crypto::disk::{OpenOptions, ResizeError};

const MIB: u64 = 1 << 20;
const CHANNEL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::BACKEND_REQ;
const CONFIRMING: VhostUserProtocolFeatures = CHANNEL.union(VhostUserProtocolFeatures::REPLY_ACK);

/// Handles the message as QEMU does: reads the configuration space before it confirms.
struct Listener {
    frontend: Frontend,
    /// The latest number of sectors; `u64::MAX` makes it refuse.
    sectors: Arc<AtomicU64>,
}

impl VhostUserFrontendReqHandlerMut for Listener {
    fn handle_config_change(&mut self) -> HandlerResult<u64> {
        if self.sectors.load(Ordering::SeqCst) == u64::MAX {
            return Err(std::io::Error::from_raw_os_error(libc::EIO));
        }
        let (_, bytes) = self.frontend.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8]).expect("GET_CONFIG");
        self.sectors.store(u64::from_le_bytes(bytes.try_into().expect("8 bytes")), Ordering::SeqCst);
        Ok(0)
    }
}

fn with(protocol: VhostUserProtocolFeatures) -> Guest {
    Guest::with(Options { protocol, ..Options::default() })
}

/// Gives the device a channel and serves it until the device closes it.
fn listen(guest: &mut Guest, confirms: bool) -> (Arc<AtomicU64>, JoinHandle<()>) {
    let sectors = Arc::new(AtomicU64::new(0));
    let listener = Listener { frontend: guest.frontend().clone(), sectors: Arc::clone(&sectors) };
    let mut handler = FrontendReqHandler::new(Arc::new(Mutex::new(listener))).expect("channel");
    handler.set_reply_ack_flag(confirms);
    give(guest, &handler.get_tx_raw_fd());
    let thread = std::thread::spawn(move || {
        // Also after a refusal.
        while !matches!(handler.handle_request(), Err(vhost::vhost_user::Error::Disconnected)) {}
    });
    (sectors, thread)
}

fn give(guest: &mut Guest, channel: &dyn AsRawFd) {
    let frontend = guest.frontend();
    frontend.set_backend_request_fd(channel).expect("SET_BACKEND_REQ_FD");
    // There are no confirmations. The next message has a reply, so its reply shows that both are done.
    frontend.get_features().expect("GET_FEATURES");
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + ring::PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_frontend_is_told() {
    for protocol in [CONFIRMING, CHANNEL] {
        let mut guest = with(protocol);
        let confirms = protocol == CONFIRMING;
        if confirms {
            guest.frontend().set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let (sectors, _thread) = listen(&mut guest, confirms);
        for mib in [9, 10, 64] {
            let resized = guest.device.resize(Some(mib * MIB)).expect("resized");
            assert_eq!((resized.frontend, resized.reason), (FrontendKnows::Told, None));
            // Confirmed: the frontend has read the size already.
            if !confirms {
                wait_for(|| sectors.load(Ordering::SeqCst) == mib * 2048);
            }
            assert_eq!(sectors.load(Ordering::SeqCst), mib * 2048);
            guest.request(0, &write_request(mib * 2048 - 1, &[1; 512]), 1).assert_only_status(OK);
        }
        sectors.store(0, Ordering::SeqCst);
        assert_eq!(guest.device.resize(None).expect("resized").frontend, FrontendKnows::Unchanged);
        assert_eq!(sectors.load(Ordering::SeqCst), 0);
        if confirms {
            sectors.store(u64::MAX, Ordering::SeqCst);
            let resized = guest.device.resize(Some(65 * MIB)).expect("resized");
            assert_eq!((resized.frontend, resized.bytes), (FrontendKnows::NotTold, 65 * MIB));
            assert!(resized.reason.is_some_and(|reason| reason.contains("refuses")));
        }
    }
}

/// A disk that was unplugged and is plugged in again: QEMU opens the new backend channel before it sends SET_OWNER again.
#[test]
fn a_frontend_that_starts_over_is_told() {
    let mut guest = with(CONFIRMING);
    let (_, before) = listen(&mut guest, true);
    let (sectors, _thread) = listen(&mut guest, true);
    // The device has closed the replaced channel.
    before.join().expect("the channel before");
    guest.frontend().set_owner().expect("SET_OWNER");
    guest.frontend().get_features().expect("GET_FEATURES");
    let resized = guest.device.resize(Some(9 * MIB)).expect("resized");
    assert_eq!((resized.frontend, resized.reason), (FrontendKnows::Told, None));
    assert_eq!(sectors.load(Ordering::SeqCst), 9 * 2048);
}

/// Without a channel, the driver finds the new size when it reads the configuration space.
#[test]
fn a_frontend_that_cannot_be_told() {
    for (protocol, give_one) in [
        (VhostUserProtocolFeatures::empty(), false),
        (CONFIRMING, false),
        // A channel that the frontend has closed.
        (CONFIRMING, true),
    ] {
        let mut guest = with(protocol);
        if give_one {
            give(&mut guest, &UnixStream::pair().expect("pair").0);
        }
        let resized = guest.device.resize(Some(9 * MIB)).expect("resized");
        assert_eq!(resized.frontend, FrontendKnows::NotTold);
        assert!(resized.reason.is_some_and(|reason| give_one || reason.contains("next reset")));
        assert_eq!(guest.capacity(), 9 * MIB);
        guest.request(1, &write_request(9 * 2048 - 1, &[1; 512]), 1).assert_only_status(OK);
    }
}

/// If no queue ran at the notification, the device repeats it when one starts: QEMU's vhost-user-blk does not listen
/// before.
#[test]
fn what_was_missed_is_told_again() {
    let mut guest = with(CONFIRMING);
    let (sectors, _thread) = listen(&mut guest, true);
    guest.reset();
    sectors.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(guest.device.resize(Some(9 * MIB)).expect("resized").frontend, FrontendKnows::NotTold);
    assert_eq!(guest.device.resize(Some(11 * MIB)).expect("resized").frontend, FrontendKnows::NotTold);
    sectors.store(0, Ordering::SeqCst);
    guest.set_features_again();
    guest.start_rings();
    wait_for(|| sectors.load(Ordering::SeqCst) == 11 * 2048);
    // The device has not read that reply, but finds the reply to the next message.
    sectors.store(0, Ordering::SeqCst);
    assert_eq!(guest.device.resize(Some(12 * MIB)).expect("resized").frontend, FrontendKnows::Told);
    sectors.store(0, Ordering::SeqCst);
    guest.restart();
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    assert_eq!(sectors.load(Ordering::SeqCst), 0, "nothing was missed");
}

/// Replies that are late, malformed, in pieces, or never come, and a channel that is full.
#[test]
fn replies_that_are_not_as_they_should_be() {
    let reply = |flags: u32, value: u64| {
        [&2u32.to_ne_bytes()[..], &flags.to_ne_bytes(), &8u32.to_ne_bytes(), &value.to_ne_bytes()].concat()
    };
    let mut guest = with(CONFIRMING);
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    give(&mut guest, &theirs);
    let mut mib = 8;
    let mut resize = |expected: Option<&str>| {
        mib += 1;
        let resized = guest.device.resize(Some(mib * MIB)).expect("resized");
        match (expected, &resized.reason) {
            (None, None) => assert_eq!(resized.frontend, FrontendKnows::Told),
            (Some(words), Some(reason)) => assert!(reason.contains(words), "{reason}"),
            other => panic!("{other:?}"),
        }
    };
    // A reply that comes before its message.
    ours.write_all(&reply(5, 0)).expect("channel");
    resize(None);
    let mut header = [0; 12];
    ours.read_exact(&mut header).expect("message");
    assert_eq!(header, [[2u32, 9, 0].map(u32::to_ne_bytes).concat()].concat()[..]);
    resize(Some("not replied within 5 seconds"));
    // The late reply, then the reply to this message in pieces.
    ours.write_all(&reply(5, 1)).expect("channel");
    let (front, back) = (reply(5, 0)[..15].to_vec(), reply(5, 0)[15..].to_vec());
    let mut channel = ours.try_clone().expect("channel");
    let pieces = std::thread::spawn(move || {
        channel.write_all(&front).expect("channel");
        std::thread::sleep(Duration::from_millis(100));
        channel.write_all(&back).expect("channel");
    });
    resize(None);
    pieces.join().expect("written");
    // Its flags say that it is no reply: the device closes the channel.
    ours.write_all(&reply(1, 0)).expect("channel");
    resize(Some("malformed"));
    ours.write_all(&reply(5, 0)).expect("channel");
    resize(Some("broken"));
    // Another channel, which nobody reads: the device does not wait for it.
    let (ours, theirs) = UnixStream::pair().expect("pair");
    theirs.set_nonblocking(true).expect("pair");
    while (&theirs).write(&[0; 1000]).is_ok() {}
    while (&theirs).write(&[0; 1]).is_ok() {}
    give(&mut guest, &theirs);
    let start = Instant::now();
    assert_eq!(guest.device.resize(Some(32 * MIB)).expect("resized").frontend, FrontendKnows::NotTold);
    assert!(start.elapsed() < Duration::from_secs(4));
    drop(ours);
}

/// An invalid channel is refused or ends the session. The device goes on.
#[test]
fn channels_that_are_none() {
    let mut guest = with(CONFIRMING);
    guest.frontend().set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let file = tempfile::tempfile().expect("file");
    assert!(guest.frontend().set_backend_request_fd(&file).is_err());
    let datagrams = std::os::unix::net::UnixDatagram::pair().expect("pair").0;
    assert!(guest.frontend().set_backend_request_fd(&datagrams).is_err());
    assert_eq!(guest.device.resize(Some(9 * MIB)).expect("resized").frontend, FrontendKnows::NotTold);
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    // Without a descriptor, with a body, as a reply, and cut off.
    for bytes in [
        [21u32, 1, 0].map(u32::to_ne_bytes).concat(),
        [21u32, 1, 8, 0, 0].map(u32::to_ne_bytes).concat(),
        [21u32, 5, 0].map(u32::to_ne_bytes).concat(),
        [21u32, 2, 0].map(u32::to_ne_bytes).concat(),
        21u32.to_ne_bytes().to_vec(),
    ] {
        guest.connection.as_mut().expect("connected").write_all(&bytes).expect("sent");
        guest.disconnect();
        guest.connect();
        guest.start();
        guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    }
    // Not negotiated.
    guest.disconnect();
    let mut guest = with(VhostUserProtocolFeatures::REPLY_ACK);
    let mut message = [21u32, 9, 0].map(u32::to_ne_bytes).concat();
    let connection = guest.connection.as_mut().expect("connected");
    connection.write_all(&message).expect("sent");
    message.resize(20, 0);
    connection.read_exact(&mut message).expect("reply");
    assert_eq!(message, [[21u32, 5, 8].map(u32::to_ne_bytes).concat(), 1u64.to_ne_bytes().to_vec()].concat());
}

#[test]
fn shrinking_waits_until_nobody_uses_the_disk() {
    let mut guest = with(CONFIRMING);
    let image = std::fs::File::options().write(true).open(guest.image_path()).expect("image");
    image.set_len(4 * MIB).expect("size");
    let error = guest.device.resize(None).expect_err("in use");
    assert!(matches!(error, ResizeError::InUse { before, bytes } if (before, bytes) == (8 * MIB, 4 * MIB)), "{error}");
    assert!(matches!(guest.device.resize(Some(4 * MIB)), Err(ResizeError::InUse { .. })));
    assert_eq!(guest.capacity(), 8 * MIB);
    guest.disconnect();
    let resized = guest.device.resize(None).expect("resized");
    assert_eq!((resized.bytes, resized.frontend), (4 * MIB, FrontendKnows::NotConnected));
    guest.connect();
    guest.start();
    assert_eq!(guest.capacity(), 4 * MIB);
    guest.request(0, &header(IN, 4 * 2048), 513).assert_only_status(IOERR);
    guest.request(0, &write_request(4 * 2048 - 1, &[1; 512]), 1).assert_only_status(OK);
    // The same size as before: the part in use is the new part.
    assert_eq!(guest.device.resize(Some(8 * MIB)).expect("resized").before, 4 * MIB);
    let read = guest.request(0, &header(IN, 4 * 2048), 513);
    assert!(read.status == OK && read.data == [0; 512]);
}

#[test]
fn sizes_that_cannot_be() {
    let mut options = Options::default();
    options.config.engine.logical_block_size = 4096;
    options.config.physical_block_size = 4096;
    let mut guest = Guest::with(options);
    let set = |bytes: u64| {
        std::fs::File::options().write(true).open(guest.image_path()).expect("image").set_len(bytes).expect("size");
    };
    set(8 * MIB + 512);
    let error = guest.device.resize(None).expect_err("blocks");
    assert!(error.to_string().contains(&(8 * MIB + 4096).to_string()), "{error}");
    assert!(matches!(guest.device.resize(Some(9 * MIB + 1)), Err(ResizeError::Blocks { .. })));
    let error = guest.device.resize(Some(u64::MAX)).expect_err("blocks");
    assert!(error.to_string().ends_with("not a multiple of the block size 4096"), "there is no next one: {error}");
    set(0);
    assert!(matches!(guest.device.resize(None), Err(ResizeError::Empty)));
    set(16 * MIB);
    // The device does not notice a new size by itself.
    assert_eq!(guest.capacity(), 8 * MIB);
    assert!(matches!(guest.device.resize(Some(9 * MIB)), Err(ResizeError::Cut { image, .. }) if image == 16 * MIB));
    assert!(matches!(guest.device.resize(Some(1 << 63)), Err(ResizeError::System(_))));
    assert_eq!(std::fs::metadata(guest.image_path()).expect("image").len(), 16 * MIB);
    assert_eq!(guest.capacity(), 8 * MIB);
}

/// The device sees when the owner resizes a read-only image, but does not enlarge it itself. A memory disk has no other
/// owner.
#[test]
fn images_of_others_and_of_nobody() {
    let mut guest = Guest::with(Options { read_only: true, ..Options::default() });
    assert!(matches!(guest.device.resize(Some(9 * MIB)), Err(ResizeError::NotOurs { .. })));
    std::fs::File::options().write(true).open(guest.image_path()).expect("image").set_len(9 * MIB).expect("size");
    assert_eq!(guest.device.resize(None).expect("resized").bytes, 9 * MIB);
    assert_eq!(guest.request(0, &header(IN, 9 * 2048 - 1), 513).status, OK);
    for read_only in [false, true] {
        let open = OpenOptions { read_only, discard: true, direct: false, logical_block_size: 512 };
        let image = open.in_memory(MIB).expect("memory");
        assert_eq!(image.resize(None, 512, true).expect("size"), (MIB, MIB));
        assert_eq!(image.resize(Some(2 * MIB), 512, false).expect("size"), (MIB, 2 * MIB));
        assert!(matches!(image.resize(Some(MIB), 512, true), Err(ResizeError::Cut { .. })));
    }
}

/// The disk grows again and again while all queues are busy. No request inside the known size fails.
#[test]
fn growing_under_load() {
    let mut guest = with(CONFIRMING);
    let (told, _thread) = listen(&mut guest, true);
    told.store(8 * 2048, Ordering::SeqCst);
    let mut rings = std::mem::take(&mut guest.rings);
    rings.truncate(2);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (queue, ring) in rings.iter_mut().enumerate() {
            let (told, stop) = (&told, &stop);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    // The last blocks of the size that the frontend knows, one for each queue.
                    let sector = told.load(Ordering::SeqCst) - 16 + queue as u64 * 8;
                    let data = pattern(round, 4096);
                    let mut request = |readable: &[u8], writable| ring.request(readable, writable);
                    assert_eq!(request(&write_request(sector, &data), 1).status, OK, "sector {sector}");
                    let read = request(&header(IN, sector), 4097);
                    assert!(read.data == data && read.status == OK, "sector {sector}");
                }
            });
        }
        for step in 1..200 {
            let resized = guest.device.resize(Some(8 * MIB + step * 28672)).expect("resized");
            assert_eq!(resized.frontend, FrontendKnows::Told);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
