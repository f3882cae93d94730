# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: 200 files, each with its own key, on a device with 4 keyslots
# device: --keyslots 4
# check: fscrypt
# stat: keyslots.replace >= 196
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

# The names are the test's own: no odd characters. The inner shells expand their own variables.
# shellcheck disable=SC2011,SC2016

[ "$(crypto_attr num_keyslots)" = 4 ] || fail "keyslots: $(crypto_attr num_keyslots)"
# shellcheck disable=SC2046 # a list of sizes
make_files tree 0 $(seq 4096 61 16235)
[ "$(ls "$OUT/plain/tree" | wc -l)" = 200 ] || fail "made $(ls "$OUT/plain/tree" | wc -l) files, not 200"
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one

note 'written by 8 processes'
ls "$OUT/plain/tree" | xargs -P 8 -n 5 sh -c '
	for file; do
		dd if="$OUT/plain/tree/$file" of="$MNT/secret/$file" bs=64k conv=fsync status=none || exit 255
	done' sh
sync

note 'read by 8 processes, all 200 keys in use'
for round in 1 2; do
	echo 1 > /proc/sys/vm/drop_caches
	ls "$OUT/plain/tree" | sort -R --random-source=/dev/zero | xargs -P 8 -n 5 sh -c '
		for file; do
			cmp "$OUT/plain/tree/$file" "$MNT/secret/$file" || exit 255
		done' sh
	note "round $round is right"
done

note 'read once more with every key new'
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
# So many names that the directory has a hash tree.
record_names "$MNT/secret"
umount "$MNT"
check_fs "$DISK"
