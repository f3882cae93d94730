# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs with each of its four checksums: the verifier finds the files on the image and recomputes the whole csum tree; encrypted where the kernel can
# image: 512M
# needs: CONFIG_BTRFS_FS mkfs.btrfs python3
# check: fscrypt

FS=btrfs
make_files tree 0 1 4095 65536 1048577
# What a direct write writes: 4 MiB, each page the same.
mkdir "$OUT/plain/direct"
make-data 4096 8 "$SENTINEL" > /tmp/page
for page in $(seq 1024); do
	cat /tmp/page
done > "$OUT/plain/direct/file"
# Extents that are only partly in use, and one that two files share.
cp "$OUT/plain/tree/file-4-of-1048577" "$OUT/plain/tree/changed"
make-data 40000 9 | dd of="$OUT/plain/tree/changed" bs=4096 seek=20 conv=notrunc status=none
printf 'label: gpt\nsize=124MiB\nsize=124MiB\nsize=124MiB\nsize=124MiB\n' | sfdisk -q "$DISK"
part=0

# direct_write FILE: one write from 1024 times the same page of memory. No two of these are neighbours, and a bio has at most 256
# pieces of memory. So this becomes four bios, each an extent of its own, for files without checksums. What is to have checksums is
# copied to larger pieces first.
direct_write() {
	python3 - "$1" <<-'END'
		import mmap, os, sys
		page = mmap.mmap(-1, 4096)
		with open("/tmp/page", "rb") as file:
		    page[:] = file.read()
		fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
		assert os.pwritev(fd, [page] * 1024, 0) == 4194304
	END
}

for algorithm in crc32c xxhash sha256 blake2; do
	part=$((part + 1))
	offset=$(($(cat "$BLOCK/${DISK##*/}$part/start") * 512))
	BTRFS_OPTIONS="--csum $algorithm"
	make_fs "$DISK$part"
	mount_fs "$DISK$part" "$MNT"
	mkdir "$MNT/sums" "$MNT/no-sums"
	chattr +C "$MNT/no-sums"
	encrypted=false
	if has_fscrypt "$MNT"; then
		encrypted=true
		for directory in sums no-sums; do
			encrypted_dir "$MNT/$directory" one
		done
	fi
	for directory in sums no-sums; do
		cp -r --reflink=never "$OUT/plain/tree" "$MNT/$directory"
		sync
		cp --reflink=always "$MNT/$directory/tree/file-4-of-1048577" "$MNT/$directory/tree/changed"
		make-data 40000 9 | dd of="$MNT/$directory/tree/changed" bs=4096 seek=20 conv=notrunc status=none
		mkdir "$MNT/$directory/direct"
		direct_write "$MNT/$directory/direct/file"
	done
	sync
	drop_caches
	for directory in sums no-sums; do
		same_files "$OUT/plain/tree" "$MNT/$directory/tree"
		same_files "$OUT/plain/direct" "$MNT/$directory/direct"
		record_btrfs "$MNT/$directory/tree" tree "$offset" $encrypted
		extents=1
		[ $directory = sums ] || extents=4
		record_btrfs "$MNT/$directory/direct" direct "$offset" $encrypted $extents
	done
	# btrfs repairs metadata, of which it has two copies, without an error.
	btrfs scrub start -B "$MNT" > /tmp/scrub || fail "scrub, $algorithm: $(cat /tmp/scrub)"
	grep -q 'no errors found' /tmp/scrub || fail "scrub, $algorithm: $(cat /tmp/scrub)"
	btrfs device stats -c "$MNT" || fail "btrfs has seen errors, $algorithm"
	umount "$MNT"
	check_fs "$DISK$part"
done
if [ $encrypted = false ]; then
	note "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
elif [ -e /sys/module/blk_crypto_digest_test ]; then
	expect_native
fi
