# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: errors of the device reach the guest's programs as EIO, and the device keeps working
# device: --fault io-error,op=read+write,sector=204800-204807,nth=1,count=2 --fault io-error,op=flush,count=1
# device: --fault io-error,op=program,count=1 --fault io-error,op=write,slot=0-31,count=1
# device: --fault io-error,op=read,slot=0-31,count=1
# check: fscrypt
# errors: expected
# stat: events.fault == 6
# stat: requests.failed == 6
# stat: keyslots.program_failed == 1
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

# block ARGUMENT...: copies one block of 4096 bytes with dd.
block() {
	dd bs=4096 count=1 conv=notrunc status=none "$@"
}

make_files tree 0
note 'the bare disk: bad sectors, and a flush that fails'
fails_with_eio 'writing a bad sector' block if=/dev/zero of="$DISK" seek=25600 oflag=direct
fails_with_eio 'reading a bad sector' block if="$DISK" of=/dev/null skip=25600 iflag=direct
block if="$DISK" of=/dev/null skip=25600 iflag=direct
fails_with_eio 'a flush' block if=/dev/zero of="$DISK" conv=notrunc,fsync
block if=/dev/zero of="$DISK" conv=notrunc,fsync

note 'an encrypted file: a key that cannot be programmed, then a write, then a read'
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
file=$MNT/secret/file-9-of-65536
fails_with_eio 'programming the key' block if="$OUT/plain/tree/file-9-of-65536" of="$file" oflag=direct
fails_with_eio 'writing' block if="$OUT/plain/tree/file-9-of-65536" of="$file" oflag=direct
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
fails_with_eio 'reading' block if="$file" of=/dev/null iflag=direct
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
