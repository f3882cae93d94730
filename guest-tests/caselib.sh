# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# Bodies of cases that run with several policies, engines and drivers, and what they have in common. Sourced after fslib.sh.

# --- files that cases write and check --------------------------------------------------------------------------------

# secret_files: a new file system with files under one key in "secret", which were encrypted natively and can be read back.
secret_files() {
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	expect_native
}

# secret_files_are_right: mounts the disk again. What was written to "secret" before is there, natively, and recorded.
secret_files_are_right() {
	mount_fs "$DISK" "$MNT"
	unlock one "$MNT"
	same_files "$OUT/plain/tree" "$MNT/secret"
	expect_native
	record "$MNT/secret" tree
	umount "$MNT"
	check_fs "$DISK"
}

# same_files_at_once WHEN DIRECTORY...: each holds the tree of plain files. Reads them at the same time.
same_files_at_once() {
	local when=$1 directory
	shift
	for directory; do
		diff -r "$OUT/plain/tree" "$MNT/$directory" >> /tmp/wrong 2>&1 &
	done
	wait
	[ ! -s /tmp/wrong ] || fail "wrong contents $when: $(head /tmp/wrong)"
}

# record_with_names DIRECTORY...: records the files and names of the tree in each for the verifier.
record_with_names() {
	local directory
	for directory; do
		record "$MNT/$directory" tree
		record_names "$MNT/$directory"
	done
}

# expect_locked DIRECTORY...: their key was removed, so neither names nor contents can be read.
expect_locked() {
	local directory
	for directory; do
		[ ! -e "$MNT/$directory/file-9-of-65536" ] || fail "names in $directory can be read without the key"
		expect_unreadable "$MNT/$directory"
	done
}

# expect_unreadable DIRECTORY: there are files in it, and the first one cannot be read for want of its key.
expect_unreadable() {
	local locked
	locked=$(find "$1" -type f | head -n 1)
	[ -n "$locked" ] || fail "no files in $1"
	expect_failure "reading $1 without the key" dd if="$locked" of=/dev/null status=none 2> /tmp/words
	grep -q 'Required key not available' /tmp/words || fail "reading $1 without the key: $(cat /tmp/words)"
}

# encrypted_files [PARAMETER=VALUE...]: the ordinary driver, with these parameters, gets the disk and writes encrypted files, which
# must be right.
encrypted_files() {
	load_driver virtio_blk_crypto "$@"
	secret_files
	record "$MNT/secret" tree
	umount "$MNT"
	check_fs "$DISK"
}

# --- cases for several policies, engines and drivers -----------------------------------------------------------------

# ciphertext_case METHOD DATA_UNIT_SIZE [KEYS]: files written natively, read back from the disk, recorded for the host.
# KEYS: raw (the default) or wrapped.
ciphertext_case() {
	local block make_dir=encrypted_dir
	[ "${3:-raw}" = raw ] || make_dir=wrapped_dir
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	make_files tree 0
	# Long enough that the block layer splits it into pieces.
	make_files tree/long 100 $((8 << 20)) $(((3 << 20) + 5))
	$make_dir "$MNT/secret" "$1-$2" "$1" "$2"
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	# A file with a hole and a file that is written twice, out of order.
	truncate -s 300000 "$MNT/secret/sparse"
	make-data 5000 200 "$SENTINEL" | dd of="$MNT/secret/sparse" bs=1000 seek=150 conv=notrunc status=none
	cp --sparse=always "$MNT/secret/sparse" "$OUT/plain/tree/sparse"
	for block in 7 2 5 0 1 6 3 4 2; do
		dd if="$OUT/plain/tree/file-9-of-65536" of="$MNT/secret/file-9-of-65536" bs=8192 seek="$block" skip="$block" \
			count=1 conv=notrunc,fsync status=none
	done
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	record "$MNT/secret" tree
	record_names "$MNT/secret"
	umount "$MNT"
	check_fs "$DISK"
}

# policies_case MAKE_DIRECTORY METHOD...: as ciphertext_case, for ordinary files under several policies in one file system.
# MAKE_DIRECTORY: encrypted_dir or wrapped_dir.
policies_case() {
	local make_dir=$1 method
	shift
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	make_files tree 0
	for method; do
		$make_dir "$MNT/$method" "$method" "$method"
		cp -r "$OUT/plain/tree/." "$MNT/$method"
	done
	drop_caches
	for method; do
		same_files "$OUT/plain/tree" "$MNT/$method"
		record "$MNT/$method" tree
	done
	umount "$MNT"
	check_fs "$DISK"
	expect_native
}

# plain_then_in_band: the step on the host checks that the firmware has read the disk: the kernel's first code asks the firmware for
# each disk's boot record (CONFIG_EDD). Then the stock driver gets the disk, then ours, without and with in-band access.
plain_then_in_band() {
	[ ! -b "$DISK" ] || skip 'a driver that is built into the kernel has read the disk'
	make-data 3000000 7 > /tmp/open
	make_files tree 0
	host_step
	sleep 1
	load_driver virtio_blk
	if has_inline_encryption; then
		fail 'the stock driver shows inline encryption'
	fi
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	cp /tmp/open "$MNT/stock"
	umount "$MNT"

	change_driver virtio_blk_crypto
	if has_inline_encryption; then
		fail 'inline encryption without in_band=1'
	fi
	mount_fs "$DISK" "$MNT"
	cmp /tmp/open "$MNT/stock"
	cp /tmp/open "$MNT/ours"
	umount "$MNT"

	change_driver virtio_blk
	mount_fs "$DISK" "$MNT"
	cmp /tmp/open "$MNT/ours"
	umount "$MNT"

	change_driver virtio_blk_crypto in_band=1
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	expect_native
	record "$MNT/secret" tree
	umount "$MNT"
	check_fs "$DISK"
}

# broken_case METHOD [unnoticed]: writes files through an engine that is broken on purpose, and records them for the host, which
# must find the ciphertext wrong. unnoticed: reading reverts the defect, so the guest reads its files correctly.
broken_case() {
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	make_files tree 0
	encrypted_dir "$MNT/secret" one "$1"
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	if [ "${2:-}" = unnoticed ]; then
		drop_caches
		same_files "$OUT/plain/tree" "$MNT/secret"
		note 'the guest notices nothing'
	fi
	expect_native
	record "$MNT/secret" tree
	umount "$MNT"
	check_fs "$DISK"
}

# --- a hostile driver -------------------------------------------------------------------------------------------------

# attack ATTACK...: unbinds the disk from its driver, runs the program `hostile` on it, and binds it to virtio-pci again.
# The program prints its random seed, SEED.
attack() {
	local one function=''
	for one in /sys/bus/virtio/devices/virtio*; do
		[ "$(cat "$one/device")" != 0x0002 ] || function=$(basename "$(dirname "$(readlink -f "$one")")")
	done
	[ -n "$function" ] || fail 'there is no disk to attack'
	echo 8 > /proc/sys/vm/nr_hugepages
	echo "$function" > /sys/bus/pci/drivers/virtio-pci/unbind
	hostile "$function" "${SEED:-$(od -An -N4 -tu4 /dev/urandom)}" "$@" || fail 'the device failed a check'
	echo 0 > /proc/sys/vm/nr_hugepages
	echo "$function" > /sys/bus/pci/drivers/virtio-pci/bind
}
