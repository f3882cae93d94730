# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs gives up our disk for another one: no key of its extents is left there
# image: 256M
# needs: CONFIG_BTRFS_FS CONFIG_BLK_DEV_LOOP mkfs.btrfs
# stat: keyslots.program > 0
# stat: keyslots.replace == 0
# stat: keyslots.lost == 0

modprobe -q loop || true
truncate -s 256M /tmp/second
second=$(losetup -f --show /tmp/second)
mkfs.btrfs -q -f "$DISK"
mount -t btrfs "$DISK" "$MNT"
has_fscrypt "$MNT" || skip "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
identifier=$(add_key one "$MNT")
set_policy "$MNT/secret" "$identifier"
make_files tree 0 4096 65536 1048577
cp -r "$OUT/plain/tree/." "$MNT/secret"
sync
if ! native_was_used; then
	[ ! -e /sys/module/blk_crypto_digest_test ] || fail 'files with checksums are not native on a kernel with digests'
	skip "this kernel's btrfs uses no inline encryption hardware"
fi
# The keys live on, and are used for the other disk. Those that are still in keyslots when the guest ends are "lost".
btrfs replace start -B -f "$DISK" "$second" "$MNT"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
umount "$MNT"
losetup -d "$second"
