# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: dm-crypt and plain data in partitions beside a natively encrypted file system are right and untouched
# needs: CONFIG_DM_CRYPT dmsetup partx
# image: 320M
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.out > 0
# stat: keyslots.nokey == 0

# le32 NUMBER: as four bytes on stdout.
le32() {
	env printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24)))"
}

# Three partitions, in MiB: 1 to 257 for the file system, 257 to 289 for dm-crypt, 289 to 319 for plain data.
for entry in 1:256 257:32 289:30; do
	env printf '\0\0\0\0\203\0\0\0'
	le32 $((${entry%:*} << 11))
	le32 $((${entry#*:} << 11))
done > /tmp/partitions
dd if=/tmp/partitions of="$DISK" bs=1 seek=446 conv=notrunc status=none
env printf '\125\252' | dd of="$DISK" bs=1 seek=510 conv=notrunc status=none
sync
blockdev --rereadpt "$DISK"
[ "$(cat "$BLOCK/${DISK##*/}2/start")" = $((257 << 11)) ] || fail 'the partitions are not there'

make_fs "${DISK}1"
mount_fs "${DISK}1" "$MNT"
encrypted_dir "$MNT/secret" one
make_files tree 0
make_files tree/long 100 $((6 << 20))
key=$(key_hex dm-crypt)
modprobe -q dm_crypt || true # or built in
echo "0 $((32 << 11)) crypt aes-xts-plain64 $key 0 ${DISK}2 0" | dmsetup create --noudevsync beside
dmsetup mknodes
make-data $((4 << 20)) 300 "$SENTINEL" > "$OUT/plain/dm-crypt"
make-data $((4 << 20)) 301 'plain data beside' > "$OUT/plain/beside"

note 'all three at once'
cp -r "$OUT/plain/tree/." "$MNT/secret" &
first=$!
dd if="$OUT/plain/dm-crypt" of=/dev/mapper/beside bs=64k oflag=direct conv=notrunc status=none &
second=$!
dd if="$OUT/plain/beside" of="${DISK}3" bs=64k oflag=direct conv=notrunc status=none &
third=$!
wait $first
wait $second
wait $third
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
cmp -n $((4 << 20)) "$OUT/plain/dm-crypt" /dev/mapper/beside || fail 'dm-crypt reads something else'
cmp -n $((4 << 20)) "$OUT/plain/beside" "${DISK}3" || fail 'the plain partition reads something else'
expect_native

# dm-crypt counts sectors of 512 bytes from the beginning of its volume.
record "$MNT/secret" tree $((1 << 20))
record_xts dm-crypt $((257 << 20)) "$key" 512
record_plain beside $((289 << 20))
umount "$MNT"
dmsetup remove --noudevsync beside
check_fs "${DISK}1"
