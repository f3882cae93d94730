// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device as an ordinary virtio-blk disk, driven by a real vhost-user frontend.

mod common;

use common::*;
#[test]
fn writes_reach_the_image_and_reads_come_from_it() {
    let mut guest = Guest::new();
    for (queue, sector, sectors) in [(0, 0, 1), (1, 7, 8), (0, 16384 - 1, 1), (1, 100, 5000)] {
        let data = pattern(sector, sectors * SECTOR);
        let answer = guest.request(queue, &write_request(sector, &data), 1);
        answer.assert_only_status(OK);
        assert_eq!(guest.image_bytes(sector * 512, data.len()), data);
        let answer = guest.request(queue, &header(IN, sector), data.len() + 1);
        assert_eq!((answer.status, answer.used as usize), (OK, data.len() + 1));
        assert_eq!(answer.data, data);
    }
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    assert_eq!((guest.stat("requests.in"), guest.stat("requests.out"), guest.stat("requests.flush")), (4, 4, 1));
    assert_eq!(guest.stat("bytes.out"), (1 + 8 + 1 + 5000) * 512);
    assert_eq!(guest.stat("bytes.crypto_out"), 0);
}

#[test]
fn the_serial_number_has_20_bytes() {
    let mut guest = Guest::new();
    let answer = guest.request(0, &header(GET_ID, 0), 21);
    assert_eq!((answer.status, answer.used), (OK, 21));
    assert_eq!(answer.data, b"serial-of-the-test\0\0");
    // With less room a driver gets the beginning, and with more room the whole serial number.
    assert_eq!(guest.request(0, &header(GET_ID, 0), 7).data, b"serial");
    let answer = guest.request(0, &header(GET_ID, 0), 31);
    assert_eq!(answer.used, 21);
    assert_eq!(answer.data[..20], *b"serial-of-the-test\0\0");
    assert!(answer.data[20..].iter().all(|&byte| byte == FILL));
}

#[test]
fn transfers_outside_the_disk_or_not_in_sectors_are_refused() {
    let mut guest = Guest::new();
    let sectors = (8 << 20) / 512;
    for (sector, len) in [
        (sectors, 512),
        (sectors - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX >> 9, 512),
        (1 << 55, 512),
        (0, 100),
        (0, 513),
        (0, (8 << 20) + 512),
    ] {
        guest.request(0, &header(IN, sector), len + 1).assert_only_status(IOERR);
        guest.request(0, &write_request(sector, &vec![1; len]), 1).assert_only_status(IOERR);
    }
    assert!(guest.image_bytes(0, 8 << 20).iter().all(|&byte| byte == 0), "something was written");
}

#[test]
fn blocks_of_4096_bytes() {
    let mut options = Options::default();
    options.config.engine.logical_block_size = 4096;
    options.config.physical_block_size = 16384;
    let mut guest = Guest::with(options);
    guest.request(0, &write_request(8, &pattern(1, 4096)), 1).assert_only_status(OK);
    guest.request(0, &write_request(8, &pattern(1, 512)), 1).assert_only_status(IOERR);
    guest.request(0, &write_request(1, &pattern(1, 4096)), 1).assert_only_status(IOERR);
    let config = guest.get_config(0, 104);
    assert_eq!(config[20..24], 4096u32.to_le_bytes());
    assert_eq!(config[24], 2, "physical block exponent");
    assert_eq!(config[26..28], 4u16.to_le_bytes(), "minimum I/O size in logical blocks");
    assert_eq!(config[44..48], 8u32.to_le_bytes(), "alignment of discards in sectors");
}

#[test]
fn discard_and_write_zeroes() {
    let mut guest = Guest::new();
    let fill = |guest: &mut Guest| {
        guest.request(0, &write_request(0, &[0xff; 64 * SECTOR]), 1).assert_only_status(OK);
    };
    let zero = |guest: &Guest, sector: u64, sectors: usize| {
        guest.image_bytes(sector * 512, sectors * SECTOR).iter().all(|&byte| byte == 0)
    };
    fill(&mut guest);
    let two = [header(DISCARD, 0), range(8, 8, 0), range(32, 8, 0)].concat();
    guest.request(0, &two, 1).assert_only_status(OK);
    assert!(zero(&guest, 8, 8) && zero(&guest, 32, 8));
    assert!(!zero(&guest, 16, 1) && !zero(&guest, 7, 1) && !zero(&guest, 40, 1));
    // An empty range is not worth a request, and not wrong.
    guest.request(0, &[header(DISCARD, 0), range(48, 0, 0), range(16, 8, 0)].concat(), 1).assert_only_status(OK);
    assert!(zero(&guest, 16, 8) && !zero(&guest, 48, 1));

    fill(&mut guest);
    for flags in [0, 1] {
        let request = [header(WRITE_ZEROES, 0), range(1 + u64::from(flags) * 20, 9, flags)].concat();
        guest.request(0, &request, 1).assert_only_status(OK);
    }
    assert!(zero(&guest, 1, 9) && zero(&guest, 21, 9) && !zero(&guest, 10, 11));

    // More than the configuration space allows, which is one range of 64 MiB.
    let twice = [header(WRITE_ZEROES, 0), range(0, 1, 0), range(1, 1, 0)].concat();
    guest.request(0, &twice, 1).assert_only_status(IOERR);
    guest.request(0, &[header(WRITE_ZEROES, 0), range(0, (1 << 17) + 1, 0)].concat(), 1).assert_only_status(IOERR);

    // If one range is wrong, the device changes nothing.
    fill(&mut guest);
    let end = (8 << 20) / 512;
    for (request_type, bad, status) in [
        (DISCARD, range(end, 1, 0), IOERR),
        (DISCARD, range(u64::MAX, 1, 0), IOERR),
        (DISCARD, range(0, u32::MAX, 0), IOERR),
        (DISCARD, range(0, 1, 1), UNSUPP),
        (DISCARD, range(0, 1, 2), UNSUPP),
        (DISCARD, range(end - 1, 2, 0), IOERR),
        (DISCARD, vec![0; 15], IOERR),
        (DISCARD, vec![0; 17], IOERR),
        (DISCARD, range(0, 1, 0).repeat(100), IOERR),
    ] {
        let request = [header(request_type, 0), range(0, 8, 0), bad].concat();
        guest.request(0, &request, 1).assert_only_status(status);
        assert!(!zero(&guest, 0, 1));
    }
    guest.request(0, &header(DISCARD, 0), 1).assert_only_status(IOERR);
    guest.request(0, &[header(WRITE_ZEROES, 0), range(end - 1, 2, 0)].concat(), 1).assert_only_status(IOERR);
    guest.request(0, &[header(WRITE_ZEROES, 0), range(0, 1, 2)].concat(), 1).assert_only_status(UNSUPP);
    assert!(!zero(&guest, 0, 1));
    // The image is a file, where the device cannot erase all copies.
    assert_eq!(guest.features & feature::SECURE_ERASE, 0);
    guest.request(0, &[header(SECURE_ERASE, 0), range(0, 8, 0)].concat(), 1).assert_only_status(UNSUPP);
}

/// Linux cuts its requests to the sizes in the configuration space.
#[test]
fn ranges_of_the_announced_size_and_no_more() {
    let mut guest = Guest::with(Options { image_bytes: (2 << 30) + (1 << 20), ..Options::default() });
    let config = guest.get_config(0, 104);
    let announced = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| config[at + i]));
    // max_discard_sectors and max_write_zeroes_sectors
    for (request_type, most, flags) in [(DISCARD, announced(36), 0), (WRITE_ZEROES, announced(48), 1)] {
        assert!(most == if request_type == DISCARD { 1 << 22 } else { 1 << 17 });
        for (sectors, status) in [(most, OK), (most + 1, IOERR)] {
            let request = [header(request_type, 0), range(0, sectors, flags)].concat();
            guest.request(0, &request, 1).assert_only_status(status);
        }
    }
}

#[test]
fn discard_that_was_not_negotiated_is_unsupported() {
    let accept = !feature::DISCARD & !feature::WRITE_ZEROES;
    let mut guest = Guest::with(Options { accept, ..Options::default() });
    guest.request(0, &[header(DISCARD, 0), range(0, 8, 0)].concat(), 1).assert_only_status(UNSUPP);
    guest.request(0, &[header(WRITE_ZEROES, 0), range(0, 8, 0)].concat(), 1).assert_only_status(UNSUPP);
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let mut guest = Guest::with(Options { read_only: true, ..Options::default() });
    assert_ne!(guest.features & feature::RO, 0);
    guest.request(0, &header(IN, 0), 513).assert_status(OK);
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(IOERR);
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    assert_eq!(guest.features & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    let config = guest.get_config(0, 104);
    assert!(config[36..44].iter().chain(&config[48..56]).all(|&byte| byte == 0), "no limits of what is not offered");
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 12).bytes(), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 4096]), 1).assert_only_status(IOERR);
    assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
}

#[test]
fn unknown_types_are_unsupported() {
    let mut guest = Guest::new();
    for request_type in [2, 3, 5, 7, 9, 10, 12, 15, 24, 26, 36, 100, 0x1ce00, u32::MAX] {
        guest.request(0, &header(request_type, 0), 513).assert_only_status(UNSUPP);
    }
}

#[test]
fn the_configuration_space() {
    let mut guest = Guest::new();
    let config = guest.get_config(0, 104);
    assert_eq!(config[0..8], 16384u64.to_le_bytes(), "capacity");
    assert_eq!(config[12..16], 253u32.to_le_bytes(), "seg_max");
    assert_eq!(config[20..24], 512u32.to_le_bytes(), "blk_size");
    assert_eq!(config[32], 1, "writeback");
    assert_eq!(config[34..36], 2u16.to_le_bytes(), "num_queues");
    assert_ne!(guest.features & feature::DISCARD, 0);
    let words: [u32; 5] =
        std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|at| config[36 + 4 * i + at])));
    assert_eq!(words, [1 << 22, 64, 1, 1 << 17, 1], "discard: sectors, ranges, alignment; write zeroes");
    assert_eq!(config[56..60], [1, 0, 0, 0], "write zeroes may unmap");
    assert_eq!(config[60..72], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], "no secure erase");
    assert!(config[72..96].iter().all(|&byte| byte == 0), "not zoned");
    assert_eq!(config[96..104], [4, 0, 16, 1, 0, 0, 0, 0], "keyslots, DUN bytes, key types");
    // Reads at an offset and across the end: what exists, then zeroes.
    assert_eq!(guest.get_config(96, 8), config[96..104]);
    let long = guest.get_config(0, 256);
    assert_eq!(long[..104], config);
    assert!(long[104..].iter().all(|&byte| byte == 0));
    // A read that begins past the end is an error: see `frontends`.
    assert_eq!(guest.get_config(100, 8), [0; 8]);
}

#[test]
fn the_driver_is_told_to_use_its_dma_api() {
    use vhost_user_blk_crypto::device::DeviceConfig;
    for access_platform in [false, true] {
        let config = DeviceConfig { access_platform, ..Options::default().config };
        let mut guest = Guest::with(Options { config, ..Options::default() });
        // VIRTIO_F_ACCESS_PLATFORM
        assert_eq!(guest.features >> 33 & 1 == 1, access_platform);
        guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    }
}

/// The device syncs the image at each FLUSH, and at every change if the guest does not flush.
#[test]
fn durable_when_it_must_be() {
    use vhost_user_blk_crypto::device::DeviceConfig;
    let changes = [
        write_request(0, &[1; 512]),
        [header(DISCARD, 0), range(8, 8, 0)].concat(),
        [header(WRITE_ZEROES, 0), range(16, 8, 0)].concat(),
    ];
    let through = DeviceConfig { writeback: false, ..Options::default().config };
    for (options, each) in [
        (Options::default(), 0),
        (Options { config: through, ..Options::default() }, 1),
        (Options { accept: !feature::FLUSH, ..Options::default() }, 1),
    ] {
        let mut guest = Guest::with(options);
        for change in &changes {
            let before = guest.stat("events.flush");
            guest.request(0, change, 1).assert_only_status(OK);
            assert_eq!(guest.stat("events.flush") - before, each);
        }
        let before = guest.stat("events.flush");
        guest.request(0, &header(IN, 0), 513).assert_status(OK);
        assert_eq!(guest.stat("events.flush"), before);
        guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
        assert_eq!(guest.stat("events.flush"), before + 1);
    }
    // Switching to write-through syncs earlier writes.
    let mut guest = Guest::new();
    guest.request(0, &changes[0], 1).assert_only_status(OK);
    guest.set_config(32, &[0]);
    assert_eq!(guest.get_config(32, 1), [0]);
    assert_eq!(guest.stat("events.flush"), 1);
    guest.request(0, &changes[0], 1).assert_only_status(OK);
    assert_eq!(guest.stat("events.flush"), 2);
}

#[test]
fn the_driver_switches_the_cache_mode() {
    let mut guest = Guest::new();
    guest.set_config(32, &[0]);
    assert_eq!(guest.get_config(32, 1), [0]);
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
    // Some frontends write the whole space. Only the one field has an effect.
    let mut config = guest.get_config(0, 104);
    config[32] = 1;
    config[0] = 99;
    guest.set_config(0, &config);
    assert_eq!(guest.get_config(32, 1), [1]);
    assert_eq!(guest.get_config(0, 8), 16384u64.to_le_bytes());
    // Not without the feature, and not after a reset.
    guest.set_config(32, &[0]);
    guest.reset();
    assert_eq!(guest.get_config(32, 1), [1]);
    // Before the features are known, the driver may be allowed to write it.
    guest.set_config(32, &[0]);
    guest.features &= !feature::CONFIG_WCE;
    guest.set_features_again();
    assert_eq!(guest.get_config(32, 1), [1]);
    guest.set_config(32, &[0]);
    assert_eq!(guest.get_config(32, 1), [1]);
    // A driver that accepts no feature at all may not write it either.
    guest.features = 0;
    guest.set_features_again();
    guest.set_config(32, &[0]);
    assert_eq!(guest.get_config(32, 1), [1]);
}

trait AssertStatus {
    fn assert_status(&self, status: u8);
}

impl AssertStatus for Answer {
    fn assert_status(&self, status: u8) {
        assert_eq!(self.status, status, "{self:?}");
    }
}
