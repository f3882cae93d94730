# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality qcom-ice: wrapped keys are native, raw keys go through the fallback
# device: --personality qcom-ice
# rings: 1x32
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.program_failed == 0
# stat: keyslots.nokey == 0

needs_wrapped_keys
expect_engine 32 64 wrapped 0x1fe00
expect_rings 1 32 qcom-ice
make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/raw" one
cp -r "$OUT/plain/tree/." "$MNT/raw"
drop_caches
same_files "$OUT/plain/tree" "$MNT/raw"
expect_fallback

wrapped_dir "$MNT/wrapped" two ino-lblk-64
cp -r "$OUT/plain/tree/." "$MNT/wrapped"
drop_caches
native_was_used || fail 'the wrapped key was not used natively'
for directory in raw wrapped; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
	record_names "$MNT/$directory"
done
umount "$MNT"
check_fs "$DISK"
