# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the stock driver sees a plain disk: file system, discard, write zeroes, serial number
# driver: virtio_blk
# device: --serial plain-disk-10 --discard on
# stat: requests.crypto_in == 0
# stat: requests.crypto_out == 0
# stat: requests.out > 0
# stat: requests.flush > 0
# stat: requests.discard > 0
# stat: requests.write_zeroes > 0

if has_inline_encryption; then
	fail 'the stock driver shows inline encryption'
fi
[ "$(blockdev --getsize64 "$DISK")" = $((256 << 20)) ] || fail 'the disk does not have the size of its image'
[ "$(cat "$BLOCK/serial")" = plain-disk-10 ] || fail "serial number: $(cat "$BLOCK/serial")"

note 'a file system'
make_files tree 0
mkfs.ext4 -q -F "$DISK"
mount "$DISK" "$MNT"
cp -r "$OUT/plain/tree" "$MNT"
umount "$MNT"
mount "$DISK" "$MNT"
same_files "$OUT/plain/tree" "$MNT/tree"
rm -r "$MNT/tree/file-11-of-1048577"
fstrim -v "$MNT"
umount "$MNT"
check_fs "$DISK"

note 'discard and write zeroes'
make-data $((1 << 20)) 1 > /tmp/pattern
dd if=/tmp/pattern of="$DISK" bs=1M seek=100 oflag=direct conv=notrunc status=none
cmp -n $((1 << 20)) -i 0:$((100 << 20)) /tmp/pattern "$DISK"
blkdiscard -f -o $((100 << 20)) -l $((512 << 10)) "$DISK"
blkdiscard -f -z -o $((100 << 20 | 512 << 10)) -l $((256 << 10)) "$DISK"
drop_caches
cmp -n $((768 << 10)) -i 0:$((100 << 20)) /dev/zero "$DISK" || fail 'discarded or zeroed sectors are not zero'
cmp -n $((256 << 10)) -i $((768 << 10)):$((100 << 20 | 768 << 10)) /tmp/pattern "$DISK" || fail 'the sectors after them changed'
