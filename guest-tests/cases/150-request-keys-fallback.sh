# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: keys in requests: what the engine does not offer goes through the fallback, what it offers natively, on one file system
# device: --keyslots 0 --data-unit-sizes 512-2048 --max-dun-bytes 4
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

expect_engine 0 32 raw 0xe00
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/blocks" one per-file 4096
encrypted_dir "$MNT/wide" one ino-lblk-64 512
for directory in blocks wide; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
for directory in blocks wide; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
done
expect_fallback

encrypted_dir "$MNT/sectors" one per-file 512
cp -r "$OUT/plain/tree/." "$MNT/sectors"
native_was_used || fail 'data units of 512 bytes with numbers of 32 bits were not encrypted natively'
drop_caches
for directory in blocks wide sectors; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
umount "$MNT"
check_fs "$DISK"
