# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: without native support for hardware-wrapped keys (a device with raw keys only, the stock driver): EOPNOTSUPP
# stat: wrapped_keys.generate == 0
# stat: wrapped_keys.import == 0
# stat: wrapped_keys.prepare == 0
# stat: wrapped_keys.derive_sw_secret == 0
# stat: keyslots.nokey == 0
# check: fscrypt

needs_wrapped_keys
head -c 32 /dev/urandom > /tmp/raw
head -c 90 /dev/urandom > /tmp/blob
make_files tree 0

# all_refused: the kernel refuses to make or use wrapped keys.
all_refused() {
	expect_errno EOPNOTSUPP blk-crypto-key "$DISK" generate /tmp/result
	expect_errno EOPNOTSUPP blk-crypto-key "$DISK" import /tmp/raw /tmp/result
	expect_errno EOPNOTSUPP blk-crypto-key "$DISK" prepare /tmp/blob /tmp/result
	expect_errno EOPNOTSUPP add-wrapped-key "$MNT" /tmp/blob
}

make_fs "$DISK"
mount_fs "$DISK" "$MNT"
[ "$(crypto_attr raw_keys)" = supported ] || fail "raw keys: $(crypto_attr raw_keys)"
[ ! -e "$BLOCK/queue/crypto/hw_wrapped_keys" ] || fail 'the disk claims to support wrapped keys'
all_refused
note 'the device has raw keys only: all refused'
encrypted_dir "$MNT/secret" one ino-lblk-64
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
record_names "$MNT/secret"
umount "$MNT"

change_driver virtio_blk
mount_fs "$DISK" "$MNT"
all_refused
note 'the stock driver has no inline encryption: all refused'
umount "$MNT"
check_fs "$DISK"
