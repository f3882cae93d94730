# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: fs-verity in an encrypted directory verifies, and reads fail if the image is changed
# needs: CONFIG_FS_VERITY fsverity
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

size=1000000
make_files tree 0 $size 5000
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
cp -r "$OUT/plain/tree/." "$MNT/secret"
plain=$OUT/plain/tree/file-1-of-$size
file=$MNT/secret/file-1-of-$size
other=$MNT/secret/file-2-of-5000

fsverity enable "$file"
fsverity enable "$other"
expected=$(fsverity digest --compact --out-merkle-tree=/tmp/tree "$plain")
measured=$(fsverity measure "$file")
[ "${measured%% *}" = "sha256:$expected" ] || fail "measured $measured, expected $expected"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_failure 'writing to a verity file' dd if=/dev/zero of="$file" bs=1 count=1 conv=notrunc status=none
expect_native
note "verified: $measured"

# ext4 stores the hash tree after the end of the file, at the next multiple of 64 KiB.
tree_at=$(((size + 65535) / 65536 * 65536))
data_place=$(physical "$file" $((512 << 10)))
tree_place=$(physical "$file" $tree_at)
record "$MNT/secret" tree

note 'the hash tree is encrypted like contents: the host checks it as a part of the file'
cp "$plain" "$OUT/plain/file-and-tree"
truncate -s $tree_at "$OUT/plain/file-and-tree"
cat /tmp/tree >> "$OUT/plain/file-and-tree"
fscrypt-map --size "$(stat -c %s "$OUT/plain/file-and-tree")" --strip "$file" --prefix file-and-tree "$file" \
	>> "$OUT/manifest.jsonl"

# tamper PLACE WHAT READS: flips a bit of the image at PLACE; the command READS must fail. Then it flips the bit back.
tamper() {
	umount "$MNT"
	dd if="$DISK" of=/tmp/good bs=1 skip="$1" count=1 status=none
	byte=$(od -An -tu1 /tmp/good)
	env printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$DISK" bs=1 seek="$1" conv=notrunc,fsync status=none
	drop_caches
	dmesg_clear
	mount_fs "$DISK" "$MNT"
	unlock one "$MNT"
	# shellcheck disable=SC2086 # several words
	if dd if="$file" of=/dev/null bs=64k $3 2> /tmp/words; then
		fail "$2 was changed on the disk, but reading succeeds"
	fi
	grep -q 'Input/output error' /tmp/words || fail "$2 was changed on the disk, but reading fails with: $(cat /tmp/words)"
	dmesg_has 'FILE CORRUPTED' || fail 'the kernel does not say that the file is corrupted'
	cmp "$OUT/plain/tree/${other##*/}" "$other" || fail 'the other file is affected'
	umount "$MNT"
	dd if=/tmp/good of="$DISK" bs=1 seek="$1" conv=notrunc,fsync status=none
	drop_caches
	mount_fs "$DISK" "$MNT"
	unlock one "$MNT"
	same_files "$OUT/plain/tree" "$MNT/secret"
	note "$2: the change is noticed, and the file can be read after it is reverted"
}

tamper "$data_place" 'a block of data' 'skip=8 count=1'
tamper "$tree_place" 'a block of the hash tree' 'count=1'
umount "$MNT"
check_fs "$DISK"
