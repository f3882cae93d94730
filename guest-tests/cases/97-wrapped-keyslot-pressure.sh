# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: twelve hardware-wrapped keys and a raw one take turns in a single keyslot
# device: --key-types raw,wrapped --keyslots 1
# check: fscrypt
# stat: keyslots.replace >= 24
# stat: keyslots.nokey == 0

needs_wrapped_keys
[ "$(crypto_attr num_keyslots)" = 1 ] || fail "keyslots: $(crypto_attr num_keyslots)"
make_files tree 0 512 4096 65536 65536 300000
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
directories=raw
encrypted_dir "$MNT/raw" raw
for number in 1 2 3 4 5 6 7 8 9 10 11 12; do
	method=ino-lblk-64
	[ $((number % 3)) != 0 ] || method=ino-lblk-32
	wrapped_dir "$MNT/wrapped-$number" "wrapped-$number" $method
	directories="$directories wrapped-$number"
done
for directory in $directories; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory" &
done
wait
sync
# First only the data is read again, then inodes and names as well.
for what in 1 3; do
	echo $what > /proc/sys/vm/drop_caches
	same_files_at_once "after dropping caches $what" $directories
done
expect_native
record_with_names $directories
umount "$MNT"
check_fs "$DISK"
