// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A UFS host controller that fails on cue, and transfer requests that are cleared or aborted.

mod common;

use std::time::Duration;

use common::process::{Files, Running, wait_for};
use common::ufs::*;
use common::*;

const UNIT_4096: u32 = ENABLE | 8;
const NOT_WRITTEN: u8 = 0xf;

fn fault(ufs: &Ufs, spec: &str) {
    ufs.device.faults().add(spec).expect(spec);
}

/// Rings the doorbell for a read or a write of block 0.
fn begin(ufs: &mut Ufs, slot: u64, lun: u8, write: bool, crypto: Option<(u8, u64)>) {
    prepare(ufs, slot, lun, write, crypto);
    ufs.set(0x58, 1 << slot);
}

fn prepare(ufs: &mut Ufs, slot: u64, lun: u8, write: bool, crypto: Option<(u8, u64)>) {
    let (cdb, direction) = (rw_10(write, 0, 1), if write { 1 } else { 2 });
    let transfer = Transfer { lun, cdb: &cdb, direction, bytes: 4096, crypto };
    ufs.prepare(slot, &Ufs::command_upiu(slot, &transfer), &transfer);
}

#[test]
fn requests_end_with_the_status_that_is_asked_for() {
    let mut ufs = Ufs::new();
    let key = key(1);
    ufs.program(2, &key, UNIT_4096);
    let data = pattern(5, 4096);
    let before = ufs.image_bytes(0, 4096);
    for (name, ocs) in [
        ("communication-failure", 5),
        ("aborted", 6),
        ("fatal-error", 7),
        ("device-fatal-error", 8),
        ("invalid-crypto-config", 9),
        ("general-crypto-error", 10),
    ] {
        fault(&ufs, &format!("ocs={name},op=write,slot=2,count=1"));
        assert_eq!(ufs.write(0, &data, Some((2, 0))).ocs, ocs, "{name}");
        assert!(ufs.image_bytes(0, 4096) == before, "nothing was written");
    }
    assert_eq!(ufs.write(0, &data, Some((2, 0))).ocs, 0);
    assert!(ufs.image_bytes(0, 4096) == openssl_xts(&key, 0, 4096, &data));
    assert_eq!(ufs.stat("events.fault"), 6);
}

/// After each of these the controller answers nothing until it is reset. Then the keys are gone, and all is well.
#[test]
fn a_controller_that_has_failed_waits_for_a_reset() {
    let mut ufs = Ufs::new();
    let (key, data) = (key(1), pattern(5, 4096));
    for (kind, interrupt, link_is_up) in
        [("link-lost", 1 << 8, false), ("link-error", 1 << 2, true), ("crypto-fatal-error", 1 << 18, true)]
    {
        ufs.program(0, &key, UNIT_4096);
        fault(&ufs, &format!("{kind},slot=0,count=1"));
        ufs.set_memory(DATA, &data);
        // Earlier requests have been completed.
        ufs.set(0x20, u32::MAX);
        // With one of the same doorbell that needs no engine.
        let nop = Transfer { lun: 0, cdb: &[0; 6], direction: 0, bytes: 0, crypto: None };
        ufs.prepare(5, &Ufs::command_upiu(5, &nop), &nop);
        prepare(&mut ufs, 3, 0, true, Some((0, 7)));
        ufs.set(0x58, 1 << 3 | 1 << 5);
        assert_eq!(ufs.get(0x20) & (1 << 8 | 1 << 2 | 1 << 18), interrupt, "{kind}");
        assert_eq!(ufs.get(0x30) & 1 == 1, link_is_up, "{kind}");
        let errors = if kind == "link-error" { [0x8000_0010, 0x8000_2000] } else { [0, 0] };
        assert_eq!([ufs.get(0x38), ufs.get(0x3c)], errors, "{kind}");
        assert_eq!([ufs.get(0x38), ufs.get(0x3c)], [0, 0], "reading clears them");
        // Others are not answered either, and no task is managed.
        begin(&mut ufs, 4, 0, false, None);
        ufs.set(0x78, 1);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((ufs.get(0x58), ufs.get(0x78), ufs.get(0x20) & 0x201), (1 << 3 | 1 << 4 | 1 << 5, 1, 0), "{kind}");
        assert_eq!([3, 4, 5].map(|slot| ufs.answer(slot).ocs), [NOT_WRITTEN; 3]);
        ufs.set(0x34, 0);
        assert_eq!((ufs.get(0x58), ufs.get(0x78)), (0, 0));
        ufs.enable();
        assert_eq!(ufs.write(0, &data, Some((0, 7))).ocs, 9, "the key is gone");
        ufs.program(0, &key, UNIT_4096);
        assert_eq!(ufs.write(0, &data, Some((0, 7))).ocs, 0);
        assert!(ufs.image_bytes(0, 4096) == openssl_xts(&key, 7, 4096, &data));
    }
}

#[test]
fn commands_for_the_link_fail() {
    let mut ufs = Ufs::new();
    fault(&ufs, "uic-failure,op=hibernate-enter+hibernate-exit+power-mode,count=3");
    for (command, attribute, interrupt) in [(0x17, 0, 0x40), (0x18, 0, 0x20), (2, 0x1571 << 16, 0x10)] {
        for status in [5, 1] {
            if status == 1 {
                ufs.device.faults().clear(None).expect("clear");
            }
            ufs.set(0x20, u32::MAX);
            ufs.set(0x94, attribute);
            ufs.set(0x9c, 0x22);
            ufs.set(0x90, command);
            assert_eq!((ufs.get(0x20) & 0x470, ufs.get(0x30) >> 8 & 7), (0x400 | interrupt, status), "{command:#x}");
        }
        fault(&ufs, "uic-failure,op=hibernate-exit+power-mode");
    }
    ufs.device.faults().clear(None).expect("clear");
    fault(&ufs, "uic-failure,op=link-startup,count=1");
    ufs.set(0x34, 0);
    ufs.set(0x34, 3);
    assert_eq!((ufs.uic(0x16, 0, 0).0, ufs.get(0x30) & 1), (1, 0), "no link");
    ufs.enable();
    // Requests do not count.
    fault(&ufs, "uic-failure");
    assert_eq!(ufs.write(0, &pattern(1, 4096), None).status().0, 0);
}

/// Clearing or aborting one request leaves the others where they are.
#[test]
fn one_request_is_let_go() {
    let mut options = ufs_options();
    options.more_images = vec![1 << 20];
    let mut ufs = Ufs::with(options);
    ufs.enable();
    fault(&ufs, "stuck,op=read");
    for slot in 0..6 {
        begin(&mut ufs, slot, (slot / 4) as u8, false, None);
    }
    let settle = || std::thread::sleep(Duration::from_millis(60));
    settle();
    assert_eq!(ufs.get(0x58), 0x3f);
    ufs.set(0x5c, !(1 << 2));
    while ufs.get(0x58) & 1 << 2 != 0 {}
    settle();
    assert_eq!(ufs.get(0x58), 0x3b, "cleared: 2");
    // An aborted request is never answered. Its slot is the driver's to clear.
    assert_eq!(ufs.manage(0x80, 0, 1), (0, 8), "it is pending");
    assert_eq!(ufs.manage(0x80, 1, 1), (0, 0), "it is no request of this unit");
    assert_eq!(ufs.manage(0x01, 1, 1), (0, 0), "so it is not aborted");
    assert_eq!(ufs.manage(0x80, 0, 1), (0, 8));
    assert_eq!(ufs.manage(0x01, 0, 1), (0, 0), "aborted: 1");
    assert_eq!(ufs.manage(0x80, 0, 1), (0, 0), "it is not pending any more");
    settle();
    assert_eq!((ufs.get(0x58), ufs.answer(1).ocs), (0x3b, NOT_WRITTEN));
    ufs.set(0x5c, !(1 << 1));
    assert_eq!(ufs.get(0x58), 0x39);
    // A reset of a unit aborts what is on it.
    assert_eq!(ufs.manage(0x08, 1, 0), (0, 0));
    assert_eq!((ufs.manage(0x81, 1, 0), ufs.manage(0x81, 0, 0)), ((0, 0), (0, 8)));
    settle();
    ufs.set(0x5c, !0x30);
    assert_eq!(ufs.get(0x58), 0x09);
    assert_eq!((ufs.get(0x20) & 1, ufs.get(0x64)), (0, 0), "nobody was told of an end");
    // The others go on when the fault is gone.
    ufs.device.faults().clear(None).expect("clear");
    wait_for(|| ufs.get(0x58) == 0);
    assert_eq!((ufs.answer(0).ocs, ufs.answer(3).ocs, ufs.answer(4).ocs), (0, 0, NOT_WRITTEN));
    // A tag is used again.
    for slot in 0..6 {
        begin(&mut ufs, slot, 0, false, None);
        wait_for(|| ufs.get(0x58) == 0);
        assert_eq!(ufs.answer(slot).ocs, 0);
    }
}

#[test]
fn faults_of_one_unit() {
    let mut options = ufs_options();
    options.more_images = vec![1 << 20];
    let mut ufs = Ufs::with(options);
    ufs.enable();
    fault(&ufs, "io-error,op=read,lun=1");
    for (lun, status) in [(0, 0), (1, 2)] {
        assert_eq!(ufs.ask(lun, &rw_10(false, 0, 1), 4096).0.status().0, status, "unit {lun}");
    }
}

/// A device with virtqueues has no such faults, and says so.
#[test]
fn other_devices_refuse_these_faults() {
    let files = Files::new();
    for spec in ["ocs=aborted", "link-lost", "link-error", "crypto-fatal-error", "uic-failure", "stuck,lun=0"] {
        let (code, text) = Running::start(&files, &["--fault", spec]).finish();
        assert_eq!(code, Some(1), "{spec}");
        assert!(text.contains("start the device with --ufs"), "{text}");
    }
    let running = Running::start(&files, &["--ufs", "--fault", "ocs=aborted"]);
    assert_eq!(running.terminate().0, Some(0));
}
