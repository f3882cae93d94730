# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: personality one-slot: several keys at once take turns in the only keyslot, wrapped keys are refused
# device: --personality one-slot
# rings: 1x32
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

expect_engine 1 64 raw 0x1fe00
expect_rings 1 32 one-slot
make_files tree 0 65536 65536 65536 65536 300000
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
expect_no_wrapped_keys "$MNT"
encrypted_dir "$MNT/secret" one
for file in "$OUT"/plain/tree/*; do
	cp "$file" "$MNT/secret" &
done
wait
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
