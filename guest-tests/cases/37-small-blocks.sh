# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a file system with blocks smaller than a page: ciphertext on the image is what fscrypt defines
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

FS_BLOCK=1024
make_files tree 0
make_files tree/long 100 $(((3 << 20) + 5))
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
for policy in per-file:1024 per-file:512 ino-lblk-64:1024; do
	encrypted_dir "$MNT/$policy" one "${policy%:*}" "${policy#*:}"
	cp -r "$OUT/plain/tree/." "$MNT/$policy"
	# A page with holes between its blocks.
	make-data 9000 50 "$SENTINEL" > "$OUT/plain/tree/blocks"
	rm -f "$MNT/$policy/blocks"
	truncate -s 9000 "$MNT/$policy/blocks"
	for block in 8 3 5 0 1 7 2 4 6; do
		dd if="$OUT/plain/tree/blocks" of="$MNT/$policy/blocks" bs=1000 seek="$block" skip="$block" count=1 \
			conv=notrunc,fsync status=none
	done
done
drop_caches
for policy in per-file:1024 per-file:512 ino-lblk-64:1024; do
	same_files "$OUT/plain/tree" "$MNT/$policy"
	record "$MNT/$policy" tree
done
expect_native
umount "$MNT"
check_fs "$DISK"
