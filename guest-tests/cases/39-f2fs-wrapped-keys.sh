# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: f2fs: hardware-wrapped master keys with IV_INO_LBLK_64 and _32, native and verified on the image
# device: --key-types raw,wrapped
# needs: CONFIG_F2FS_FS mkfs.f2fs
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: wrapped_keys.derive_sw_secret > 0
# stat: keyslots.nokey == 0

FS=f2fs
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
make_files tree 0
for method in ino-lblk-64 ino-lblk-32; do
	wrapped_dir "$MNT/$method" $method $method
	cp -r "$OUT/plain/tree/." "$MNT/$method"
done
drop_caches
for method in ino-lblk-64 ino-lblk-32; do
	same_files "$OUT/plain/tree" "$MNT/$method"
	record "$MNT/$method" tree
done
umount "$MNT"
check_fs "$DISK"
expect_native
