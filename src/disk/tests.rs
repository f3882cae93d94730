// SPDX-License-Identifier: Apache-2.0 OR MIT

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::helpers::{CompletionQueue, Helpers, Task};
use super::*;
use crate::threads;

fn open(path: &Path) -> Image {
    OpenOptions { read_only: false, discard: true, direct: false, logical_block_size: 512 }.open(path).expect("image")
}

fn image(bytes: u64) -> (tempfile::NamedTempFile, Image) {
    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(bytes).expect("size");
    let image = open(file.path());
    (file, image)
}

#[test]
fn a_failed_flush_is_never_forgotten() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // Fails once, as the kernel does: it reports an error of writing back one time only.
    fn fails_first(_: &File) -> io::Result<()> {
        match CALLS.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
    }
    let (_file, mut image) = image(1 << 20);
    image.sync = fails_first;
    for _ in 0..3 {
        assert!(image.flush().is_err());
    }
    assert_eq!(CALLS.load(Ordering::SeqCst), 1);
}

/// When one of several concurrent flushes fails, none succeeds after it.
#[test]
fn flushes_at_the_same_time_do_not_miss_a_failure() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    fn slow_and_fails_first(_: &File) -> io::Result<()> {
        let call = CALLS.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(20));
        if call == 0 { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
    let (_file, mut image) = image(1 << 20);
    image.sync = slow_and_fails_first;
    let succeeded = std::thread::scope(|scope| {
        let flushes: Vec<_> = (0..8).map(|_| scope.spawn(|| image.flush().is_ok())).collect();
        flushes.into_iter().map(|flush| flush.join().expect("no panic")).filter(|&succeeded| succeeded).count()
    });
    assert_eq!(succeeded, 0);
}

#[test]
fn flush_asks_the_system_each_time() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    fn counts(_: &File) -> io::Result<()> {
        CALLS.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    let (_file, mut image) = image(1 << 20);
    image.sync = counts;
    for _ in 0..3 {
        image.flush().expect("flush");
    }
    assert_eq!(CALLS.load(Ordering::SeqCst), 3);
}

#[test]
fn lanes_share_the_rings_that_were_prepared() {
    let (file, image) = image(1 << 20);
    // Where io_uring is forbidden, there is nothing to test.
    let Ok(disk) = Disk::new(image, Some(Aio::IoUring)) else { return };
    let disk = Arc::new(disk);
    disk.prepare(1).expect("a ring");
    let write = |channel: &mut IoChannel, offset: u64, byte: u8| {
        let mut buffer = channel.get_buffer(4096).expect("buffer");
        buffer.bytes_mut()[..4096].fill(byte);
        let transfer = Transfer { direction: IoDirection::Write, offset, len: 4096 };
        assert!(channel.transfer(7, transfer, buffer).is_none());
        channel.submit();
    };
    let finish = |channel: &mut IoChannel| {
        let mut completions = Vec::new();
        while completions.is_empty() {
            channel.poll_completions(&mut completions);
        }
        let (token, completion) = completions.remove(0);
        assert!(token == 7 && completion.result.is_ok());
        channel.put_buffer(completion.buffer.expect("buffer"));
    };
    for round in 0..3 {
        let (mut first, mut second) = (disk.io_channel().expect("channel"), disk.io_channel().expect("channel"));
        // The second has only that of the helpers.
        assert_eq!((first.events().len(), second.events().len()), (2, 1));
        let room = first.room();
        write(&mut first, 0, round + 1);
        write(&mut second, 4096, round + 2);
        finish(&mut second);
        if round > 0 {
            finish(&mut first);
            assert_eq!(first.room(), room);
        }
        // This waits for what is in flight.
        drop(first);
        let mut bytes = [0; 8192];
        std::os::unix::fs::FileExt::read_exact_at(file.as_file(), &mut bytes, 0).expect("read");
        assert!(bytes[..4096] == [round + 1; 4096] && bytes[4096..] == [round + 2; 4096]);
    }
}

#[test]
fn zeroes_keep_their_space_unless_it_may_go() {
    let (file, image) = image(1 << 20);
    image.write(0, &[0xff; 1 << 20]).expect("write");
    image.flush().expect("flush");
    let blocks = || file.as_file().metadata().expect("metadata").blocks();
    let full = blocks();
    image.write_zeroes(0, 1 << 19, ZeroMode::Keep).expect("zeroes");
    image.flush().expect("flush");
    assert!(blocks() >= full, "space was given back that was to be kept");
    let mut half = vec![1; 1 << 19];
    image.read(0, &mut half).expect("read");
    assert!(half.iter().all(|&byte| byte == 0));
    if image.can_discard() {
        image.write_zeroes(0, 1 << 19, ZeroMode::MayDeallocate).expect("zeroes");
        assert!(blocks() < full, "space was not given back");
    }
}

#[test]
fn without_discard_space_is_never_given_back() {
    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(1 << 20).expect("size");
    let image = OpenOptions { read_only: false, discard: false, direct: false, logical_block_size: 512 }
        .open(file.path())
        .expect("image");
    assert!(!image.can_discard());
    image.write(0, &[0xff; 1 << 20]).expect("write");
    image.flush().expect("flush");
    let full = file.as_file().metadata().expect("metadata").blocks();
    image.write_zeroes(0, 1 << 20, ZeroMode::MayDeallocate).expect("zeroes");
    image.flush().expect("flush");
    assert!(file.as_file().metadata().expect("metadata").blocks() >= full);
}

#[test]
fn an_image_that_was_truncated_gives_errors() {
    let (file, image) = image(1 << 20);
    file.as_file().set_len(4096).expect("size");
    assert!(image.read(0, &mut [0; 4096]).is_ok());
    assert!(image.read(4096, &mut [0; 512]).is_err());
}

/// A channel of a disk with this flush function.
fn channel_with(sync: fn(&File) -> io::Result<()>) -> (tempfile::NamedTempFile, IoChannel) {
    let (file, mut image) = image(1 << 20);
    image.sync = sync;
    (file, Arc::new(Disk::new(image, Some(Aio::Threads)).expect("disk")).io_channel().expect("channel"))
}

/// Waits for this many completions. Returns their tokens and whether they succeeded, in order of the tokens.
fn wait_for(channel: &mut IoChannel, count: usize) -> Vec<(usize, bool)> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut completions = Vec::new();
    while completions.len() < count {
        assert!(std::time::Instant::now() < deadline, "{} of {count} answers", completions.len());
        channel.poll_completions(&mut completions);
        std::thread::yield_now();
    }
    let mut found = Vec::new();
    for (token, IoCompletion { result, buffer }) in completions {
        found.push((token, result.is_ok()));
        if let Some(buffer) = buffer {
            channel.put_buffer(buffer);
        }
    }
    found.sort_unstable();
    found
}

/// Begins a read, which must be possible, and waits for it.
fn read_meanwhile(channel: &mut IoChannel, token: usize) {
    let buffer = channel.get_buffer(4096).expect("buffer");
    let transfer = Transfer { direction: IoDirection::Read, offset: 0, len: 4096 };
    assert!(channel.transfer(token, transfer, buffer).is_none());
    assert_eq!(wait_for(channel, 1), [(token, true)]);
}

/// However many ask for a flush, one thread does it, and reads continue. Later requests wait for another flush.
#[test]
fn one_flush_answers_all_that_came_before_it() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    static ALLOWED: AtomicU32 = AtomicU32::new(0);
    fn waits(_: &File) -> io::Result<()> {
        let call = CALLS.fetch_add(1, Ordering::SeqCst);
        while ALLOWED.load(Ordering::SeqCst) <= call {
            std::thread::yield_now();
        }
        if call == 2 { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
    let (_file, mut channel) = channel_with(waits);
    assert!(channel.flush(0).is_none());
    while CALLS.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    // The first flush has begun, so it does not count for these.
    (1..100).for_each(|token| assert!(channel.flush(token).is_none()));
    read_meanwhile(&mut channel, 1000);
    assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    ALLOWED.store(1, Ordering::SeqCst);
    assert_eq!(wait_for(&mut channel, 1), [(0, true)]);
    while CALLS.load(Ordering::SeqCst) == 1 {
        std::thread::yield_now();
    }
    (100..103).for_each(|token| assert!(channel.flush(token).is_none()));
    read_meanwhile(&mut channel, 1001);
    ALLOWED.store(2, Ordering::SeqCst);
    assert_eq!(wait_for(&mut channel, 99), (1..100).map(|token| (token, true)).collect::<Vec<_>>());
    // A failure affects everybody, forever.
    ALLOWED.store(9, Ordering::SeqCst);
    assert_eq!(wait_for(&mut channel, 3), (100..103).map(|token| (token, false)).collect::<Vec<_>>());
    assert!(channel.flush(103).is_none());
    assert_eq!(wait_for(&mut channel, 1), [(103, false)]);
    assert_eq!(CALLS.load(Ordering::SeqCst), 3);
}

/// However many large ranges are discarded, threads stay free for reads and flushes.
#[test]
fn changes_that_take_long_leave_threads_for_data() {
    static GO_ON: AtomicU32 = AtomicU32::new(0);
    let (_file, mut channel) = channel_with(|_| Ok(()));
    for token in 0..64 {
        let waits = |_: &Image| {
            while GO_ON.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            Ok(())
        };
        assert!(channel.run(token, 1 << 30, Box::new(waits)).is_none());
    }
    for round in 0..20 {
        read_meanwhile(&mut channel, 100 + round);
        assert!(channel.flush(200 + round).is_none());
        assert_eq!(wait_for(&mut channel, 1), [(200 + round, true)]);
    }
    GO_ON.store(1, Ordering::SeqCst);
    assert_eq!(wait_for(&mut channel, 64), (0..64).map(|token| (token, true)).collect::<Vec<_>>());
}

#[test]
fn a_worker_on_a_cpu_does_not_bind_its_helpers() {
    let cpus = sched_getaffinity(None).expect("CPUs");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| cpus.is_set(*cpu)).expect("a CPU");
    let (_file, image) = image(1 << 20);
    let (found, finds) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        threads::bind(first);
        assert_eq!(sched_getaffinity(None).expect("CPUs").count(), 1);
        let action = move |_: &Image| {
            let _ = found.send(sched_getaffinity(None).expect("CPUs"));
            Ok(())
        };
        let completions = Arc::new(CompletionQueue::new().expect("eventfd"));
        Helpers::new(Arc::new(image)).submit(Task::Action(Box::new(action)), 0, &completions);
    });
    assert_eq!(finds.recv_timeout(Duration::from_secs(30)).expect("a helper"), cpus);
    worker.join().expect("worker");
}
