# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a device with hardware-wrapped keys only: these are native, raw keys go through the fallback
# device: --key-types wrapped
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.program_failed == 0
# stat: keyslots.nokey == 0

needs_wrapped_keys
[ "$(crypto_attr hw_wrapped_keys)" = supported ] || fail "wrapped keys: $(crypto_attr hw_wrapped_keys)"
[ ! -e "$BLOCK/queue/crypto/raw_keys" ] || fail 'the disk claims to support raw keys'
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/raw" one
encrypted_dir "$MNT/raw-64" one ino-lblk-64
for directory in raw raw-64; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
same_files "$OUT/plain/tree" "$MNT/raw"
expect_fallback

wrapped_dir "$MNT/wrapped" two ino-lblk-64
cp -r "$OUT/plain/tree/." "$MNT/wrapped"
drop_caches
native_was_used || fail 'the wrapped key was not used natively'
for directory in raw raw-64 wrapped; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
	record_names "$MNT/$directory"
done
umount "$MNT"
check_fs "$DISK"
