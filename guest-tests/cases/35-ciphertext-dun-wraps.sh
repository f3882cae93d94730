# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: IV_INO_LBLK_32 data unit numbers that wrap from 2^32-1 to 0 in the middle of a file
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

# Numbers begin at a hash of the inode number. With this key the hash of inode 121 is 2^32 - 1284: the numbers wrap
# at the file's block 1284. The key was found by trying names.
key=wrap-4604 inode=121

make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" $key ino-lblk-32

# Make empty files until the next inode number is the wanted one.
mkdir "$OUT/plain" "$OUT/plain/tree"
count=0
while :; do
	: > "$MNT/secret/$count"
	[ "$(stat -c %i "$MNT/secret/$count")" != $inode ] || break
	count=$((count + 1))
	[ $count -lt 500 ] || skip "this mkfs and kernel gave no file the inode $inode"
done
file=$MNT/secret/wrapping
mv "$MNT/secret/$count" "$file"
find "$MNT/secret" -type f ! -name wrapping -delete

make_files tree 0 65536
make-data $((8 << 20)) 5 "$SENTINEL" > "$OUT/plain/tree/wrapping"
cat "$OUT/plain/tree/wrapping" > "$file"
cp "$OUT/plain/tree/file-1-of-65536" "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"

note 'direct I/O across the wrap, buffered reads on both sides of it'
make-data $((64 << 10)) 6 "$SENTINEL" > /tmp/part
for target in "$file" "$OUT/plain/tree/wrapping"; do
	dd if=/tmp/part of="$target" bs=64k seek=$((1276 * 4096)) oflag=seek_bytes conv=notrunc status=none
done
sync
dd if=/tmp/part of="$file" bs=64k seek=$((1276 * 4096)) oflag=seek_bytes,direct conv=notrunc status=none
drop_caches
dd if="$file" of=/tmp/back bs=64k count=1 skip=$((1276 * 4096)) iflag=skip_bytes,direct status=none
cmp /tmp/part /tmp/back || fail 'a direct read across the wrap is wrong'
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
