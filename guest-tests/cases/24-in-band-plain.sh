# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a device without in-band access is a plain disk for a driver that asks for it
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# stat: requests.crypto_out == 0
# stat: requests.control == 0
# stat: requests.unsupported == 1

dmesg_has 'no inline encryption in-band' || fail 'the driver does not say what it found'
if has_inline_encryption; then
	fail 'inline encryption on a device that has none'
fi
[ ! -e "$BLOCK/crypto_stats" ] || fail 'a plain disk has counters of keys'
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
make-data 300000 7 > /tmp/open
cp /tmp/open "$MNT/open"
drop_caches
cmp /tmp/open "$MNT/open"
umount "$MNT"
check_fs "$DISK"
