# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality emmc-cqhci: policies whose data unit numbers need more than 32 bits fall back, the others are native
# device: --personality emmc-cqhci
# rings: 1x32
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.program_failed == 0
# stat: keyslots.program >= 11
# stat: keyslots.nokey == 0

expect_engine 32 32 raw 0x1fe00
expect_rings 1 32 emmc-cqhci
make_files tree 0
# With huge_file, unlike make_fs: files of up to 16 TiB have 2^35 sectors, and 2^32 blocks of 4096 bytes.
mkfs.ext4 -q -F -b 4096 -O encrypt,stable_inodes,huge_file "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"

encrypted_dir "$MNT/sectors" one per-file 512
encrypted_dir "$MNT/ino-64" one ino-lblk-64
for directory in sectors ino-64; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
for directory in sectors ino-64; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
done
expect_fallback

encrypted_dir "$MNT/ino-32" one ino-lblk-32
cp -r "$OUT/plain/tree/." "$MNT/ino-32"
native_was_used || fail 'IV_INO_LBLK_32, made for this hardware, was not encrypted natively'
encrypted_dir "$MNT/blocks" one per-file 4096
cp -r "$OUT/plain/tree/." "$MNT/blocks"
drop_caches
for directory in sectors ino-64 ino-32 blocks; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
umount "$MNT"
check_fs "$DISK"
