# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality wide: 300 keys, more than UFSHCI or CQHCI can hold, keep their keyslots; wrapped keys are refused
# device: --personality wide
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.program >= 300
# stat: keyslots.replace == 0
# stat: keyslots.nokey == 0

expect_engine 1024 128 raw 0x1fe00
expect_rings 2 256 wide
# shellcheck disable=SC2046 # a list of sizes
make_files tree 0 $(seq 4096 7 6189)
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"
encrypted_dir "$MNT/secret" one
cp -r "$OUT/plain/tree/." "$MNT/secret"
sync
# The inodes and their keys stay in memory.
echo 1 > /proc/sys/vm/drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
