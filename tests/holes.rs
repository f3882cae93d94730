// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reading does not allocate: a hole in an image stays a hole. The host's count of blocks shows it, independently of
//! the device.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use common::*;
use vhost_user_blk_crypto::disk::Aio;

/// A unique size, so that the test can find the memory disk among the open files. Its end is within a block.
const DISK: u64 = (3 << 20) + 4096 + 512;
const SECTORS: u64 = DISK / 512;

/// The image's file. A memory disk's is found among the descriptors of this process.
fn host_file(guest: &Guest, disk: DiskKind) -> File {
    if disk != DiskKind::Memory {
        return guest.image.try_clone().expect("image");
    }
    let is_the_disk = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|name| name.to_string_lossy().starts_with("/memfd:image"))
            && std::fs::metadata(path).is_ok_and(|file| file.len() == DISK)
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    let path = descriptors.map(|entry| entry.expect("descriptor").path()).find(is_the_disk).expect("the memory disk");
    File::open(path).expect("the memory disk")
}

fn allocated(file: &File) -> u64 {
    file.metadata().expect("image").blocks()
}

/// Reads the whole disk, in requests of this many sectors, plain and encrypted in turn.
fn read_all(guest: &mut Guest, sectors: u64, mut expect: impl FnMut(u64, &[u8])) {
    for (number, sector) in (0..SECTORS).step_by(sectors as usize).enumerate() {
        let len = sectors.min(SECTORS - sector) as usize * 512;
        let answer = guest.request(number % 2, &header(IN, sector), len + 1);
        assert_eq!(answer.status, OK);
        expect(sector, &answer.data);
        let answer = guest.request(number % 2, &crypto_header(CRYPTO_IN, sector, 0, [sector, 0, 0, 0]), len + 1);
        assert_eq!(answer.status, OK);
    }
}

fn reading_changes_nothing(disk: DiskKind) {
    let mut guest = Guest::with(Options { disk, image_bytes: DISK, ring_size: 256, ..Options::default() });
    let control = guest.control();
    guest.request(control, &Program::new(0, &[7; 64], 9).bytes(), 1).assert_only_status(OK);
    let file = host_file(&guest, disk);
    assert_eq!(allocated(&file), 0, "{disk:?}");
    // Less than a page, no multiple of a page, a block of the device's bitmap, and longer than its bounce buffers.
    let sizes = [7, 8, 128, 1500, SECTORS];
    for sectors in sizes {
        read_all(&mut guest, sectors, |_, data| assert!(data.iter().all(|&byte| byte == 0)));
        assert_eq!(allocated(&file), 0, "{disk:?}, reading {sectors} sectors at a time");
    }

    // The guest writes blocks with a hole and some without, more than once: only then are they written in place.
    let mut expected = vec![0; DISK as usize];
    for (sector, sectors) in [(8, 8), (256, 256), (640, 127), (5000, 1), (SECTORS - 1, 1)] {
        for seed in 0..4 {
            let data = pattern(sector + seed, sectors as usize * 512);
            guest.request(0, &write_request(sector, &data), 1).assert_only_status(OK);
            expected[sector as usize * 512..][..data.len()].copy_from_slice(&data);
        }
    }
    let written = allocated(&file);
    assert!(written > 0 && written < 520, "{disk:?}: {written}");
    for sectors in sizes {
        read_all(&mut guest, sectors, |sector, data| {
            assert!(data == &expected[sector as usize * 512..][..data.len()], "{disk:?} at {sector}");
        });
        assert_eq!(allocated(&file), written, "{disk:?}, reading {sectors} sectors at a time");
    }

    // Zeroed blocks keep their space, unless the guest gives it back.
    guest.request(0, &[header(WRITE_ZEROES, 0), range(264, 16, 0)].concat(), 1).assert_only_status(OK);
    assert_eq!(allocated(&file), written, "{disk:?}");
    expected[264 * 512..280 * 512].fill(0);
    read_all(&mut guest, SECTORS, |_, data| assert!(data == expected, "{disk:?}"));

    // Discarded and zeroed blocks stay free, although the device knew them as allocated.
    for (request, sector, sectors, flags) in
        [(DISCARD, 264, 16, 0), (WRITE_ZEROES, 384, 128, 1), (DISCARD, 640, 128, 0)]
    {
        let before = allocated(&file);
        guest.request(0, &[header(request, 0), range(sector, sectors, flags)].concat(), 1).assert_only_status(OK);
        let after = allocated(&file);
        assert!(after < before, "{disk:?}: space is given back");
        expected[sector as usize * 512..][..sectors as usize * 512].fill(0);
        for sectors in sizes {
            read_all(&mut guest, sectors, |sector, data| {
                assert!(data == &expected[sector as usize * 512..][..data.len()], "{disk:?} at {sector}");
            });
            assert_eq!(allocated(&file), after, "{disk:?}, reading {sectors} sectors at a time");
        }
    }
    // They can be written again, and read in place.
    let data = pattern(99, 64 << 10);
    guest.request(0, &write_request(256, &data), 1).assert_only_status(OK);
    assert!(guest.request(0, &header(IN, 256), data.len() + 1).data == data);
    let mut on_host = vec![0; data.len()];
    file.read_exact_at(&mut on_host, 256 * 512).expect("image");
    assert!(on_host == data);
}

#[test]
fn reading_an_image_on_tmpfs_changes_nothing() {
    reading_changes_nothing(DiskKind::Tmpfs);
}

#[test]
fn reading_a_memory_disk_changes_nothing() {
    reading_changes_nothing(DiskKind::Memory);
}

#[test]
fn reading_a_file_changes_nothing() {
    for aio in [Aio::Sync, Aio::Threads] {
        reading_changes_nothing(DiskKind::File(aio));
    }
}
