# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: removing a key evicts it from the device and locks its files, adding it again unlocks them
# check: fscrypt
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
identifier=$(add_key one "$MNT")
set_policy "$MNT/secret" "$identifier"
set_policy "$MNT/secret-64" "$identifier" ino-lblk-64
encrypted_dir "$MNT/other" two
for directory in secret secret-64 other; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
expect_native
sync

remove_key "$identifier" "$MNT"
for directory in secret secret-64; do
	[ ! -e "$MNT/$directory/file-9-of-65536" ] || fail "names in $directory can be read without the key"
	locked=$(find "$MNT/$directory" -type f | head -n 1)
	expect_failure "reading $directory without the key" dd if="$locked" of=/dev/null status=none
done
same_files "$OUT/plain/tree" "$MNT/other"
note 'the other key still works'

[ "$(add_key one "$MNT")" = "$identifier" ] || fail 'the key got another identifier'
drop_caches
for directory in secret secret-64 other; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
done
umount "$MNT"
check_fs "$DISK"
