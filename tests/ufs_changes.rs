// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What changes behind the back of a UFS driver: the size of the image, and its own memory.

mod common;

use std::fs::File;
use std::io::Read;

use common::ufs::MEMORY_BYTES;
use common::ufs::*;
use common::vfio::{NO_REPLY, REGION_WRITE, Vfio, access};
use common::*;
use rustix::fs::{MemfdFlags, memfd_create};
use vhost_user_blk_crypto::device::FrontendKnows;

const MIB: u64 = 1 << 20;
const CAPACITY_CHANGED: (u8, u8, u8) = (2, 6, 0x2a);

/// Blocks of 4096 bytes.
fn blocks(ufs: &mut Ufs) -> u64 {
    let (answer, capacity) = ufs.ask(0, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], 32);
    assert_eq!(answer.status().0, 0);
    u64::from_be_bytes(capacity[..8].try_into().expect("8 bytes")) + 1
}

/// The driver is told once, with the next command that is not one of those that find out what there is.
#[test]
fn another_size_is_a_unit_attention() {
    let mut ufs = Ufs::new();
    assert_eq!(blocks(&mut ufs), 2048);
    assert_eq!(ufs.read(3000, 1, None).0.status(), (2, 5, 0x21), "past the end");
    let resized = ufs.device.resize(Some(16 * MIB)).expect("resize");
    assert_eq!((resized.frontend, resized.bytes), (FrontendKnows::WithNextRequest, 16 * MIB));
    assert_eq!(ufs.ask(0, &[0x12, 0, 0, 0, 36, 0], 36).0.status().0, 0, "INQUIRY");
    let before = ufs.image_bytes(0, 4096);
    let answer = ufs.write(0, &pattern(1, 4096), None);
    assert_eq!((answer.status(), answer.upiu[47]), (CAPACITY_CHANGED, 9));
    assert!(ufs.image_bytes(0, 4096) == before, "a request that failed has written nothing");
    assert_eq!(ufs.write(0, &pattern(1, 4096), None).status().0, 0, "the same once more");
    assert_eq!(blocks(&mut ufs), 4096);
    let data = pattern(2, 4096);
    assert_eq!(ufs.write(3000, &data, None).status().0, 0);
    assert!(ufs.image_bytes(3000 * 4096, 4096) == data);
    assert_eq!(ufs.device.resize(Some(16 * MIB)).expect("resize").frontend, FrontendKnows::Unchanged);
    assert_eq!(ufs.read(3000, 1, None).0.status().0, 0, "nothing has changed");
    assert!(ufs.device.resize(Some(8 * MIB)).is_err(), "a disk in use never gets smaller");
}

#[test]
fn the_control_socket_knows_the_front() {
    let files = process::Files::new();
    let path = files.path("control");
    let running = process::Running::start(&files, &["--ufs", "--control", path.to_str().expect("a path")]);
    let mut client = Vfio::new(files.connect());
    assert_eq!(client.read(BAR, 8, 4), Ok(vec![0x10, 3, 0, 0]));
    let ctl = |arguments: &[&str]| {
        let mut ctl = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        let output = ctl.arg("ctl").arg("--control").arg(&path).args(arguments).output().expect("ctl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let line = |text: &str, words: &str| {
        let found = text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == words);
        assert!(found, "{words:?} is not in {text}");
    };
    let status = ctl(&["status"]);
    line(&status, "front ufs");
    line(&status, "connected true");
    assert!(ctl(&["resize", "64M"]).contains("the guest's driver finds out with its next request"));
    drop(client);
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
}

/// The file of the guest's memory is cut off under the device: the session ends, and the program says why, lives, and serves the next
/// client.
#[test]
fn memory_that_goes_away_ends_the_session() {
    let files = process::Files::new();
    let running = process::Running::start(&files, &["--ufs", "--sandbox", "require"]);
    for requests in [1u32, u32::MAX] {
        let mut client = Vfio::new(files.connect());
        let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd"));
        memory.set_len(MEMORY_BYTES).expect("memfd");
        client.map(Some(&memory), 0, MEMORY, MEMORY_BYTES).expect("DMA_MAP");
        let mut set = |register, value: u32| client.write(BAR, register, &value.to_le_bytes()).expect("REGION_WRITE");
        // Enabled, link startup, the list's address, run.
        for (register, value) in [(0x34, 3), (0x90, 0x16), (0x50, LIST as u32), (0x60, 1)] {
            set(register, value);
        }
        memory.set_len(0).expect("cut off");
        let doorbell = [&access(BAR, 0x58, 4)[..], &requests.to_le_bytes()].concat();
        client.send(REGION_WRITE, NO_REPLY, &doorbell, &[]);
        assert_eq!(client.stream.read(&mut [0; 16]).expect("the end"), 0);
    }
    let mut client = Vfio::new(files.connect());
    assert_eq!(client.read(BAR, 8, 4), Ok(vec![0x10, 3, 0, 0]));
    drop(client);
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches("part of the guest's memory is missing").count(), 2, "{text}");
}
