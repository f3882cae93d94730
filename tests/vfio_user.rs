// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The vfio-user transport: what a client may send, and what it must not be able to do.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::ufs::*;
use common::vfio::*;

const EINVAL: Refused = Refused(libc::EINVAL as u32);
const ENOTSUP: Refused = Refused(libc::ENOTSUP as u32);
const EEXIST: Refused = Refused(libc::EEXIST as u32);
const ENOENT: Refused = Refused(libc::ENOENT as u32);
const E2BIG: Refused = Refused(libc::E2BIG as u32);

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// QEMU needs nine regions and five interrupt indexes, even if most are empty.
#[test]
fn the_device_is_a_pci_device() {
    let mut ufs = Ufs::with(ufs_options());
    let client = &mut ufs.client;
    assert_eq!(words(&client.ask(GET_INFO, &bytes(&[16, 0, 0, 0]), &[]).expect("info")), [16, 3, 9, 5]);
    for index in 0..9 {
        let info = client.ask(GET_REGION_INFO, &bytes(&[32, 0, index, 0, 0, 0, 0, 0]), &[]).expect("info");
        let (flags, size) = match index {
            BAR => (3, 0x10000),
            CONFIG => (3, 256),
            _ => (0, 0),
        };
        assert_eq!(words(&info), [32, flags, index, 0, size, 0, 0, 0]);
    }
    for index in 0..5 {
        let info = client.ask(GET_IRQ_INFO, &bytes(&[16, 0, index, 0]), &[]).expect("info");
        assert_eq!(words(&info), if index == 0 { [16, 7, 0, 1] } else { [16, 1, index, 0] });
    }
    let config = client.read(CONFIG, 0, 256).expect("configuration space");
    assert_eq!((&config[..4], &config[9..12], config[0x3d]), (&[0x86, 0x80, 0x47, 0x7e][..], &[1, 9, 1][..], 1));
    assert_eq!(client.ask(GET_REGION_INFO, &bytes(&[32, 0, 9, 0, 0, 0, 0, 0]), &[]), Err(EINVAL));
    assert_eq!(client.ask(GET_REGION_INFO, &bytes(&[31, 0, 0, 0, 0, 0, 0, 0]), &[]), Err(EINVAL));
    assert_eq!(client.ask(GET_IRQ_INFO, &bytes(&[16, 0, 5, 0]), &[]), Err(EINVAL));
}

/// The session continues after each of these.
#[test]
fn what_is_refused_leaves_the_stream_whole() {
    let mut ufs = Ufs::with(ufs_options());
    let client = &mut ufs.client;
    for command in [0, 6, 11, 12, 14, 16, 17, 99, u16::MAX] {
        assert_eq!(client.ask(command, &[7; 100], &[]), Err(ENOTSUP), "{command}");
    }
    assert_eq!(client.ask(VERSION, &[0; 4], &[]), Err(EINVAL), "a second time");
    for command in
        [DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, SET_IRQS, REGION_READ, REGION_WRITE, REGION_WRITE_MULTI]
    {
        assert_eq!(client.ask(command, &[0; 3], &[]), Err(EINVAL), "{command}");
    }
    for (region, offset, len) in [
        (BAR, 0x10000, 4),
        (BAR, 0xfffd, 4),
        (BAR, u64::MAX, 4),
        (BAR, 0, 0),
        (BAR, 0, 4097),
        (1, 0, 1),
        (9, 0, 1),
        (CONFIG, 253, 4),
    ] {
        assert_eq!(client.read(region, offset, len), Err(EINVAL), "{region} {offset:#x} {len}");
        assert_eq!(client.write(region, offset, &vec![0; len as usize]), Err(EINVAL), "{region} {offset:#x} {len}");
    }
    // More data is announced than there is.
    assert_eq!(client.ask(REGION_WRITE, &access(BAR, 0, 8), &[]), Err(EINVAL));
    assert_eq!(client.ask(99, &vec![0; 100_000], &[]), Err(E2BIG), "too long");
    assert_eq!(client.ask(REGION_WRITE, &vec![0; 8192], &[]), Err(E2BIG));
    assert_eq!(client.read(BAR, 8, 4), Ok(vec![0x10, 3, 0, 0]));
}

#[test]
fn messages_may_come_in_pieces() {
    let mut ufs = Ufs::with(ufs_options());
    let client = &mut ufs.client;
    let message = client.message(REGION_READ, 0, &access(BAR, 8, 4));
    let pieces: Vec<&[u8]> = message.chunks(1).collect();
    client.send_raw(&pieces);
    assert_eq!(client.reply().1.expect("a reply")[16..], [0x10, 3, 0, 0]);
    // And many at once.
    let messages = message.repeat(200);
    client.send_raw(&[&messages]);
    for _ in 0..200 {
        assert_eq!(client.reply().1.expect("a reply")[16..], [0x10, 3, 0, 0]);
    }
}

#[test]
fn writes_without_replies_and_several_at_once() {
    let mut ufs = Ufs::with(ufs_options());
    ufs.client.send(REGION_WRITE, NO_REPLY, &[&access(BAR, 0x34, 4)[..], &[1, 0, 0, 0]].concat(), &[]);
    // What is refused has no reply either.
    ufs.client.send(99, NO_REPLY, &[], &[]);
    assert_eq!(ufs.get(0x34), 1);
    let one = |offset, value: u32| [&access(BAR, offset, 4)[..], &value.to_le_bytes(), &[0; 4]].concat();
    let writes = [&2u64.to_le_bytes()[..], &one(0x24, 0x201), &one(0x4c, 77)].concat();
    assert_eq!(ufs.client.ask(REGION_WRITE_MULTI, &writes, &[]), Ok(2u64.to_le_bytes().to_vec()));
    assert_eq!((ufs.get(0x24), ufs.get(0x4c)), (0x201, 77));
    // None is done when one cannot be.
    let bad = [&2u64.to_le_bytes()[..], &one(0x24, 0), &one(0x10000, 0)].concat();
    assert_eq!(ufs.client.ask(REGION_WRITE_MULTI, &bad, &[]), Err(EINVAL));
    assert_eq!(ufs.get(0x24), 0x201);
    for count in [3, u64::MAX, 1 << 60] {
        let few = [&count.to_le_bytes()[..], &one(0x24, 0), &one(0x4c, 0)].concat();
        assert_eq!(ufs.client.ask(REGION_WRITE_MULTI, &few, &[]), Err(EINVAL), "{count}");
    }
}

#[test]
fn memory_is_mapped_range_by_range() {
    let mut ufs = Ufs::with(ufs_options());
    let memory = ufs.memory.try_clone().expect("memory");
    let client = &mut ufs.client;
    assert_eq!(client.map(Some(&memory), 0, MEMORY + 0x1000, 0x1000), Err(EEXIST));
    assert_eq!(client.map(Some(&memory), 0, 0, 0), Err(EINVAL));
    assert_eq!(client.map(Some(&memory), 0, u64::MAX - 0xfff, 0x2000), Err(EINVAL));
    assert_eq!(client.map(Some(&memory), 0, 1 << 40, 1 << 50), Err(EINVAL), "the file ends before");
    assert_eq!(client.map(Some(&memory), MEMORY_BYTES - 0x1000, 1 << 40, 0x2000), Err(EINVAL), "by a page");
    assert_eq!(client.map(Some(&memory), 0x123, 1 << 40, 0x1000), Err(EINVAL), "no page begins there");
    assert_eq!(client.map(Some(&memory), 0, 1 << 40, 0xfff), Err(EINVAL), "no whole page");
    if let Some(huge) = common::huge_memfd() {
        huge.set_len(4 << 20).expect("memfd");
        assert_eq!(client.map(Some(&huge), 0, 1 << 40, 0x1000), Err(EINVAL), "munmap(2) could not remove it");
        assert_eq!(client.map(Some(&huge), 0x1000, 1 << 40, 2 << 20), Err(EINVAL));
        assert_eq!(client.map(Some(&huge), 2 << 20, 1 << 40, 2 << 20), Ok(()));
        assert_eq!(client.unmap(1 << 40, 2 << 20), Ok(()));
    }
    assert_eq!(client.map(Some(&File::open("/dev/null").expect("null")), 0, 1 << 40, 0x1000), Err(EINVAL));
    // ROMs and the like have no file; the device has no use for them.
    assert_eq!(client.map(None, 0, 1 << 40, 0x1000), Ok(()));
    assert_eq!(client.unmap(1 << 40, 0x2000), Err(ENOENT));
    assert_eq!(client.unmap(1 << 40, 0x1000), Ok(()));
    assert_eq!(client.unmap(1 << 40, 0x1000), Err(ENOENT));
    for round in 0..100 {
        client.map(Some(&memory), 0x1000 * (round % 8), 1 << 41, 0x1000).expect("DMA_MAP");
        client.unmap(1 << 41, 0x1000).expect("DMA_UNMAP");
    }
    // Without memory there is no request.
    client.unmap(MEMORY, MEMORY_BYTES).expect("DMA_UNMAP");
    ufs.enable();
    ufs.set(0x58, 1);
    assert_eq!((ufs.get(0x58), ufs.get(0x20) >> 17 & 1), (1, 1), "system bus fatal error");
    ufs.client.map(Some(&memory), 0, MEMORY, MEMORY_BYTES).expect("DMA_MAP");
    ufs.set(0x34, 0);
    ufs.enable();
    assert_eq!(ufs.ask(0, &[0x00, 0, 0, 0, 0, 0], 0).0.ocs, 0);
}

/// QEMU asks for several ranges before the first one is mapped. The server may read all of it at once; each descriptor must still
/// go with its own message.
#[test]
fn descriptors_go_with_their_message() {
    let mut ufs = Ufs::with(ufs_options());
    let other = File::from(rustix::fs::memfd_create("other", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd"));
    other.set_len(0x10000).expect("memfd");
    ufs.client.unmap(MEMORY, MEMORY_BYTES).expect("DMA_UNMAP");
    let memory = ufs.memory.try_clone().expect("memory");
    let map = |address: u64, size: u64| {
        let numbers: Vec<u8> = [0, address, size].iter().flat_map(|number: &u64| number.to_le_bytes()).collect();
        [&bytes(&[32, 3])[..], &numbers].concat()
    };
    for round in 0..50u64 {
        let far = (1 << 40) + (round << 20);
        ufs.client.send(REGION_WRITE, NO_REPLY, &[&access(BAR, 0x804, 4)[..], &[1; 4]].concat(), &[]);
        ufs.client.send(DMA_MAP, 0, &map(far, 0x1000), &[]);
        ufs.client.send(DMA_MAP, 0, &map(far + 0x1000, 0x1000), &[other.as_fd()]);
        ufs.client.send(DMA_MAP, 0, &map(MEMORY, MEMORY_BYTES), &[memory.as_fd()]);
        ufs.client.send(REGION_READ, 0, &access(BAR, 8, 4), &[]);
        // With another file, or none, there would be an error, or no memory.
        assert_eq!([(); 3].map(|()| ufs.client.reply().1), [const { Ok(Vec::new()) }; 3], "round {round}");
        assert_eq!(ufs.client.reply().1.expect("a reply")[16..], [0x10, 3, 0, 0]);
        ufs.enable();
        assert_eq!(ufs.ask(0, &[0; 6], 0).0.ocs, 0, "round {round}");
        ufs.set(0x34, 0);
        ufs.client.unmap(MEMORY, MEMORY_BYTES).expect("DMA_UNMAP");
    }
}

#[test]
fn too_many_ranges_are_refused() {
    let mut ufs = Ufs::with(ufs_options());
    let mapped = (0..600u64).take_while(|n| ufs.client.map(None, 0, (1 << 40) + (n << 12), 0x1000).is_ok()).count();
    assert_eq!(mapped, 508, "with the guest's memory there are 509");
}

/// The line rises once, and again when the client unmasks it while it is still up.
#[test]
fn the_interrupt_line() {
    let mut ufs = Ufs::new();
    let fired = |ufs: &Ufs| ufs.interrupt.read().unwrap_or(0);
    assert_eq!(fired(&ufs), 0);
    let nop = |ufs: &mut Ufs| ufs.ask(0, &[0; 6], 0).0.ocs;
    assert_eq!(nop(&mut ufs), 0);
    assert_eq!(fired(&ufs), 1);
    assert_eq!(nop(&mut ufs), 0);
    assert_eq!(fired(&ufs), 0, "it masks itself");
    ufs.client.set_irqs(1 | 16, 0, 1, None).expect("unmask");
    assert_eq!(fired(&ufs), 1, "it is up");
    ufs.set(0x20, 1);
    ufs.client.set_irqs(1 | 16, 0, 1, None).expect("unmask");
    assert_eq!(fired(&ufs), 0, "it is down");
    ufs.client.set_irqs(1 | 8, 0, 1, None).expect("mask");
    assert_eq!(nop(&mut ufs), 0);
    assert_eq!(fired(&ufs), 0);
    ufs.client.set_irqs(1 | 16, 0, 1, None).expect("unmask");
    assert_eq!(fired(&ufs), 1);
    ufs.client.set_irqs(1 | 32, 0, 0, None).expect("off");
    ufs.set(0x20, 1);
    assert_eq!(nop(&mut ufs), 0);
    assert_eq!(fired(&ufs), 0);
    let null = File::open("/dev/null").expect("null");
    assert_eq!(ufs.client.set_irqs(4 | 32, 0, 1, Some(null.as_fd())), Err(EINVAL), "it is no eventfd");
    for (flags, index, count) in
        [(4 | 32, 1, 1), (1 | 32, 0, 2), (3 | 32, 0, 1), (1, 0, 1), (1 | 48, 0, 1), (1 | 32, 9, 0)]
    {
        assert_eq!(ufs.client.set_irqs(flags, index, count, None), Err(EINVAL), "{flags} {index} {count}");
    }
    assert_eq!(ufs.client.set_irqs(4 | 16, 0, 1, None), Err(ENOTSUP));
}

/// QEMU unmasks the line at each access to a register. While the driver's handler looks at IS and acknowledges it, that is no reason
/// to signal again; when the handler goes away without that, it is.
#[test]
fn the_line_waits_for_a_handler() {
    let mut ufs = Ufs::new();
    let fired = |ufs: &Ufs| ufs.interrupt.read().unwrap_or(0);
    let unmask = |ufs: &mut Ufs| ufs.client.set_irqs(1 | 16, 0, 1, None).expect("unmask");
    let nop = |ufs: &mut Ufs| assert_eq!(ufs.ask(0, &[0; 6], 0).0.ocs, 0);
    nop(&mut ufs);
    assert_eq!(fired(&ufs), 1);
    for offset in [0x20, 0x24, 0x58] {
        ufs.get(offset);
        unmask(&mut ufs);
    }
    assert_eq!(fired(&ufs), 0, "the handler is at work");
    // Another request completes before the handler writes IS, which takes that into account.
    ufs.set(0x58, 1 << 7);
    unmask(&mut ufs);
    ufs.set(0x20, 1);
    unmask(&mut ufs);
    assert_eq!(fired(&ufs), 0);
    // After that, it is news.
    nop(&mut ufs);
    assert_eq!(fired(&ufs), 1);
    // A handler that only looks.
    ufs.get(0x20);
    unmask(&mut ufs);
    assert_eq!(fired(&ufs), 0);
    ufs.get(0x30);
    ufs.get(0x08);
    assert_eq!(fired(&ufs), 1);
    // One that looks for the last time, as Linux after some rounds: the line is up, and the driver rings only doorbells from now on.
    ufs.get(0x20);
    unmask(&mut ufs);
    assert_eq!(fired(&ufs), 0);
    nop(&mut ufs);
    let looked = Instant::now();
    while fired(&ufs) == 0 {
        assert!(looked.elapsed() < Duration::from_secs(5), "an interrupt is lost");
        std::thread::sleep(Duration::from_millis(1));
    }
    unmask(&mut ufs);
    assert_eq!(fired(&ufs), 1, "it is still up");
    // One that acknowledges something else.
    ufs.get(0x20);
    unmask(&mut ufs);
    ufs.set(0x20, 0x400);
    ufs.get(0x08);
    assert_eq!(fired(&ufs), 1);
}

/// A client that makes its eventfd block, and fills it, holds up itself; the server still stops when it is asked to, and when the
/// client goes.
#[test]
fn an_eventfd_that_blocks_does_not_keep_the_server() {
    for goes in [false, true] {
        let mut ufs = Ufs::new();
        let flags = rustix::fs::fcntl_getfl(ufs.interrupt.as_fd_of()).expect("flags");
        rustix::fs::fcntl_setfl(ufs.interrupt.as_fd_of(), flags - rustix::fs::OFlags::NONBLOCK).expect("flags");
        ufs.interrupt.write(u64::MAX - 1).expect("eventfd");
        let nop = Transfer { lun: 0, cdb: &[0; 6], direction: 0, bytes: 0, crypto: None };
        ufs.prepare(0, &Ufs::command_upiu(0, &nop), &nop);
        ufs.client.send(REGION_WRITE, NO_REPLY, &[&access(BAR, 0x58, 4)[..], &[1, 0, 0, 0]].concat(), &[]);
        std::thread::sleep(Duration::from_millis(200));
        let asked = Instant::now();
        if goes {
            ufs.disconnect();
        } else {
            ufs.stop.request();
            ufs.wait_for_the_end();
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "{goes}: {:?}", asked.elapsed());
    }
}

/// What arrives while registers wait for a keyslot is found when they wait no more: another message, or the end.
#[test]
fn nothing_is_lost_while_a_keyslot_changes() {
    for goes in [false, true] {
        let mut ufs = Ufs::new();
        let device = Arc::clone(&ufs.device);
        device.faults().insert("stuck,op=program".parse().expect("a fault")).expect("a fault");
        ufs.program(0, &[7; 64], ENABLE | 8);
        std::thread::sleep(Duration::from_millis(50));
        let clears = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            device.faults().clear(None).expect("clear");
        });
        ufs.client.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        if goes {
            ufs.disconnect();
        } else {
            assert_eq!(ufs.get(0x08), 0x310, "the version");
        }
        clears.join().expect("no panic");
    }
}

/// Accesses to registers wait for keyslots for a second, however many of these are stuck.
#[test]
fn the_wait_for_keyslots_is_one_wait() {
    let mut ufs = Ufs::new();
    ufs.device.faults().insert("stuck,op=program".parse().expect("a fault")).expect("a fault");
    let begun = Instant::now();
    for slot in 0..3 {
        ufs.program(slot, &[7; 64], ENABLE | 8);
    }
    assert_eq!(ufs.get(0x08), 0x310, "the version");
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(900) && waited < Duration::from_millis(2500), "{waited:?}");
}

/// One keyslot that is stuck for good does not keep accesses from waiting for another one.
#[test]
fn a_keyslot_that_is_stuck_is_alone() {
    let mut options = ufs_options();
    options.config.engine.timing.program = Duration::from_millis(100);
    let mut ufs = Ufs::with(options);
    ufs.enable();
    ufs.device.faults().insert("stuck,op=program,count=1".parse().expect("a fault")).expect("a fault");
    ufs.program(0, &[7; 64], ENABLE | 8);
    assert_eq!(ufs.get(0x08), 0x310, "the version, after a second");
    let key: Vec<u8> = (0..64).collect();
    ufs.program(1, key[..].try_into().expect("64 bytes"), ENABLE | 8);
    assert_eq!(ufs.write(0, &[1; 4096], Some((1, 0))).ocs, 0, "the key is there at the doorbell");
}

/// An invalid header, or too many descriptors: only the session ends.
#[test]
fn a_stream_that_makes_no_sense_ends_the_session() {
    let garbage = [[0; 16], [0xff; 16], [1, 0, 1, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]];
    for header in &garbage {
        let mut ufs = Ufs::with(ufs_options());
        ufs.client.send_raw(&[header]);
        if header[4..8] == [0xff; 4] {
            // It announces 4 GiB, which never come.
            ufs.disconnect();
            continue;
        }
        assert_eq!(ufs.client.stream.read(&mut [0; 16]).expect("the end"), 0);
        ufs.disconnect();
    }
    let mut ufs = Ufs::with(ufs_options());
    let null = File::open("/dev/null").expect("null");
    ufs.client.send(GET_INFO, 0, &bytes(&[16, 0, 0, 0]), &[null.as_fd(); 20]);
    assert!(!matches!(ufs.client.stream.read(&mut [0; 16]), Ok(1..)));
    ufs.disconnect();
}

/// The server waits for a client that sends requests and reads no reply. Others are not affected.
#[test]
fn replies_that_nobody_takes_do_not_pile_up() {
    let mut ufs = Ufs::with(ufs_options());
    ufs.client.stream.set_nonblocking(true).expect("socket");
    let message = ufs.client.message(REGION_READ, 0, &access(BAR, 0, 4096));
    use std::io::Write;
    let mut sent = 0;
    while sent < 100_000 && matches!(ufs.client.stream.write(&message), Ok(n) if n == message.len()) {
        sent += 1;
    }
    assert!(sent < 100_000, "the server has stopped to read");
    ufs.stop.request();
    ufs.disconnect();
}

/// The program itself, in its sandbox. A connection that only probes the socket keeps no client out. While a client is
/// served, the program closes other connections.
#[test]
fn the_program_serves_one_client_at_a_time() {
    let files = common::process::Files::new();
    let running = common::process::Running::start(&files, &["--ufs", "--sandbox", "require"]);
    let silent = files.connect();
    let mut client = Vfio::new(files.connect());
    assert_eq!(client.read(BAR, 8, 4), Ok(vec![0x10, 3, 0, 0]));
    let mut late = Vfio::silent(files.connect());
    assert_eq!(late.stream.read(&mut [0; 16]).expect("the end"), 0);
    drop(silent);
    drop(client);
    // The next one.
    let mut client = Vfio::new(files.connect());
    assert_eq!(client.read(CONFIG, 0, 4), Ok(vec![0x86, 0x80, 0x47, 0x7e]));
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("as a UFS host controller"), "{text}");
}

/// A client never stops sending, either many messages or one of gigabytes. The program serves it and everything else.
#[test]
fn a_flood_does_not_keep_the_server_from_stopping() {
    for one_message in [false, true] {
        let mut ufs = Ufs::with(ufs_options());
        let write = ufs.client.message(REGION_WRITE, NO_REPLY, &[&access(BAR, 0x804, 4)[..], &[1; 4]].concat());
        let mut flood = write.repeat(1000);
        let mut stream = ufs.client.stream.try_clone().expect("socket");
        if one_message {
            let mut header = write[..16].to_vec();
            header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            stream.write_all(&header).expect("send");
            flood = vec![0; 1 << 20];
        }
        let client = std::thread::spawn(move || while stream.write_all(&flood).is_ok() {});
        std::thread::sleep(Duration::from_millis(200));
        ufs.stop.request();
        let asked = Instant::now();
        client.join().expect("the server has closed the connection");
        // A message of 4 GiB takes seconds.
        assert!(asked.elapsed() < Duration::from_secs(3), "{one_message}: {:?}", asked.elapsed());
    }
}

/// Requests that are complete at once count as work, too: a driver may begin 32 with each message.
#[test]
fn a_flood_of_doorbells_does_not_keep_the_server_from_stopping() {
    let mut ufs = Ufs::new();
    for slot in 0..32 {
        let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 64, 0];
        let transfer = Transfer { lun: 0, cdb: &cdb, direction: 1, bytes: 64 * 4096, crypto: None };
        ufs.prepare(slot, &Ufs::command_upiu(slot, &transfer), &transfer);
    }
    let doorbell = ufs.client.message(REGION_WRITE, NO_REPLY, &[&access(BAR, 0x58, 4)[..], &[0xff; 4]].concat());
    let flood = doorbell.repeat(1000);
    let mut stream = ufs.client.stream.try_clone().expect("socket");
    let client = std::thread::spawn(move || while stream.write_all(&flood).is_ok() {});
    let written = |ufs: &Ufs| ufs.stat("requests.out");
    let start = Instant::now();
    while written(&ufs) < 1000 {
        assert!(start.elapsed() < Duration::from_secs(10), "doorbells start requests");
        std::thread::sleep(Duration::from_millis(1));
    }
    ufs.stop.request();
    let before = written(&ufs);
    client.join().expect("the server has closed the connection");
    // A step that has begun, and what was counted late.
    let more = written(&ufs) - before;
    assert!(more <= 128, "{more} requests began after the server was asked to stop");
}
