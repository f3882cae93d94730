# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs raid1 over our disk and one without inline encryption: a damaged mirror is repaired, encrypted
# image: 256M
# timeout: 400
# needs: CONFIG_BTRFS_FS mkfs.btrfs filefrag

# data_offset DEVID: what to add to a logical address of data to get the place on the device. There is one data chunk.
data_offset() {
	awk -v id="$1" '
		$1 == id && $3 ~ /^Data/ { print $4 - $8; n++ }
		END { exit n != 1 }' /tmp/chunks || fail "not one data chunk: $(cat /tmp/chunks)" >&2
}

# extents FILE: logical address and length of each of its extents.
extents() {
	filefrag -b1 -v "$1" | awk -F '[:. ]+' '$2 ~ /^[0-9]+$/ && NF > 7 { print $5, $7 }'
}

# damage FILE DEVICE OFFSET: overwrites all of its extents on the device.
damage() {
	extents "$1" | while read -r logical length; do
		dd if=/dev/urandom of="$2" bs=4096 seek=$(((logical + $3) / 4096)) count=$((length / 4096)) conv=notrunc,fsync status=none
	done
}

truncate -s 256M /tmp/second
second=$(losetup -f --show /tmp/second)
mkfs.btrfs -q -f -d raid1 -m raid1 "$DISK" "$second"
mount -t btrfs -o device="$second" "$DISK" "$MNT"
unhex "$(key_hex one)" | xfs_io -c add_enckey "$MNT" > /tmp/added 2>&1 || skip "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
identifier=$(add_key one "$MNT")
mkdir "$MNT/plain-sums" "$MNT/sums" "$MNT/no-sums"
chattr +C "$MNT/no-sums"
set_policy "$MNT/sums" "$identifier"
set_policy "$MNT/no-sums" "$identifier"
make_files tree 0 4096 65536 1048577
for directory in sums no-sums; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
drop_caches
for directory in sums no-sums; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
done
btrfs inspect-internal list-chunks --raw "$MNT" > /tmp/chunks
first_offset=$(data_offset 1)
second_offset=$(data_offset 2)

note 'both mirrors have the same ciphertext'
for file in "$MNT"/sums/* "$MNT"/no-sums/*; do
	extents "$file" | while read -r logical length; do
		cmp -n "$length" -i $((logical + first_offset)):$((logical + second_offset)) "$DISK" "$second" || fail "$file differs"
	done
done

for mirror in "$DISK $first_offset" "$second $second_offset"; do
	note "damaged and read: ${mirror% *}"
	umount "$MNT"
	mount -t btrfs -o device="$second" "$DISK" "$MNT"
	unlock one "$MNT"
	for file in "$MNT"/sums/*; do
		damage "$file" $mirror
	done
	echo 3 > /proc/sys/vm/drop_caches
	# Which mirror is read depends on the process, so one of several readers finds the damage.
	for reader in 1 2 3 4 5 6; do
		same_files "$OUT/plain/tree" "$MNT/sums"
		echo 3 > /proc/sys/vm/drop_caches
	done
	dmesg_has 'read error corrected' || fail 'nothing was repaired'
	btrfs scrub start -B "$MNT" > /tmp/scrub || fail "scrub: $(cat /tmp/scrub)"
	drop_caches
	for file in "$MNT"/sums/*; do
		extents "$file" | while read -r logical length; do
			cmp -n "$length" -i $((logical + first_offset)):$((logical + second_offset)) "$DISK" "$second" || fail "$file differs"
		done
	done
	dmesg_clear
done
same_files "$OUT/plain/tree" "$MNT/no-sums"
umount "$MNT"
for device in "$DISK" "$second"; do
	if grep -q "$SENTINEL" "$device"; then
		fail "plaintext on $device"
	fi
done
losetup -d "$second"
