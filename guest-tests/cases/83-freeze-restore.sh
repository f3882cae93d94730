# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the disk is frozen and restored while files are open: their keys are programmed again, nothing is lost
# device: --keyslots 4
# needs: CONFIG_HIBERNATION
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

let_ports_go
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/secret-64" one ino-lblk-64
cp -r "$OUT/plain/tree/." "$MNT/secret"
cp -r "$OUT/plain/tree/." "$MNT/secret-64"
make-data 1048576 50 "$SENTINEL" > "$OUT/plain/open"
exec 8<> "$MNT/secret/open"
cat "$OUT/plain/open" >&8

freeze_and_restore

# Inodes and their keys are still there; only the data must be read again.
echo 1 > /proc/sys/vm/drop_caches
cmp "$OUT/plain/open" "$MNT/secret/open" || fail 'the file that was open all the time'
rm "$MNT/secret/open"
exec 8>&-
same_files "$OUT/plain/tree" "$MNT/secret"
same_files "$OUT/plain/tree" "$MNT/secret-64"

note 'and writing goes on'
make_files tree/later 60 100 70000
cp -r "$OUT/plain/tree/later" "$MNT/secret"
cp -r "$OUT/plain/tree/later" "$MNT/secret-64"
freeze_and_restore
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
same_files "$OUT/plain/tree" "$MNT/secret-64"
expect_native
record "$MNT/secret" tree
record "$MNT/secret-64" tree
umount "$MNT"
check_fs "$DISK"
