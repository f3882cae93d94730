// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The UFS host controller, as a driver sees it: registers, queries, SCSI, and keys that are checked against OpenSSL.

mod common;

use common::ufs::*;
use common::*;

/// Data units of 4096 bytes.
const UNIT_4096: u32 = ENABLE | 8;
const SUCCESS: u8 = 0;
const INVALID_CRYPTO: u8 = 9;
const GENERAL_CRYPTO: u8 = 10;

#[test]
fn registers_are_those_of_ufshci_3_1() {
    let mut ufs = Ufs::with(ufs_options());
    assert_eq!(ufs.get(0x08), 0x310);
    // 32 transfer requests, 8 task management requests, 64-bit addresses, crypto.
    assert_eq!(ufs.get(0x00), 31 | 7 << 16 | 1 << 24 | 1 << 28);
    // One capability, 4 keyslots, the array at 0x1000; AES-XTS with 256 bits, 512 to 65536 bytes.
    assert_eq!((ufs.get(0x100), ufs.get(0x104)), (1 | 3 << 8 | 0x10 << 24, 0xff << 8 | 3 << 16));
    // Disabled: nothing can be written but this and keys.
    ufs.set(0x24, u32::MAX);
    ufs.set(0x58, 1);
    assert_eq!((ufs.get(0x24), ufs.get(0x58), ufs.get(0x30)), (0, 0, 0));
    ufs.enable();
    assert_eq!((ufs.get(0x50), ufs.get(0x60), ufs.get(0x24)), (LIST as u32, 1, 0x20201));
    // Any width can be read.
    assert_eq!(ufs.client.read(BAR, 0x09, 1), Ok(vec![3]));
    assert_eq!(ufs.client.read(BAR, 0x06, 8), Ok(vec![0, 0, 0x10, 3, 0, 0, 0, 0]));
    assert_eq!(ufs.uic(0x01, 0x1581, 0), (0, 2), "two lanes");
    assert_eq!(ufs.uic(0x03, 0x1587, 0), (0, 4), "gear 4 of the peer");
    assert_eq!(ufs.uic(0x01, 0x7777, 5), (1, 5), "no such attribute");
    assert_eq!(ufs.uic(0x99, 0, 0).0, 1, "no such command");
    ufs.set(0x94, 0x1571 << 16);
    ufs.set(0x9c, 0x11);
    ufs.set(0x90, 2);
    assert_eq!((ufs.get(0x20) & 0x410, ufs.get(0x30) >> 8 & 7), (0x410, 1), "the power mode has changed");
    for command in [0x17, 0x18] {
        ufs.set(0x90, command);
        assert_ne!(ufs.get(0x20) & 0x60, 0, "hibernation");
    }
    ufs.set(0x34, 0);
    assert_eq!((ufs.get(0x34), ufs.get(0x30), ufs.get(0x24), ufs.get(0x50)), (0, 0, 0, 0));
}

#[test]
fn queries() {
    let mut ufs = Ufs::new();
    for (idn, index, len) in [(0, 0, 89), (2, 0, 45), (2, 0xc4, 35), (4, 0, 6), (7, 0, 87), (8, 0, 98), (9, 0, 37)] {
        let (response, _, data) = ufs.query(1, idn, index, 0);
        assert_eq!((response, data.len(), data[0], data[1]), (0, len, len as u8, idn), "descriptor {idn}");
    }
    let (_, _, unit) = ufs.query(1, 2, 0, 0);
    assert_eq!((unit[10], &unit[11..19]), (12, &2048u64.to_be_bytes()[..]));
    let (_, _, serial) = ufs.query(1, 5, 3, 0);
    let text: String = serial[2..].chunks(2).map(|unit| char::from(unit[1])).collect();
    assert_eq!(text, "serial-of-the-test");
    assert_eq!((ufs.query(1, 2, 1, 0).0, ufs.query(1, 77, 0, 0).0, ufs.query(99, 0, 0, 0).0), (0xfc, 0xfd, 0xfe));
    // fDeviceInit is cleared by the device; background operations are the driver's choice.
    assert_eq!((ufs.query(6, 1, 0, 0).0, ufs.query(5, 1, 0, 0).1), (0, 0));
    assert_eq!((ufs.query(7, 4, 0, 0).0, ufs.query(5, 4, 0, 0).1), (0, 0));
    assert_eq!((ufs.query(4, 3, 0, 9).0, ufs.query(3, 3, 0, 0).1), (0, 9));
    assert_eq!(ufs.query(4, 2, 0, 9).0, 0xf7, "not writable");
}

#[test]
fn scsi_commands_that_move_no_blocks() {
    let mut ufs = Ufs::new();
    assert_eq!(ufs.ask(0, &[0; 6], 0).0.status().0, 0);
    let (answer, inquiry) = ufs.ask(0, &[0x12, 0, 0, 0, 36, 0], 36);
    assert_eq!((answer.ocs, inquiry[0], &inquiry[8..16]), (0, 0, &b"VUBC    "[..]));
    // Less than was expected.
    let (answer, _) = ufs.ask(0, &[0x12, 0, 0, 0, 255, 0], 255);
    assert_eq!((answer.upiu[1], &answer.upiu[12..16]), (0x20, &219u32.to_be_bytes()[..]));
    for (lun, kind) in [(0x81, 0x1e), (0xd0, 0x1e), (0xc4, 0x1e), (0xb0, 0x1e), (1, 0x7f), (0x7f, 0x7f)] {
        assert_eq!(ufs.ask(lun, &[0x12, 0, 0, 0, 36, 0], 36).1[0], kind, "{lun:#x}");
    }
    let (_, pages) = ufs.ask(0, &[0x12, 1, 0, 0, 64, 0], 64);
    assert_eq!(pages[..10], [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for page in &pages[4..10] {
        let (answer, data) = ufs.ask(0, &[0x12, 1, *page, 0, 64, 0], 64);
        assert_eq!((answer.status().0, data[1]), (0, *page));
    }
    assert_eq!(ufs.ask(0, &[0x12, 1, 0xb3, 0, 64, 0], 64).0.status(), (2, 5, 0x24));
    assert_eq!(ufs.ask(0, &[0x25], 8).1, [0, 0, 7, 0xff, 0, 0, 0x10, 0]);
    let (_, capacity) = ufs.ask(0, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], 32);
    assert_eq!(capacity[..12], [0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 0x10, 0]);
    let (_, mode) = ufs.ask(0, &[0x5a, 8, 8, 0, 0, 0, 0, 0, 64], 64);
    assert_eq!((mode[3], mode[8], mode[10]), (0x10, 8, 4), "writable, with a write cache");
    let (_, luns) = ufs.ask(0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16], 16);
    assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ufs.ask(0xd0, &[0x1b, 0, 0, 0, 0x20], 0).0.status().0, 0, "sleep");
    assert_eq!(ufs.ask(0, &[0x35], 0).0.status().0, 0);
    assert_eq!(ufs.ask(0, &[0xff], 0).0.status(), (2, 5, 0x20));
    assert_eq!(ufs.ask(3, &[0; 6], 0).0.status(), (2, 5, 0x25), "no such unit");
    assert_eq!(ufs.ask(0xd0, &[0x28], 0).0.status(), (2, 5, 0x20), "no blocks there");
}

#[test]
fn plain_data() {
    let mut ufs = Ufs::new();
    let data = pattern(1, 5 * 4096);
    assert_eq!(ufs.write(10, &data, None).status().0, 0);
    assert!(ufs.image_bytes(10 * 4096, data.len()) == data);
    ufs.set_memory(DATA, &vec![0; data.len()]);
    let (answer, read) = ufs.read(10, 5, None);
    assert!(answer.ocs == SUCCESS && answer.status().0 == 0 && read == data);
    assert_eq!(ufs.read(2047, 2, None).0.status(), (2, 5, 0x21), "past the end");
    assert_eq!(ufs.read(u32::MAX, 1, None).0.status(), (2, 5, 0x21));
    // UNMAP of blocks 11 and 12.
    let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &11u64.to_be_bytes(), &2u32.to_be_bytes(), &[0; 4]].concat();
    ufs.set_memory(DATA, &list);
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24];
    let unmap = Transfer { lun: 0, cdb: &cdb, direction: 1, bytes: 24, crypto: None };
    assert_eq!(ufs.command(&unmap).status().0, 0);
    let expected = [&data[..4096], &[0; 2 * 4096], &data[3 * 4096..]].concat();
    assert!(ufs.image_bytes(10 * 4096, data.len()) == expected);
}

/// Page B0h of the vital product data says how much one UNMAP may free, all ranges together.
#[test]
fn unmap_has_a_limit() {
    let mut ufs = Ufs::with(Options { image_bytes: 64 << 20, ..ufs_options() });
    ufs.enable();
    let data = pattern(1, 4096);
    assert_eq!(ufs.write(10, &data, None).status().0, 0);
    for (ranges, status) in [(33, (2, 5, 0x26)), (32, (0, 0, 0))] {
        let bytes = 16 * ranges + 8;
        let range = [&0u64.to_be_bytes()[..], &(16384u32).to_be_bytes(), &[0; 4]].concat();
        let list = [&(bytes as u16 - 2).to_be_bytes()[..], &(bytes as u16 - 8).to_be_bytes(), &[0; 4]].concat();
        ufs.set_memory(DATA, &[list, range.repeat(ranges)].concat());
        let mut cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[7..9].copy_from_slice(&(bytes as u16).to_be_bytes());
        let unmap = Transfer { lun: 0, cdb: &cdb, direction: 1, bytes: bytes as u32, crypto: None };
        assert_eq!(ufs.command(&unmap).status(), status, "{ranges} ranges of 64 MiB");
        assert_eq!(ufs.image_bytes(10 * 4096, 4096) == data, status.0 == 2);
    }
}

#[test]
fn what_is_on_the_image_is_what_openssl_makes_of_it() {
    let mut ufs = Ufs::new();
    for (slot, unit_bits) in [(0u8, 12), (3, 9), (1, 14)] {
        let key = key(slot.into());
        ufs.program(slot.into(), &key, ENABLE | 1 << (unit_bits - 9));
        let data = pattern(slot.into(), 16 * 4096);
        // The upper half counts, too.
        let dun = 0xffff_fff0_u64 + 0x7_0000_0000 * u64::from(slot);
        let answer = ufs.write(64, &data, Some((slot, dun)));
        assert_eq!((answer.ocs, answer.status().0), (SUCCESS, 0));
        let expected = openssl_xts(&key, dun.into(), 1 << unit_bits, &data);
        assert!(ufs.image_bytes(64 * 4096, data.len()) == expected, "slot {slot}");
        ufs.set_memory(DATA, &vec![0; data.len()]);
        let (answer, read) = ufs.read(64, 16, Some((slot, dun)));
        assert!(answer.ocs == SUCCESS && read == data);
    }
    assert_eq!((ufs.stat("keyslots.program"), ufs.stat("requests.crypto_out")), (3, 3));
}

#[test]
fn a_request_without_a_key_is_an_invalid_crypto_configuration() {
    let mut ufs = Ufs::new();
    let before = ufs.image_bytes(0, 4096);
    let data = pattern(5, 4096);
    for slot in [0, 3, 4, 255] {
        assert_eq!(ufs.write(0, &data, Some((slot, 0))).ocs, INVALID_CRYPTO, "slot {slot}");
    }
    let key = key(1);
    ufs.program(1, &key, UNIT_4096);
    assert_eq!(ufs.write(0, &data, Some((1, 0))).ocs, SUCCESS);
    ufs.set(0x10c0, 0);
    assert_eq!(ufs.write(1, &data, Some((1, 0))).ocs, INVALID_CRYPTO, "disabled");
    ufs.program(1, &key, UNIT_4096);
    // Data units are larger than the request, or the data unit numbers wrap around.
    ufs.program(2, &key, ENABLE | 16);
    assert_eq!(ufs.write(1, &data, Some((2, 0))).ocs, GENERAL_CRYPTO);
    let two = pattern(6, 8192);
    assert_eq!(ufs.write(1, &two, Some((1, u64::MAX))).ocs, GENERAL_CRYPTO);
    assert_eq!(ufs.write(1, &data, Some((1, u64::MAX))).ocs, SUCCESS);
    ufs.evict(1);
    assert_eq!(ufs.write(1, &data, Some((1, 0))).ocs, INVALID_CRYPTO);
    // The second evict is for a slot that was disabled already.
    assert_eq!(ufs.stat("keyslots.evict"), 2);
    // Crypto is switched off as a whole.
    ufs.set(0x34, 1);
    assert_eq!(ufs.write(1, &data, Some((2, 0))).ocs, INVALID_CRYPTO);
    assert_eq!((ufs.stat("keyslots.nokey"), ufs.stat("requests.refused")), (7, 0));
    assert!(ufs.image_bytes(0, 4096) != before && ufs.image_bytes(8192, 4096) == before);
}

/// A reset empties all slots, and keys may be programmed before the controller is enabled again, as Linux does.
#[test]
fn keys_are_gone_after_a_reset() {
    let data = pattern(5, 4096);
    for function in [false, true] {
        let mut ufs = Ufs::new();
        let keys = [key(1), key(2)];
        ufs.program(0, &keys[0], UNIT_4096);
        ufs.program(1, &keys[1], UNIT_4096);
        if function {
            ufs.client.ask(vfio::RESET, &[], &[]).expect("DEVICE_RESET");
        } else {
            ufs.set(0x34, 0);
        }
        assert_eq!(ufs.get(0x1040), 0);
        ufs.program(1, &keys[1], UNIT_4096);
        ufs.enable();
        assert_eq!(ufs.write(0, &data, Some((0, 0))).ocs, INVALID_CRYPTO);
        assert_eq!(ufs.write(0, &data, Some((1, 0))).ocs, SUCCESS);
        assert!(ufs.image_bytes(0, 4096) == openssl_xts(&keys[1], 0, 4096, &data));
    }
}

/// The request has the key that the slot held at the doorbell, whatever is written to the slot after it.
#[test]
fn the_key_is_taken_at_the_doorbell() {
    let mut options = ufs_options();
    options.config.engine.timing.crypto_latency = std::time::Duration::from_millis(500);
    let mut ufs = Ufs::with(options);
    ufs.enable();
    let (old, new) = (key(1), key(2));
    ufs.program(0, &old, UNIT_4096);
    let data = pattern(5, 4096);
    ufs.set_memory(DATA, &data);
    let cdb = rw_10(true, 0, 1);
    let transfer = Transfer { lun: 0, cdb: &cdb, direction: 1, bytes: 4096, crypto: Some((0, 7)) };
    ufs.prepare(5, &Ufs::command_upiu(5, &transfer), &transfer);
    ufs.set(0x58, 1 << 5);
    assert_eq!(ufs.get(0x58), 1 << 5, "it takes its time");
    ufs.program(0, &new, UNIT_4096);
    while ufs.get(0x58) != 0 {}
    assert_eq!(ufs.answer(5).ocs, SUCCESS);
    assert!(ufs.image_bytes(0, 4096) == openssl_xts(&old, 7, 4096, &data));
    assert_eq!(ufs.write(0, &data, Some((0, 7))).ocs, SUCCESS);
    assert!(ufs.image_bytes(0, 4096) == openssl_xts(&new, 7, 4096, &data));
}

/// Keys can be written but never read: a read of a slot returns no key.
#[test]
fn keys_cannot_be_read() {
    let mut ufs = Ufs::new();
    ufs.program(2, &[0xa5; 64], UNIT_4096);
    for offset in (0x1000..0x1200).step_by(4) {
        assert_eq!(ufs.get(offset), if offset == 0x1140 { UNIT_4096 } else { 0 }, "{offset:#x}");
    }
}

#[test]
fn descriptors_that_lie() {
    let mut ufs = Ufs::new();
    let cdb = rw_10(false, 0, 4);
    let transfer = Transfer { lun: 0, cdb: &cdb, direction: 2, bytes: 16384, crypto: None };
    let upiu = Ufs::command_upiu(0, &transfer);
    let descriptor = |ufs: &mut Ufs, at: u64, bytes: &[u8]| {
        ufs.prepare(0, &upiu, &transfer);
        ufs.set_memory(LIST + at, bytes);
        ufs.ring(0).ocs
    };
    assert_eq!(descriptor(&mut ufs, 3, &[0x15]), SUCCESS);
    assert_eq!(descriptor(&mut ufs, 3, &[0x25]), 1, "command type");
    assert_eq!(descriptor(&mut ufs, 3, &[0x13]), 1, "data direction");
    assert_eq!(descriptor(&mut ufs, 16, &[0xff; 8]), 1, "a command descriptor beyond all memory");
    assert_eq!(descriptor(&mut ufs, 16, &0u64.to_le_bytes()), 1);
    assert_eq!(descriptor(&mut ufs, 24, &[1, 0]), 4, "no room for a response");
    assert_eq!(descriptor(&mut ufs, 28, &[0, 0]), 3, "no data");
    assert_eq!(descriptor(&mut ufs, 28, &[1, 0]), 3, "too little data");
    assert_eq!(descriptor(&mut ufs, 28, &[0xff, 0xff]), 2, "too many entries");
    for entry in [[0xff; 16], [0; 16], [0; 16]] {
        ufs.prepare(0, &upiu, &transfer);
        // The table of slot 0.
        ufs.set_memory(MEMORY + 0x10400, &entry);
        assert_eq!(ufs.ring(0).ocs, 2);
    }
    // An unknown UPIU, and one whose length is not the command's.
    for (at, value, ocs) in [(0, 0x3f, 1), (15, 1, 3)] {
        let mut upiu = upiu.clone();
        upiu[at] = value;
        if at == 15 {
            upiu[12..16].copy_from_slice(&1u32.to_be_bytes());
        }
        ufs.prepare(0, &upiu, &transfer);
        assert_eq!(ufs.ring(0).ocs, ocs);
    }
    // Those of them that are reads, and of which the controller sees that.
    assert_eq!(ufs.stat("requests.refused"), 8);
    assert_eq!(ufs.read(u32::MAX, 1, None).0.status(), (2, 5, 0x21), "out of range");
    assert_eq!(ufs.stat("requests.refused"), 9);
    // All slots at once, and those that are there already.
    for slot in 0..32 {
        ufs.prepare(slot, &Ufs::command_upiu(slot, &transfer), &transfer);
    }
    ufs.set(0x58, u32::MAX);
    while ufs.get(0x58) != 0 {}
    assert!((0..32).all(|slot| ufs.answer(slot).ocs == SUCCESS));
}

#[test]
fn the_list_may_be_nowhere() {
    let mut ufs = Ufs::new();
    for (lower, upper) in [(0, 0), (u32::MAX, u32::MAX), (0, 1 << 30)] {
        ufs.set(0x50, lower);
        ufs.set(0x54, upper);
        ufs.set(0x70, lower);
        ufs.set(0x74, upper);
        ufs.set(0x58, u32::MAX);
        ufs.set(0x78, u32::MAX);
        assert_eq!(ufs.get(0x20) >> 17 & 1, 1, "system bus fatal error");
        assert_eq!(ufs.get(0x58), u32::MAX, "the controller cannot report that they are done");
        ufs.set(0x5c, 0);
        assert_eq!(ufs.get(0x58), 0, "the driver can clear them");
        ufs.set(0x34, 0);
        ufs.enable();
        assert_eq!(ufs.ask(0, &[0; 6], 0).0.ocs, SUCCESS);
    }
}

/// A request that is never answered: a driver asks for it, aborts it, and clears its slot.
#[test]
fn a_request_that_is_stuck_can_be_cleared() {
    let mut ufs = Ufs::new();
    ufs.device.faults().add("stuck,op=read").expect("fault");
    let cdb = rw_10(false, 0, 1);
    let transfer = Transfer { lun: 0, cdb: &cdb, direction: 2, bytes: 4096, crypto: None };
    ufs.prepare(9, &Ufs::command_upiu(9, &transfer), &transfer);
    ufs.set(0x58, 1 << 9);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(ufs.get(0x58), 1 << 9);
    assert_eq!(ufs.manage(0x80, 0, 9), (0, 8), "it is pending");
    assert_eq!(ufs.manage(0x80, 0, 8), (0, 0), "this one is not");
    assert_eq!(ufs.manage(0x80, 5, 9), (0, 9), "no such unit");
    assert_eq!(ufs.manage(0x77, 0, 9), (0, 4), "no such function");
    ufs.set(0x5c, !(1 << 9));
    while ufs.get(0x58) != 0 {}
    assert_eq!((ufs.answer(9).ocs, ufs.get(0x20) & 1), (0xf, 0), "the controller reported no completion");
    // A reset of the controller does not wait for it either.
    ufs.prepare(9, &Ufs::command_upiu(9, &transfer), &transfer);
    ufs.set(0x58, 1 << 9);
    ufs.set(0x34, 0);
    ufs.device.faults().clear(None).expect("clear");
    ufs.enable();
    assert_eq!(ufs.read(0, 1, None).0.status().0, 0);
}

#[test]
fn a_disk_that_cannot_be_written() {
    let mut options = ufs_options();
    options.read_only = true;
    let mut ufs = Ufs::with(options);
    ufs.enable();
    assert_eq!(ufs.write(0, &pattern(1, 4096), None).status(), (2, 7, 0x27));
    assert_eq!(ufs.read(0, 1, None).0.status().0, 0);
    assert_eq!(ufs.ask(0, &[0x5a, 8, 8, 0, 0, 0, 0, 0, 64], 64).1[3], 0x90);
}

/// A fault of the engine becomes a medium error, as on a SCSI disk.
#[test]
fn faults_are_the_engines() {
    let mut ufs = Ufs::new();
    ufs.device.faults().add("io-error,op=write").expect("fault");
    assert_eq!(ufs.write(0, &pattern(1, 4096), None).status(), (2, 3, 0x0c));
    ufs.device.faults().clear(None).expect("clear");
    assert_eq!(ufs.write(0, &pattern(1, 4096), None).status().0, 0);
}

/// Registers, lists, descriptors and tables at random: the controller answers all the time, and works after a reset.
#[test]
fn a_driver_that_writes_at_random() {
    let mut options = ufs_options();
    options.config.engine.keyslots = 2;
    let mut ufs = Ufs::with(options);
    ufs.enable();
    let mut random = machine::random(42);
    let registers: Vec<u64> = (0..0xa0).chain(0x100..0x110).chain(0x1000..0x1180).step_by(4).collect();
    let values = [0, 1, 3, 0x12, 0x3ff, 1 << 31, u32::MAX, MEMORY as u32, DATA as u32, ENABLE | 8, 0x155e_0000];
    for round in 0..20_000 {
        let value = match random(3) {
            0 => random(1 << 32) as u32,
            _ => values[random(values.len() as u64) as usize],
        };
        match random(8) {
            0 => ufs.set_memory(MEMORY + 4 * random(0x20_0000 / 4), &value.to_le_bytes()),
            1 => {
                // A request that is right but for one word.
                let slot = random(32);
                let cdb = rw_10(random(2) == 0, random(4000) as u32, random(300) as u16);
                let direction = random(4) as u8 % 3;
                let bytes = random(2 << 20) as u32;
                let crypto = (random(2) == 0).then(|| (random(4) as u8, random(u64::MAX)));
                let transfer = Transfer { lun: 0, cdb: &cdb, direction, bytes, crypto };
                ufs.prepare(slot, &Ufs::command_upiu(slot, &transfer), &transfer);
                ufs.set_memory(LIST + 32 * slot + 4 * random(8), &value.to_le_bytes());
                ufs.set(0x58, 1 << slot);
            }
            2 => {
                ufs.get(registers[random(registers.len() as u64) as usize]);
            }
            3 => {
                let len = 1 + random(8) as usize;
                let _ = ufs.client.write(BAR, random(0x10000), &vec![value as u8; len]);
            }
            _ => ufs.set(registers[random(registers.len() as u64) as usize], value),
        }
        if round % 500 == 0 {
            ufs.set(0x34, 0);
            ufs.enable();
        }
    }
    ufs.set(0x34, 0);
    ufs.enable();
    let (key, data) = (key(1), pattern(5, 4096));
    ufs.program(1, &key, UNIT_4096);
    assert_eq!(ufs.write(0, &data, Some((1, 7))).ocs, SUCCESS);
    assert!(ufs.image_bytes(0, 4096) == openssl_xts(&key, 7, 4096, &data));
}
