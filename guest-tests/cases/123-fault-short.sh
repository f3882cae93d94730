# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: short transfers of encrypted files are errors for the guest, and a retry succeeds
# device: --fault short,op=write,slot=0-31,count=1 --fault short=4096,op=read,slot=0-31,count=1
# device: --fault short=0,op=read,slot=0-31,nth=2,count=1
# check: fscrypt
# errors: expected
# stat: events.fault == 3
# stat: requests.failed == 3
# stat: keyslots.nokey == 0

# fails_with_eio WHAT COMMAND...
fails_with_eio() {
	local what=$1
	shift
	if "$@" 2> /tmp/words; then
		fail "$what: no error"
	fi
	grep -q 'Input/output error' /tmp/words || fail "$what: $(cat /tmp/words)"
	note "EIO: $what"
}

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
plain=$OUT/plain/tree/file-9-of-65536
file=$MNT/secret/file-9-of-65536
fallocate -l 65536 "$file"
fails_with_eio 'the first half was written' dd if="$plain" of="$file" bs=65536 oflag=direct conv=notrunc status=none
dd if="$plain" of="$file" bs=65536 oflag=direct conv=notrunc,fsync status=none
fails_with_eio 'the first block was read' dd if="$file" of=/tmp/read bs=65536 iflag=direct status=none
fails_with_eio 'nothing was read' dd if="$file" of=/tmp/read bs=65536 iflag=direct status=none
dd if="$file" of=/tmp/read bs=65536 iflag=direct status=none
cmp "$plain" /tmp/read
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
