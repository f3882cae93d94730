# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a UFS host controller with a single keyslot and blocks of 512 bytes: several keys at once take turns in it
# attach: ufs
# device: --personality one-slot --logical-block-size 512
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

expect_engine 1 64 raw 0x1fe00
[ "$(cat "$BLOCK/queue/logical_block_size")" = 512 ] || fail "logical blocks: $(cat "$BLOCK/queue/logical_block_size")"
make_files tree 0 65536 65536 65536 65536 300000
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/sectors" two per-file 512
for file in "$OUT"/plain/tree/*; do
	cp "$file" "$MNT/secret" &
	cp "$file" "$MNT/sectors" &
done
wait
drop_caches
for directory in secret sectors; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
expect_native
umount "$MNT"
check_fs "$DISK"
