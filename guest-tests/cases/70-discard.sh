# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: discard and zeroing beside encrypted files: freed blocks are zero on the disk, all others are right
# device: --discard on
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.discard > 0
# stat: requests.write_zeroes > 0
# stat: keyslots.nokey == 0

make_files tree 0
make_files gone 100 $((2 << 20)) 300000
make_fs "$DISK" 200M
# With dioread_nolock, ext4 would zero no part of a reserved extent.
mount_fs "$DISK" "$MNT" -o nodioread_nolock
encrypted_dir "$MNT/secret" one
cp -r "$OUT/plain/tree/." "$MNT/secret"
cp -r "$OUT/plain/gone" "$MNT/secret"
sync
place=$(physical "$MNT/secret/gone/file-101-of-2097152" 65536)
cmp -s -n 4096 -i 0:"$place" /dev/zero "$DISK" && fail 'the blocks of the file are zero'

note 'a deleted file is discarded'
rm -r "$MNT/secret/gone" "$OUT/plain/gone"
sync
fstrim -v "$MNT"
sync
echo 1 > /proc/sys/vm/drop_caches
cmp -n 4096 -i 0:"$place" /dev/zero "$DISK" || fail 'a discarded block is not zero'

note 'holes, zeroed ranges and reserved blocks inside a file read as zeros'
file=$MNT/secret/ranges
make-data 1048576 200 "$SENTINEL" > "$OUT/plain/tree/ranges"
cp "$OUT/plain/tree/ranges" "$file"
sync
for target in "$file" "$OUT/plain/tree/ranges"; do
	fallocate -p -o 8192 -l 65536 "$target"
done
fallocate -z -o 131072 -l 70000 "$file"
fallocate -z -o 300001 -l 5 "$file"
fallocate -l 1200000 "$file"
dd if=/dev/zero of="$OUT/plain/tree/ranges" bs=1 seek=131072 count=70000 conv=notrunc status=none
dd if=/dev/zero of="$OUT/plain/tree/ranges" bs=1 seek=300001 count=5 conv=notrunc status=none
truncate -s 1200000 "$OUT/plain/tree/ranges"

note 'a single block between reserved ones: the file system zeroes those after it through the keyslot'
fallocate -l 32768 "$MNT/secret/reserved"
truncate -s 32768 "$OUT/plain/tree/reserved"
for target in "$MNT/secret/reserved" "$OUT/plain/tree/reserved"; do
	make-data 4096 201 "$SENTINEL" | dd of="$target" bs=4096 seek=5 conv=notrunc status=none
done
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
fscrypt-map --extents "$MNT/secret/reserved" | tee /tmp/extents
# 2048: FIEMAP_EXTENT_UNWRITTEN.
tr '{' '\n' < /tmp/extents | awk -F '[:,}]' '
	$1 == "\"logical\"" && $2 == 5 * 4096 && $6 == 3 * 4096 && int($8 / 2048) % 2 == 0 { found = 1 }
	END { exit !found }' || fail 'the file system has not zeroed the reserved blocks after the written one'
expect_native
record "$MNT/secret" tree
umount "$MNT"

note 'zeroing blocks of the device, behind the file system'
make-data $((2 << 20)) 300 | dd of="$DISK" bs=1M seek=200 iflag=fullblock oflag=direct conv=notrunc status=none
blkdiscard -f -z -o $((200 << 20)) -l $((1 << 20)) "$DISK"
cmp -n $((1 << 20)) -i 0:$((200 << 20)) /dev/zero "$DISK" || fail 'zeroed blocks are not zero'
check_fs "$DISK"
