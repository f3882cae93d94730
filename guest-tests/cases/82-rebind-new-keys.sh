# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the driver is unbound and bound again: old data reads correctly with its own key, and other keys work in the same slots
# device: --keyslots 2
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

device=$(basename "$(readlink -f "$BLOCK/device")")
driver=$(readlink -f "$BLOCK/device/driver")
make_fs "$DISK"
for round in 1 2 3; do
	note "round $round"
	make_files "round-$round" $((round * 100))
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/round-$round" "key-$round" ino-lblk-64
	cp -r "$OUT/plain/round-$round/." "$MNT/round-$round"
	umount "$MNT"
	echo "$device" > "$driver/unbind"
	wait_for_disk no
	echo "$device" > "$driver/bind"
	wait_for_disk yes
	mount_fs "$DISK" "$MNT"
	for old in $(seq "$round"); do
		unlock "key-$old" "$MNT"
		same_files "$OUT/plain/round-$old" "$MNT/round-$old"
	done
	umount "$MNT"
done
expect_native
mount_fs "$DISK" "$MNT"
for old in 1 2 3; do
	unlock "key-$old" "$MNT"
	record "$MNT/round-$old" "round-$old"
done
umount "$MNT"
check_fs "$DISK"
