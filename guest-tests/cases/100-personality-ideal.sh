# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality ideal, the default: raw keys are native in every policy, wrapped keys are refused
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

expect_engine 32 128 raw 0x1fe00
expect_rings 2 256 vhost-blk-crypto
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"
encrypted_dir "$MNT/per-file" one per-file 4096
encrypted_dir "$MNT/sectors" one per-file 512
encrypted_dir "$MNT/ino-64" one ino-lblk-64
for directory in per-file sectors ino-64; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
for directory in per-file sectors ino-64; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
expect_native
umount "$MNT"
check_fs "$DISK"
