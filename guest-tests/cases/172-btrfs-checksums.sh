# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs with each of its four checksums: the verifier finds the files on the image and recomputes the whole csum tree; encrypted where the kernel can
# image: 512M
# needs: CONFIG_BTRFS_FS mkfs.btrfs
# check: fscrypt

FS=btrfs
make_files tree 0 1 4095 65536 1048577
# So long that a direct write becomes several bios, each an extent of its own.
make-data 8388608 8 "$SENTINEL" > "$OUT/plain/tree/direct"
# Extents that are only partly in use, and one that two files share.
cp "$OUT/plain/tree/file-4-of-1048577" "$OUT/plain/tree/changed"
make-data 40000 9 | dd of="$OUT/plain/tree/changed" bs=4096 seek=20 conv=notrunc status=none
printf 'label: gpt\nsize=124MiB\nsize=124MiB\nsize=124MiB\nsize=124MiB\n' | sfdisk -q "$DISK"
part=0
for algorithm in crc32c xxhash sha256 blake2; do
	part=$((part + 1))
	offset=$(($(cat "$BLOCK/${DISK##*/}$part/start") * 512))
	BTRFS_OPTIONS="--csum $algorithm"
	make_fs "$DISK$part"
	mount_fs "$DISK$part" "$MNT"
	mkdir "$MNT/sums" "$MNT/no-sums"
	chattr +C "$MNT/no-sums"
	encrypted=false
	if unhex "$(key_hex one)" | xfs_io -c add_enckey "$MNT" > /tmp/added 2>&1; then
		encrypted=true
		for directory in sums no-sums; do
			encrypted_dir "$MNT/$directory" one
		done
	fi
	for directory in sums no-sums; do
		cp -r --reflink=never "$OUT/plain/tree/." "$MNT/$directory"
		sync
		cp --reflink=always "$MNT/$directory/file-4-of-1048577" "$MNT/$directory/changed"
		make-data 40000 9 | dd of="$MNT/$directory/changed" bs=4096 seek=20 conv=notrunc status=none
		dd if="$OUT/plain/tree/direct" of="$MNT/$directory/direct" bs=8M conv=notrunc oflag=direct status=none
	done
	sync
	drop_caches
	for directory in sums no-sums; do
		same_files "$OUT/plain/tree" "$MNT/$directory"
		record_btrfs "$MNT/$directory" tree "$offset" $encrypted
	done
	btrfs scrub start -B "$MNT" > /tmp/scrub || fail "scrub, $algorithm: $(cat /tmp/scrub)"
	umount "$MNT"
	check_fs "$DISK$part"
done
if [ $encrypted = false ]; then
	note "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
elif [ -d "$BLOCK/queue/crypto/digests" ]; then
	expect_native
fi
