# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality ufs-3.1: 64-bit data unit numbers carry every raw-key policy natively, wrapped keys are refused
# device: --personality ufs-3.1
# rings: 1x32
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

expect_engine 32 64 raw 0x1fe00
expect_rings 1 32 ufs-3.1
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"
# Inode numbers are in the upper half of its data unit numbers.
encrypted_dir "$MNT/ino-64" one ino-lblk-64
encrypted_dir "$MNT/sectors" one per-file 512
for directory in ino-64 sectors; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
for directory in ino-64 sectors; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
expect_native
umount "$MNT"
check_fs "$DISK"
