# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality exynos-fmp: data units of 512 bytes fall back, those of 4096 are native; keys come with the requests, and survive a reset
# device: --personality exynos-fmp
# rings: 1x32
# needs: CONFIG_HIBERNATION
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.lost == 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0
# stat: request_keys.requests > 0

# The device holds no key when the guest resets it, so none is lost.

expect_engine 0 128 raw 0x1000
expect_rings 1 32 exynos-fmp
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"
unbind_ports
encrypted_dir "$MNT/sectors" one per-file 512
cp -r "$OUT/plain/tree/." "$MNT/sectors"
drop_caches
same_files "$OUT/plain/tree" "$MNT/sectors"
expect_fallback

encrypted_dir "$MNT/blocks" one per-file 4096
cp -r "$OUT/plain/tree/." "$MNT/blocks"
make-data 1048576 50 "$SENTINEL" > "$MNT/blocks/open"
cp "$MNT/blocks/open" "$OUT/plain/tree"
cp "$OUT/plain/tree/open" "$MNT/sectors"
exec 8< "$MNT/blocks/open"
freeze_and_restore
echo 1 > /proc/sys/vm/drop_caches
cmp "$OUT/plain/tree/open" "$MNT/blocks/open" || fail 'the file that was open has other contents'
exec 8<&-
native_was_used || fail 'data units of 4096 bytes were not encrypted natively'
drop_caches
for directory in sectors blocks; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
umount "$MNT"
check_fs "$DISK"
