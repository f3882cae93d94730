// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Several logical units of a UFS host controller: each is an image of its own, and all share the keyslots.

mod common;

use std::os::unix::fs::FileExt;

use common::ufs::Answer;
use common::ufs::*;
use common::*;
use vhost_user_blk_crypto::device::FrontendKnows;

const UNIT_4096: u32 = ENABLE | 8;

/// Logical units of 8, 4 and 2 MiB.
fn three() -> Ufs {
    let mut options = ufs_options();
    options.more_images = vec![4 << 20, 2 << 20];
    let mut ufs = Ufs::with(options);
    ufs.enable();
    ufs
}

/// Writes, or reads into [`DATA`].
fn blocks(ufs: &mut Ufs, lun: u8, write: bool, first: u32, blocks: u16, crypto: Option<(u8, u64)>) -> Answer {
    let (cdb, direction) = (rw_10(write, first, blocks), if write { 1 } else { 2 });
    ufs.command(&Transfer { lun, cdb: &cdb, direction, bytes: u32::from(blocks) * 4096, crypto })
}

fn image_bytes(ufs: &Ufs, lun: u8, offset: u64, len: usize) -> Vec<u8> {
    let image = usize::from(lun).checked_sub(1).map_or(&ufs.image, |other| &ufs.more_images[other]);
    let mut bytes = vec![0; len];
    image.read_exact_at(&mut bytes, offset).expect("image");
    bytes
}

#[test]
fn each_unit_is_described() {
    let mut ufs = three();
    let (_, _, device) = ufs.query(1, 0, 0, 0);
    assert_eq!(device[6..8], [3, 4], "three units and four well-known ones");
    let (_, _, geometry) = ufs.query(1, 7, 0, 0);
    assert_eq!(geometry[4..12], (14u64 << 20 >> 9).to_be_bytes(), "their capacity in all");
    let (_, luns) = ufs.ask(0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 32], 32);
    assert_eq!((luns[3], luns[9], luns[17], luns[25]), (24, 0, 1, 2));
    let mut names = Vec::new();
    for (lun, blocks) in [(0, 2048u64), (1, 1024), (2, 512)] {
        let (response, _, unit) = ufs.query(1, 2, lun, 0);
        assert_eq!((response, unit[2], unit[3], &unit[11..19]), (0, lun, 1, &blocks.to_be_bytes()[..]));
        assert_eq!(ufs.ask(lun, &[0x12, 0, 0, 0, 36, 0], 36).1[0], 0, "a disk");
        let last = (blocks as u32 - 1).to_be_bytes();
        assert_eq!(ufs.ask(lun, &[0x25], 8).1[..4], last);
        names.push(ufs.ask(lun, &[0x12, 1, 0x83, 0, 64, 0], 64).1);
        assert_eq!(self::blocks(&mut ufs, lun, false, blocks as u32 - 1, 1, None).status().0, 0);
        assert_eq!(self::blocks(&mut ufs, lun, false, blocks as u32, 1, None).status(), (2, 5, 0x21), "past its end");
    }
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
    // What is not there.
    assert_eq!((ufs.query(1, 2, 3, 0).0, ufs.query(1, 2, 0x7f, 0).0), (0xfc, 0xfc));
    for lun in [3, 7, 8, 0x7f, 0x80, 0xff] {
        assert_eq!(ufs.ask(lun, &[0x12, 0, 0, 0, 36, 0], 36).1[0], 0x7f, "{lun}");
        assert_eq!(blocks(&mut ufs, lun, true, 0, 1, None).status(), (2, 5, 0x25), "{lun}");
        assert_eq!(ufs.ask(lun, &[0x35], 0).0.status(), (2, 5, 0x25), "{lun}");
    }
    assert_eq!(ufs.manage(0x81, 2, 0), (0, 0), "no task there");
    assert_eq!(ufs.manage(0x81, 3, 0), (0, 9), "no such unit");
}

fn seed(lun: u8, slot: u8) -> u64 {
    u64::from(1 + 2 * lun + slot)
}

/// The same key, number and block on each unit, and another key for each: every image has what OpenSSL says, and no other's data.
#[test]
fn units_share_keyslots_and_nothing_else() {
    let mut ufs = three();
    let keys = [key(1), key(2)];
    ufs.program(0, &keys[0], UNIT_4096);
    ufs.program(1, &keys[1], UNIT_4096);
    for lun in 0..3u8 {
        for (slot, key) in (0u8..).zip(&keys) {
            let data = pattern(seed(lun, slot), 3 * 4096);
            ufs.set_memory(DATA, &data);
            let first = 10 + 4 * u32::from(slot);
            let answer = blocks(&mut ufs, lun, true, first, 3, Some((slot, 77)));
            assert_eq!((answer.ocs, answer.status().0), (0, 0));
            assert!(image_bytes(&ufs, lun, u64::from(first) * 4096, data.len()) == openssl_xts(key, 77, 4096, &data));
        }
    }
    for lun in 0..3u8 {
        for slot in 0..2u8 {
            ufs.set_memory(DATA, &[0; 3 * 4096]);
            let answer = blocks(&mut ufs, lun, false, 10 + 4 * u32::from(slot), 3, Some((slot, 77)));
            assert_eq!((answer.ocs, answer.status().0), (0, 0));
            assert!(ufs.memory_bytes(DATA, 3 * 4096) == pattern(seed(lun, slot), 3 * 4096), "unit {lun}");
        }
    }
    // UNMAP and plain data go to the right unit, too.
    let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &10u64.to_be_bytes(), &1u32.to_be_bytes(), &[0; 4]].concat();
    ufs.set_memory(DATA, &list);
    let before = image_bytes(&ufs, 0, 0, 1 << 20);
    let unmap = Transfer { lun: 2, cdb: &[0x42, 0, 0, 0, 0, 0, 0, 0, 24], direction: 1, bytes: 24, crypto: None };
    assert_eq!(ufs.command(&unmap).status().0, 0);
    assert!(image_bytes(&ufs, 2, 40960, 4096) == [0; 4096]);
    assert!(image_bytes(&ufs, 1, 40960, 4096) != [0; 4096]);
    assert!(image_bytes(&ufs, 0, 0, 1 << 20) == before);
    assert_eq!((ufs.stat("keyslots.program"), ufs.stat("requests.crypto_out")), (2, 6));
}

#[test]
fn each_unit_has_a_size_of_its_own() {
    let mut ufs = three();
    let resized = ufs.device.resize_lun(1, Some(6 << 20)).expect("larger");
    assert_eq!((resized.before, resized.bytes, resized.frontend), (4 << 20, 6 << 20, FrontendKnows::WithNextRequest));
    // Once, and only that unit's driver.
    assert_eq!(ufs.ask(0, &[0; 6], 0).0.status().0, 0);
    assert_eq!([0; 2].map(|_| ufs.ask(1, &[0; 6], 0).0.status().0), [2, 0]);
    for (lun, blocks) in [(0, 2048u32), (1, 1536), (2, 512)] {
        assert_eq!(ufs.ask(lun, &[0x25], 8).1[..4], (blocks - 1).to_be_bytes());
    }
    let error = ufs.device.resize_lun(3, None).expect_err("no such unit");
    assert_eq!(error.to_string(), "there is no LUN 3; the device has 3, counted from 0");
    let luns = serde_json::to_value(ufs.device.status()).expect("status")["luns"].clone();
    let bytes: Vec<_> = luns.as_array().expect("units").iter().map(|unit| unit["bytes"].as_u64()).collect();
    assert_eq!(bytes, [Some(8 << 20), Some(6 << 20), Some(2 << 20)]);
}

/// The program itself in its sandbox, with io_uring, for two images.
#[test]
fn the_program_serves_two_images() {
    use common::process::{Files, Running};
    let files = Files::new();
    let second = tempfile::NamedTempFile::new().expect("image");
    second.as_file().set_len(2 << 20).expect("image");
    let path = second.path().to_str().expect("UTF-8").to_owned();
    for aio in ["sync", "io_uring"] {
        let options = ["--ufs", "--sandbox", "require", "--blk-file", &path, "--aio", aio, "--exit-on-disconnect"];
        let running = Running::start(&files, &options);
        let image = std::fs::File::open(files.image()).expect("image");
        let mut ufs = Ufs::of_process(files.connect(), image);
        ufs.enable();
        let key = key(3);
        ufs.program(4, &key, UNIT_4096);
        for lun in 0..2 {
            let data = pattern(60 + u64::from(lun), 4096);
            ufs.set_memory(DATA, &data);
            assert_eq!(blocks(&mut ufs, lun, true, 5, 1, Some((4, 9))).ocs, 0);
            assert_eq!(ufs.ask(lun, &[0x35], 0).0.status().0, 0, "flushed");
        }
        drop(ufs);
        let (code, text) = running.finish();
        assert_eq!(code, Some(0), "{text}");
        let mut bytes = [0; 4096];
        second.as_file().read_exact_at(&mut bytes, 5 * 4096).expect("image");
        assert!(bytes[..] == openssl_xts(&key, 9, 4096, &pattern(61, 4096)));
    }
    let refused = |options: &[&str]| {
        let (code, text) = Running::start(&files, options).finish();
        assert_eq!(code, Some(1), "{text}");
        text
    };
    assert!(refused(&["--blk-file", &path]).contains("use --ufs"));
    assert!(refused(&["--ufs", "--blk-file", &path, "--blk-file", &path]).contains("a file of its own"));
}
