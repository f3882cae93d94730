# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# Cases about hardware-wrapped keys that run with keyslots and with keys in requests. Sourced after driverlib.sh.

# raw_and_wrapped_case: raw and hardware-wrapped keys side by side, even of the same bytes, under every policy.
raw_and_wrapped_case() {
	local hex added wrapped directories directory round
	needs_wrapped_keys
	make_files tree 0 100 4096 70001 524288
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/raw" one
	encrypted_dir "$MNT/raw-64" one ino-lblk-64
	wrapped_dir "$MNT/wrapped-64" one ino-lblk-64
	wrapped_dir "$MNT/wrapped-32" one ino-lblk-32
	wrapped_dir "$MNT/wrapped-sectors" two ino-lblk-64 512
	# The bytes inside a wrapped key, added as a raw key, make another key.
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
		same_files_at_once "in round $round" $directories
	done
	expect_native
	record_with_names $directories
	umount "$MNT"
	check_fs "$DISK"
}

# disk_key VERB ARGUMENT...: a key ioctl of the disk.
disk_key() {
	blk-crypto-key "$DISK" "$@"
}

# contains FILE PART: true when the bytes of PART are somewhere in FILE.
contains() {
	od -An -v -tx1 "$1" | tr -d ' \n' | grep -q "$(od -An -v -tx1 "$2" | tr -d ' \n')"
}

# wrapped_key_ioctls_case: hardware-wrapped keys are generated, imported and prepared by ioctls of the disk, with every documented
# error.
wrapped_key_ioctls_case() {
	local name file count room at byte
	needs_wrapped_keys
	[ "$(crypto_attr hw_wrapped_keys)" = supported ] || fail "wrapped keys: $(crypto_attr hw_wrapped_keys)"
	[ "$(crypto_attr raw_keys)" = supported ] || fail "raw keys: $(crypto_attr raw_keys)"
	mkdir /tmp/keys
	cd /tmp/keys || exit

	note 'generated, imported, prepared: each result is a different blob, of a size that the kernel accepts, without the key'
	disk_key generate one.lt
	disk_key generate two.lt
	head -c 32 /dev/urandom > raw
	disk_key import raw raw-1.lt
	disk_key import raw raw-2.lt
	for name in one two raw-1 raw-2; do
		disk_key prepare $name.lt $name.eph
	done
	disk_key prepare one.lt one-again.eph
	for file in *.lt *.eph; do
		# At least the key, a nonce and a tag; at most the kernel's maximum.
		if [ "$(stat -c %s "$file")" -lt 60 ] || [ "$(stat -c %s "$file")" -gt 128 ]; then
			fail "$file has $(stat -c %s "$file") bytes"
		fi
		if contains "$file" raw; then
			fail "$file contains the raw key"
		fi
	done
	[ -z "$(sha256sum ./*.lt ./*.eph | cut -d ' ' -f 1 | sort | uniq -d)" ] || fail 'two blobs are the same'

	note 'EINVAL: invalid sizes'
	for count in 0 1 15 16 31 33 64 65 128; do
		head -c $count /dev/urandom > odd
		expect_errno EINVAL disk_key import odd out
	done
	for count in 0 129 200; do
		head -c $count /dev/urandom > odd
		expect_errno EINVAL disk_key prepare odd out
	done

	note 'EOVERFLOW: less room than the result needs; exactly as much succeeds'
	room=$(stat -c %s one.lt)
	for count in 0 1 $((room - 1)); do
		expect_errno EOVERFLOW blk-crypto-key -s "$count" "$DISK" generate out
		expect_errno EOVERFLOW blk-crypto-key -s "$count" "$DISK" import raw out
	done
	expect_errno EOVERFLOW blk-crypto-key -s $(($(stat -c %s one.eph) - 1)) "$DISK" prepare one.lt out
	blk-crypto-key -s "$room" "$DISK" generate out
	blk-crypto-key -s "$(stat -c %s one.eph)" "$DISK" prepare one.lt out

	note 'EBADMSG: a changed bit anywhere, another length, the other form, noise'
	at=0
	while [ $at -lt "$room" ]; do
		cp one.lt changed
		byte=$(od -An -tu1 -j $at -N 1 one.lt)
		env printf "$(printf '\\%03o' $((byte ^ 1 << at % 8)))" | dd of=changed bs=1 seek=$at conv=notrunc status=none
		expect_errno EBADMSG disk_key prepare changed out
		at=$((at + 1))
	done
	head -c $((room - 1)) one.lt > changed
	expect_errno EBADMSG disk_key prepare changed out
	{ cat one.lt; head -c 1 /dev/urandom; } > changed
	expect_errno EBADMSG disk_key prepare changed out
	head -c 1 one.lt > changed
	expect_errno EBADMSG disk_key prepare changed out
	expect_errno EBADMSG disk_key prepare one.eph out
	expect_errno EBADMSG disk_key prepare raw out
	head -c "$room" /dev/zero > changed
	expect_errno EBADMSG disk_key prepare changed out
	head -c 128 /dev/urandom > changed
	expect_errno EBADMSG disk_key prepare changed out

	note 'after all that, the keys still work'
	disk_key prepare one.lt out
	disk_key prepare raw-1.lt out
	cd /
}

# wrapped_key_removal_case: adding and removing hardware-wrapped master keys locks and unlocks files; every documented error.
wrapped_key_removal_case() {
	local identifier directories directory byte count
	needs_wrapped_keys
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	import_key one /tmp/one.lt
	blk-crypto-key "$DISK" prepare /tmp/one.lt /tmp/one.eph
	identifier=$(add-wrapped-key "$MNT" /tmp/one.eph)
	set_policy "$MNT/secret-64" "$identifier" ino-lblk-64
	set_policy "$MNT/secret-32" "$identifier" ino-lblk-32
	set_policy "$MNT/sectors" "$identifier" ino-lblk-64 512
	wrapped_dir "$MNT/other" two ino-lblk-64
	directories='secret-64 secret-32 sectors'
	for directory in $directories other; do
		cp -r "$OUT/plain/tree/." "$MNT/$directory"
	done
	expect_native

	note 'EBADMSG: no key, a changed one, the long-term form'
	head -c 90 /dev/urandom > /tmp/bad
	expect_errno EBADMSG add-wrapped-key "$MNT" /tmp/bad
	expect_errno EBADMSG add-wrapped-key "$MNT" /tmp/one.lt
	cp /tmp/one.eph /tmp/bad
	byte=$(od -An -tu1 -j 40 -N 1 /tmp/bad)
	env printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of=/tmp/bad bs=1 seek=40 conv=notrunc status=none
	expect_errno EBADMSG add-wrapped-key "$MNT" /tmp/bad
	note 'EINVAL: invalid sizes'
	for count in 0 15 129; do
		head -c $count /dev/urandom > /tmp/bad
		expect_errno EINVAL add-wrapped-key "$MNT" /tmp/bad
	done

	note 'a wrapped key cannot be used for per-file keys, and files cannot be made'
	set_policy "$MNT/per-file" "$identifier" per-file
	if mkdir "$MNT/per-file/x" 2> /tmp/words || (: > "$MNT/per-file/y") 2>> /tmp/words; then
		fail 'per-file keys and a wrapped key: a file could be made'
	fi
	grep -q 'Invalid argument' /tmp/words || fail "per-file keys and a wrapped key: $(cat /tmp/words)"

	note 'removed: names and contents are locked'
	remove_key "$identifier" "$MNT"
	expect_locked $directories
	same_files "$OUT/plain/tree" "$MNT/other"

	note 'the same blob unlocks them again, and so does a new one of the same key'
	[ "$(add-wrapped-key "$MNT" /tmp/one.eph)" = "$identifier" ] || fail 'the key got another identifier'
	for directory in $directories; do
		same_files "$OUT/plain/tree" "$MNT/$directory"
	done
	remove_key "$identifier" "$MNT"
	[ "$(add_long_term_key /tmp/one.lt "$MNT")" = "$identifier" ] || fail 'prepared again, the key has another identifier'
	drop_caches
	for directory in $directories other; do
		same_files "$OUT/plain/tree" "$MNT/$directory"
		record "$MNT/$directory" tree
		record_names "$MNT/$directory"
	done
	umount "$MNT"

	note 'EOPNOTSUPP: mounted without -o inlinecrypt'
	mount -t ext4 "$DISK" "$MNT"
	expect_errno EOPNOTSUPP add-wrapped-key "$MNT" /tmp/one.eph
	[ ! -e "$MNT/secret-64/file-9-of-65536" ] || fail 'names can be read without the key'
	umount "$MNT"

	note 'EOPNOTSUPP: on the stock driver, which cannot use the key either'
	change_driver virtio_blk
	mount_fs "$DISK" "$MNT"
	expect_errno EOPNOTSUPP add-wrapped-key "$MNT" /tmp/one.eph
	expect_unreadable "$MNT/secret-64"
	umount "$MNT"
	check_fs "$DISK"
}
