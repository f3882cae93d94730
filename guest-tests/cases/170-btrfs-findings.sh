# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs with fscrypt: what was found in the public series (docs/btrfs.md) is not there
# image: 600M
# timeout: 400
# needs: CONFIG_BTRFS_FS mkfs.btrfs

FOUND=''

# fresh [OPTIONS [ATTRIBUTE]]: an empty btrfs with an encrypted directory $MNT/secret, which has the attribute.
fresh() {
	local identifier
	mkfs.btrfs -q -f "$DISK"
	mount -t btrfs -o "${1:-rw}" "$DISK" "$MNT"
	has_fscrypt "$MNT" || skip "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
	identifier=$(add_key one "$MNT")
	mkdir "$MNT/secret"
	[ -z "${2:-}" ] || chattr "$2" "$MNT/secret"
	set_policy "$MNT/secret" "$identifier"
}

# write FILE CONTENT BLOCK: overwrites blocks of 4096 bytes, and waits until the new extent is in the tree.
write() {
	dd if="$2" of="$1" bs=4096 seek="$3" conv=notrunc status=none
	sync || true
}

# reads_back FINDING FILE EXPECTED: after a new mount.
reads_back() {
	if grep -q " $MNT btrfs ro" /proc/mounts; then
		FOUND="$FOUND; $1: transaction aborted"
		note "FOUND: $1: the transaction was aborted"
	fi
	umount "$MNT"
	mount -t btrfs "$DISK" "$MNT"
	unlock one "$MNT"
	if cmp "$2" "$3"; then
		note "ok: $1"
	else
		FOUND="$FOUND; $1"
		note "FOUND: $1"
	fi
	umount "$MNT"
}

make-data 65536 1 "$SENTINEL" > /tmp/old
make-data 16384 2 "$SENTINEL" > /tmp/new

note 'the first blocks of an extent are overwritten'
{ cat /tmp/new; tail -c +16385 /tmp/old; } > /tmp/expected
fresh
cp /tmp/old "$MNT/secret/file"
sync
write "$MNT/secret/file" /tmp/new 0
reads_back 'head overwritten' "$MNT/secret/file" /tmp/expected

note 'blocks in the middle of an extent are overwritten'
{ head -c 16384 /tmp/old; cat /tmp/new; tail -c +32769 /tmp/old; } > /tmp/expected
fresh
cp /tmp/old "$MNT/secret/file"
sync
write "$MNT/secret/file" /tmp/new 4
reads_back 'middle overwritten' "$MNT/secret/file" /tmp/expected

note 'a file is truncated and written again'
fresh
cp /tmp/old "$MNT/secret/file"
sync
cat /tmp/old > "$MNT/secret/file"
sync || true
reads_back 'truncated and written again' "$MNT/secret/file" /tmp/old

note 'a file is overwritten and fsynced, then the machine is gone: the disk as it is, on a loop device'
make-data 65536 3 "$SENTINEL" > /tmp/expected
fresh
cp /tmp/old "$MNT/secret/file"
sync
dd if=/tmp/expected of="$MNT/secret/file" bs=65536 conv=notrunc,fsync status=none
dd if="$DISK" of=/tmp/image bs=1M conv=sparse status=none
umount "$MNT"
disk=$DISK
DISK=$(losetup -f --show /tmp/image)
mount -t btrfs "$DISK" "$MNT"
reads_back 'fsynced before a crash' "$MNT/secret/file" /tmp/expected
losetup -d "$DISK"
DISK=$disk
rm /tmp/image

note 'direct writes finish at the same time'
fresh
fio --name=f --filename="$MNT/secret/file" --size=4M --rw=randrw --bsrange=4k-64k --ioengine="$(fio_engine)" --iodepth=8 \
	--direct=1 --output=/dev/null || true
sync || true
cp "$MNT/secret/file" /tmp/expected
reads_back 'direct writes at the same time' "$MNT/secret/file" /tmp/expected

note 'a compressed file'
{ echo "$SENTINEL"; head -c 131000 /dev/zero; } > /tmp/expected
fresh compress-force=lzo
cp /tmp/expected "$MNT/secret/file"
reads_back 'compressed' "$MNT/secret/file" /tmp/expected
if grep -q "$SENTINEL" "$DISK"; then
	FOUND="$FOUND; plaintext of a compressed file"
	note 'FOUND: plaintext of a compressed file'
fi

note 'an extent is shared with a file of another key'
fresh
identifier=$(add_key two "$MNT")
set_policy "$MNT/other" "$identifier"
cp /tmp/old "$MNT/secret/file"
sync
if cp --reflink=always "$MNT/secret/file" "$MNT/other/file" 2> /tmp/refused; then
	drop_caches
	cmp "$MNT/other/file" /tmp/old || FOUND="$FOUND; shared with another key"
else
	grep -q 'Invalid argument' /tmp/refused || fail "$(cat /tmp/refused)"
fi
umount "$MNT"

# With chattr +C the keys are native, so their eviction has to wait for the device.
for attribute in +C +d; do
	note "the shrinker drops extents with keys ($attribute)"
	fresh rw $attribute
	fio --name=f --directory="$MNT/secret" --size=8M --rw=randwrite --bs=4k --ioengine=psync --fsync=64 --output=/dev/null || true
	fio --name=f --directory="$MNT/secret" --size=8M --rw=randread --bs=4k --ioengine=psync --output=/dev/null || true
	sync
	echo 3 > /proc/sys/vm/drop_caches
	sleep 2
	umount "$MNT"
done
if dmesg_has 'scheduling while atomic' || dmesg_has 'sleeping function called from invalid context'; then
	FOUND="$FOUND; sleeping under a spinlock"
fi

dmesg | grep -E 'fscrypt:|BTRFS (error|critical)' | sort -u | head -n 20 || true
[ -z "$FOUND" ] || fail "found${FOUND#;}"
