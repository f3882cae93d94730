# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a device with a single keyslot serves several files at once
# device: --keyslots 1
# check: fscrypt
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

make_files tree 0 65536 65536 65536 65536 65536 65536 300000 300000
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
for file in "$OUT"/plain/tree/*; do
	cp "$file" "$MNT/secret" &
done
wait
sync
echo 1 > /proc/sys/vm/drop_caches
for file in "$OUT"/plain/tree/*; do
	cmp "$file" "$MNT/secret/${file##*/}" || echo "$file" >> /tmp/wrong &
done
wait
[ ! -e /tmp/wrong ] || fail "wrong contents: $(cat /tmp/wrong)"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
