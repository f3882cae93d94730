# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: what the device does not offer goes through the fallback, what it offers natively, on one file system
# device: --data-unit-sizes 512-2048
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

[ "$(($(crypto_attr modes/AES-256-XTS)))" = $((0xe00)) ] || fail "data unit sizes: $(crypto_attr modes/AES-256-XTS)"
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/blocks" one per-file 4096
cp -r "$OUT/plain/tree/." "$MNT/blocks"
drop_caches
same_files "$OUT/plain/tree" "$MNT/blocks"
expect_fallback

encrypted_dir "$MNT/sectors" one per-file 512
cp -r "$OUT/plain/tree/." "$MNT/sectors"
drop_caches
same_files "$OUT/plain/tree" "$MNT/sectors"
native_was_used || fail 'data units of 512 bytes were not encrypted natively'
record "$MNT/blocks" tree
record "$MNT/sectors" tree
umount "$MNT"
check_fs "$DISK"
