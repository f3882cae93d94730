# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs raid1 over our disk and one without inline encryption: a damaged mirror is repaired, encrypted
# image: 256M
# timeout: 400
# needs: CONFIG_BTRFS_FS CONFIG_BLK_DEV_LOOP mkfs.btrfs filefrag
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# errors: expected

# at DEVID LOGICAL: where this logical address of data lies on the device.
at() {
	awk -v id="$1" -v logical="$2" '
		$1 == id && $3 ~ /^Data/ && logical >= $8 && logical < $8 + $5 { printf "%d\n", $4 + logical - $8; n++ }
		END { exit n != 1 }' /tmp/chunks || fail "no data chunk has $2: $(cat /tmp/chunks)" >&2
}

# extents FILE: logical address and length of each of its extents.
extents() {
	filefrag -b1 -v "$1" | awk -F '[:. ]+' '$2 ~ /^[0-9]+$/ && NF > 7 { print $5, $7 }'
}

# damage FILE DEVICE DEVID: overwrites all of its extents on the device.
damage() {
	extents "$1" | while read -r logical length; do
		place=$(at "$3" "$logical")
		dd if=/dev/urandom of="$2" bs=4096 seek=$((place / 4096)) count=$((length / 4096)) conv=notrunc,fsync status=none
	done
}

# same_mirrors FILE...: both devices have the same ciphertext.
same_mirrors() {
	for file in "$@"; do
		extents "$file" | while read -r logical length; do
			first=$(at 1 "$logical")
			place=$(at 2 "$logical")
			cmp -n "$length" -i "$first:$place" "$DISK" "$second" || fail "the mirrors of $file differ"
		done
	done
}

# Where it is a module.
modprobe -q loop || true
truncate -s 256M /tmp/second
second=$(losetup -f --show /tmp/second)
mkfs.btrfs -q -f -d raid1 -m raid1 "$DISK" "$second"
mount -t btrfs -o device="$second" "$DISK" "$MNT"
has_fscrypt "$MNT" || skip "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
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
same_mirrors "$MNT"/sums/* "$MNT"/no-sums/*
native_was_used || fail 'our disk was not encrypted natively'
fallback_was_used || fail 'the other disk was not encrypted by the fallback'

for mirror in "$DISK 1" "$second 2"; do
	note "damaged and read: ${mirror% *}"
	umount "$MNT"
	mount -t btrfs -o device="$second" "$DISK" "$MNT"
	unlock one "$MNT"
	for file in "$MNT"/sums/*; do
		damage "$file" $mirror
	done
	echo 3 > /proc/sys/vm/drop_caches
	# Only with CONFIG_BTRFS_EXPERIMENTAL, which the fscrypt series needs as well.
	for policy in /sys/fs/btrfs/*/read_policy; do
		echo "devid:${mirror#* }" > "$policy"
	done
	same_files "$OUT/plain/tree" "$MNT/sums"
	# The kernel's log has no more than ten of these in five seconds.
	btrfs device stats "$MNT" > /tmp/stats
	grep -q "${mirror% *}\]\.corruption_errs *[1-9]" /tmp/stats || fail "no damage was read: $(cat /tmp/stats)"
	same_mirrors "$MNT"/sums/*
	btrfs scrub start -B "$MNT" > /tmp/scrub || fail "scrub: $(cat /tmp/scrub)"
	drop_caches
	same_mirrors "$MNT"/sums/*
done
same_files "$OUT/plain/tree" "$MNT/no-sums"
umount "$MNT"
for device in "$DISK" "$second"; do
	if grep -q "$SENTINEL" "$device"; then
		fail "plaintext on $device"
	fi
done
losetup -d "$second"
