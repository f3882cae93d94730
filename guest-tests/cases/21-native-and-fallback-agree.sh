# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: files written natively are read by the kernel's fallback on the stock driver, and the other way round
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

make_files native 0
make_files fallback 50
make_fs "$DISK"

note 'written natively'
mount_fs "$DISK" "$MNT"
identifier=$(add_key one "$MNT")
set_policy "$MNT/native" "$identifier"
set_policy "$MNT/native-64" "$identifier" ino-lblk-64
cp -r "$OUT/plain/native/." "$MNT/native"
cp -r "$OUT/plain/native/." "$MNT/native-64"
umount "$MNT"
expect_native

note 'read by the fallback, and more written by it'
change_driver virtio_blk
if has_inline_encryption; then
	fail 'the stock driver shows inline encryption'
fi
mount_fs "$DISK" "$MNT"
[ "$(add_key one "$MNT")" = "$identifier" ] || fail 'the key got another identifier'
same_files "$OUT/plain/native" "$MNT/native"
same_files "$OUT/plain/native" "$MNT/native-64"
fallback_was_used || fail 'the stock driver did not use the fallback'
set_policy "$MNT/fallback" "$identifier"
set_policy "$MNT/fallback-64" "$identifier" ino-lblk-64
cp -r "$OUT/plain/fallback/." "$MNT/fallback"
cp -r "$OUT/plain/fallback/." "$MNT/fallback-64"
umount "$MNT"

note 'all of it read natively'
change_driver virtio_blk_crypto
mount_fs "$DISK" "$MNT"
unlock one "$MNT"
same_files "$OUT/plain/native" "$MNT/native"
same_files "$OUT/plain/native" "$MNT/native-64"
same_files "$OUT/plain/fallback" "$MNT/fallback"
same_files "$OUT/plain/fallback" "$MNT/fallback-64"

note 'one file written by both'
make-data 40960 90 "$SENTINEL" > "$OUT/plain/native/both"
cp "$OUT/plain/native/both" "$MNT/native/both"
sync
umount "$MNT"
# Without -o inlinecrypt the kernel uses the fallback even where the device could do it.
mount -t ext4 "$DISK" "$MNT"
unlock one "$MNT"
cmp "$OUT/plain/native/both" "$MNT/native/both"
make-data 8192 91 "$SENTINEL" > /tmp/part
for file in "$OUT/plain/native/both" "$MNT/native/both"; do
	dd if=/tmp/part of="$file" bs=4096 seek=3 conv=notrunc status=none
done
umount "$MNT"
mount_fs "$DISK" "$MNT"
unlock one "$MNT"
cmp "$OUT/plain/native/both" "$MNT/native/both"
record "$MNT/native" native
record "$MNT/fallback" fallback
record "$MNT/native-64" native
record "$MNT/fallback-64" fallback
umount "$MNT"
check_fs "$DISK"
