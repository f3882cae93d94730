// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A power cut: the program is killed. All writes that a completed FLUSH covers (or, in write-through mode, all
//! completed writes) are on the storage, not only in the host's memory.
//!
//! The power stays on. The kernel reports the pages of the image that it has not written yet (cachestat(2), Linux 6.5):
//! a power cut would lose those.

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::machine::{BLOCK, Driver, Machine, random};
use libtest_mimic::{Arguments, Trial};

/// The number of cachestat on every architecture.
const CACHESTAT: libc::c_long = 451;

/// Bytes of a file that are in memory only, or on their way to the storage. `None` when the system cannot tell.
fn volatile_bytes(file: &File, offset: u64, len: usize) -> Option<u64> {
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Stat {
        cache: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    let range = Range { offset, len: len as u64 };
    let mut stat = Stat::default();
    // SAFETY: the structures are those of the system call; it reads the first and writes the second.
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    (result == 0).then_some((stat.dirty + stat.writeback) * rustix::param::page_size() as u64)
}

/// Whether the system reports dirty pages of a file in the tests' directory.
fn system_can_tell() -> bool {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("file");
    file.write_all_at(&[1; 64 * BLOCK], 0).expect("file");
    let before = volatile_bytes(&file, 0, 64 * BLOCK);
    file.sync_data().expect("file");
    before.is_some_and(|bytes| bytes > 0) && volatile_bytes(&file, 0, 64 * BLOCK) == Some(0)
}

/// Asserts that the storage has these blocks.
fn assert_durable(driver: &Driver, machine: &Machine, blocks: &[(u64, u64)]) {
    let image = File::open(machine.image()).expect("image");
    for &(block, _) in blocks {
        let volatile = volatile_bytes(&image, block * BLOCK as u64, BLOCK);
        assert_eq!(volatile, Some(0), "block {block} is not on the storage");
    }
    driver.check_image(machine, blocks);
}

fn cut(options: &[&str], seed: u64, write_through: bool) {
    let mut machine = Machine::new(options);
    let mut random = random(seed);
    let mut driver = Driver::new();
    let (mut checked, mut volatile) = (0, 0);
    for _ in 0..20 {
        let how_long = Duration::from_micros(2000 + random(30_000));
        driver.work(&mut machine, &mut random, how_long);
        machine.kill();
        driver.reap_all(&mut machine);
        let [covered, open] = driver.covered();
        assert_durable(&driver, &machine, &covered);
        checked += covered.len();
        if write_through {
            assert_durable(&driver, &machine, &open);
            checked += open.len();
        } else {
            let image = File::open(machine.image()).expect("image");
            let bytes = |&(block, _): &(u64, u64)| volatile_bytes(&image, block * BLOCK as u64, BLOCK);
            volatile += open.iter().filter_map(bytes).filter(|&bytes| bytes > 0).count();
        }
        machine.start_program();
        machine.connect();
    }
    driver.finish(&mut machine, &mut random);
    println!("{checked} blocks were on the storage, {volatile} others were not");
    assert!(checked > 100);
    // Otherwise the kernel has written everything by itself, and the test shows nothing.
    assert!(write_through || volatile > 0, "every block was on the storage, flushed or not");
}

fn main() {
    let can_tell = system_can_tell();
    if !can_tell {
        eprintln!("ignored: the kernel does not tell which pages of {} are dirty", env!("CARGO_TARGET_TMPDIR"));
    }
    let tests: [(&str, fn()); 3] = [
        ("writes_that_a_flush_covers_are_durable", || cut(&[], 11, false)),
        ("writes_that_a_flush_covers_are_durable_with_helper_threads", || cut(&["--aio", "threads"], 12, false)),
        ("writes_in_write_through_mode_are_durable", || cut(&["--cache", "writethrough"], 13, true)),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(!can_tell)
    });
    let mut arguments = Arguments::from_args();
    // A run of ignored tests (as by xtask) does not include those that this system cannot run.
    (arguments.include_ignored, arguments.ignored) = (false, false);
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
