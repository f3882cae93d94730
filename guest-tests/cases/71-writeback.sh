# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a write-back cache is flushed when programs ask for it, and can be switched to write-through
# device: --cache writeback
# check: fscrypt
# stat: requests.flush > 0
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

[ "$(cat "$BLOCK/queue/write_cache")" = 'write back' ] || fail "cache: $(cat "$BLOCK/queue/write_cache")"
[ "$(cat "$BLOCK/cache_type")" = 'write back' ] || fail "cache_type: $(cat "$BLOCK/cache_type")"
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
for file in "$OUT"/plain/tree/*; do
	dd if="$file" of="$MNT/secret/${file##*/}" bs=64k conv=fsync status=none
done

echo 'write through' > "$BLOCK/cache_type"
[ "$(cat "$BLOCK/cache_type")" = 'write through' ] || fail 'the cache cannot be switched to write-through'
[ "$(cat "$BLOCK/queue/write_cache")" = 'write through' ] || fail 'the block layer does not know of the switch'
make-data 100000 50 "$SENTINEL" > "$OUT/plain/tree/through"
dd if="$OUT/plain/tree/through" of="$MNT/secret/through" bs=4096 oflag=sync status=none
echo 'write back' > "$BLOCK/cache_type"
[ "$(cat "$BLOCK/queue/write_cache")" = 'write back' ] || fail 'the cache cannot be switched back'
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
