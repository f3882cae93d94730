# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: behind vhost-user-blk-pci, which does not pass inline encryption through, both drivers see the same plain disk
# attach: vhost-user-blk
# driver: virtio_blk
# stat: requests.crypto_in == 0
# stat: requests.crypto_out == 0
# check: fscrypt

if has_inline_encryption; then
	fail 'the stock driver shows inline encryption'
fi
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
make-data 300000 7 > /tmp/open
cp /tmp/open "$MNT/open"
umount "$MNT"

change_driver virtio_blk_crypto
if has_inline_encryption; then
	fail 'inline encryption on a device that has none'
fi
[ ! -e "$BLOCK/crypto_stats" ] || fail 'a plain disk has counters of keys'
mount_fs "$DISK" "$MNT"
cmp /tmp/open "$MNT/open"

note 'encrypted files go through the fallback'
encrypted_dir "$MNT/secret" one
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_fallback
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
