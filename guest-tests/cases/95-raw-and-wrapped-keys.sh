# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: raw and hardware-wrapped keys side by side in two keyslots, even of the same bytes
# device: --key-types raw,wrapped --keyslots 2
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

make_files tree 0 100 4096 70001 524288
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/raw" one
encrypted_dir "$MNT/raw-64" one ino-lblk-64
wrapped_dir "$MNT/wrapped-64" one ino-lblk-64
wrapped_dir "$MNT/wrapped-32" one ino-lblk-32
wrapped_dir "$MNT/wrapped-sectors" two ino-lblk-64 512
# The bytes inside a wrapped key, added as a raw key, are another key.
hex=$(wrapped_key_hex one)
added=$(unhex "$hex" | xfs_io -c add_enckey "$MNT")
echo "raw $hex # the bytes of a wrapped key" >> "$OUT/keys"
set_policy "$MNT/same-bytes" "${added##* }" ino-lblk-64
wrapped=$(add_wrapped_key one "$MNT")
[ "${added##* }" != "$wrapped" ] || fail 'a raw and a wrapped key have the same identifier'

directories='raw raw-64 wrapped-64 wrapped-32 wrapped-sectors same-bytes'
for directory in $directories; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory" &
done
wait
for round in 1 2; do
	drop_caches
	for directory in $directories; do
		diff -r "$OUT/plain/tree" "$MNT/$directory" >> /tmp/wrong 2>&1 &
	done
	wait
	[ ! -s /tmp/wrong ] || fail "wrong contents in round $round: $(head /tmp/wrong)"
done
expect_native
for directory in $directories; do
	record "$MNT/$directory" tree
	record_names "$MNT/$directory"
done
umount "$MNT"
check_fs "$DISK"
