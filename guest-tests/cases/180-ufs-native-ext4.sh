# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the kernel's own UFS driver finds a controller with crypto, and ext4 encrypts natively with it
# attach: ufs
# device: --personality ufs-3.1
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.program > 0
# stat: keyslots.nokey == 0

expect_engine 32 64 raw 0x1fe00
[ "$(cat "$BLOCK/queue/logical_block_size")" = 4096 ] || fail "logical blocks: $(cat "$BLOCK/queue/logical_block_size")"
[ "$(cat "$BLOCK/device/vendor")" = 'VUBC    ' ] || fail "vendor: $(cat "$BLOCK/device/vendor")"
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
make_files tree 0
encrypted_dir "$MNT/secret" one
# Inode numbers are in the upper half of the data unit numbers.
encrypted_dir "$MNT/ino-64" two ino-lblk-64
for directory in secret ino-64; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
for directory in secret ino-64; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
expect_native

plain_file_beside
umount "$MNT"
check_fs "$DISK"
