// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device on a block device of the host. `cargo xtask test` makes one where it can and names it in
//! `VUBC_BLOCK_DEVICE`; its content is lost.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use vhost_user_blk_crypto::disk::{Aio, OpenError, OpenOptions, ResizeError};
fn block_device() -> PathBuf {
    std::env::var_os("VUBC_BLOCK_DEVICE").expect("VUBC_BLOCK_DEVICE names a block device to overwrite").into()
}

#[test]
#[ignore = "needs a block device to overwrite (VUBC_BLOCK_DEVICE); cargo xtask test makes one as root"]
fn everything_on_a_block_device() {
    let device = block_device();
    for disk in [DiskKind::File(Aio::Sync), DiskKind::File(Aio::IoUring), DiskKind::Direct(Aio::IoUring)] {
        on_a_block_device(Options { block_device: Some(device.clone()), disk, ..Options::default() });
    }
}

/// Enlarges a loop device by its file. `None` for others.
fn enlarge(device: &Path, bytes: u64) -> Option<u64> {
    let name = device.file_name()?.to_str()?;
    let file = std::fs::read_to_string(format!("/sys/class/block/{name}/loop/backing_file")).ok()?;
    std::fs::File::options().write(true).open(file.trim_end()).expect("file").set_len(bytes).expect("size");
    let status = std::process::Command::new("losetup").arg("--set-capacity").arg(device).status().expect("losetup");
    assert!(status.success());
    Some(bytes / 512)
}

fn on_a_block_device(options: Options) {
    let device = options.block_device.clone().expect("block device");
    let mut guest = Guest::with(options);
    let sectors = u64::from_le_bytes(guest.get_config(0, 8).try_into().expect("8 bytes"));
    assert!(sectors >= 16384, "the device has {sectors} sectors; the test needs 8 MiB");
    let control = guest.control();
    let key = key(1);
    guest.request(control, &Program::new(0, &key, 12).bytes(), 1).assert_only_status(OK);
    for sector in [0, 64, sectors - 16] {
        let plain = pattern(sector, 8192);
        guest.request(0, &crypto_write(sector, 0, [sector, 0, 0, 0], &plain), 1).assert_only_status(OK);
        guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
        assert!(guest.image_bytes(sector * 512, 8192) == openssl_xts(&key, sector.into(), 4096, &plain));
        let read = guest.request(1, &crypto_header(CRYPTO_IN, sector, 0, [sector, 0, 0, 0]), 8193);
        assert!(read.status == OK && read.data == plain);
    }
    guest.request(0, &header(IN, sectors), 513).assert_only_status(IOERR);
    guest.request(0, &[header(WRITE_ZEROES, 0), range(64, 8, 0)].concat(), 1).assert_only_status(OK);
    assert_eq!(guest.image_bytes(64 * 512, 4096), [0; 4096]);
    if guest.features & feature::DISCARD != 0 {
        guest.request(0, &[header(DISCARD, 0), range(0, 8, 0)].concat(), 1).assert_only_status(OK);
        assert_eq!(guest.image_bytes(0, 4096), [0; 4096]);
    }
    // Its owner decides its size. The device notices it on a resize command.
    assert!(matches!(guest.device.resize(Some((sectors + 8) * 512)), Err(ResizeError::NotOurs { .. })));
    assert_eq!(guest.device.resize(None).expect("size").bytes, sectors * 512);
    if let Some(sectors) = enlarge(&device, sectors * 512 + (1 << 20)) {
        assert_eq!(guest.device.resize(None).expect("size").bytes, sectors * 512);
        let plain = pattern(1, 8192);
        guest.request(1, &crypto_write(sectors - 16, 0, [5, 0, 0, 0], &plain), 1).assert_only_status(OK);
        guest.request(1, &header(FLUSH, 0), 1).assert_only_status(OK);
        assert!(guest.image_bytes((sectors - 16) * 512, 8192) == openssl_xts(&key, 5, 4096, &plain));
    }
    // A second writer is refused, on a block device, too.
    let open = OpenOptions { read_only: false, discard: true, direct: false, logical_block_size: 512 };
    assert!(matches!(open.open(&device), Err(OpenError::Locked(_))));
}
