# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a write-through device is seen as one
# device: --cache writethrough
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

[ "$(cat "$BLOCK/queue/write_cache")" = 'write through' ] || fail "cache: $(cat "$BLOCK/queue/write_cache")"
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
for file in "$OUT"/plain/tree/*; do
	dd if="$file" of="$MNT/secret/${file##*/}" bs=64k conv=fsync status=none
done
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
