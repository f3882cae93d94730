# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
# `cargo xtask btrfs` in the guest: executes the host's commands from the port "dialog", one at a time (dialoglib.sh). The
# host decides what is done and judges it (xtask/src/btrfs). After lib.sh and fslib.sh, whose functions are used.

FS=btrfs
# The text in plain files, which may be on the disk.
OPEN='text-of-a-file-that-is-not-encrypted'

# start SERIAL: a btrfs on this disk, at $MNT/SERIAL.
start() {
	local device
	device=$(find_disk "$1")
	make_fs "$device"
	mount_fs "$device" "$MNT/$1" -o noatime
}

# directory SERIAL NAME encrypted|open sums|nosums
directory() {
	local path=$MNT/$1/$2 identifier
	mkdir -p "$path"
	[ "$4" = sums ] || chattr +C "$path"
	[ "$3" = encrypted ] || return 0
	identifier=$(add_key btrfs "$MNT/$1")
	set_policy "$path" "$identifier"
}

# plaintext encrypted|open: makes the contents of the files. $OUT/plain/encrypted and open have the same names.
plaintext() {
	local text=$SENTINEL size seed=0
	[ "$1" = encrypted ] || text=$OPEN
	mkdir -p "$OUT/plain/$1"
	for size in 1 4095 4096 65536 100001 1048577 8388608; do
		seed=$((seed + 1))
		make-data "$size" "$seed" "$text" > "$OUT/plain/$1/file-$seed-of-$size"
	done
	[ "$1" != encrypted ] || echo "$SENTINEL" > "$OUT/sentinel"
}

# fill SERIAL NAME PLAIN: writes and syncs the files; prints the number of bytes.
fill() {
	cat "$OUT/plain/$3"/* | wc -c
	/tmp/mark begin
	cp -r --reflink=never "$OUT/plain/$3/." "$MNT/$1/$2"
	sync -f "$MNT/$1"
	/tmp/mark end
}

# put SERIAL NAME PLAIN: the same, not counted.
put() {
	cp --reflink=never "$OUT/plain/$3"/* "$MNT/$1/$2"
	sync -f "$MNT/$1"
}

# same SERIAL NAME PLAIN: reads them from the disk.
same() {
	drop_caches
	diff -r "$OUT/plain/$3" "$MNT/$1/$2" > /tmp/diff 2>&1 || { head -n 3 /tmp/diff; return 1; }
}

# remount SERIAL NAME encrypted|open: drops all caches.
remount() {
	local device
	device=$(find_disk "$1")
	umount "$MNT/$1"
	mount_fs "$device" "$MNT/$1" -o noatime
	[ "$3" = open ] || unlock btrfs "$MNT/$1"
}

# scrub SERIAL: the kernel checks the checksums of all data on the disk.
scrub() {
	btrfs scrub start -B "$MNT/$1" > /tmp/scrub 2>&1 || { cat /tmp/scrub; return 1; }
	grep -q 'no errors found' /tmp/scrub || { cat /tmp/scrub; return 1; }
}

# balance SERIAL: moves all data and metadata.
balance() {
	btrfs balance start --full-balance "$MNT/$1" > /tmp/balance 2>&1 || { cat /tmp/balance; return 1; }
}

# snapshot SERIAL NAME PLAIN: it has the same files.
snapshot() {
	[ -e "$MNT/$1/snapshot" ] || btrfs -q subvolume snapshot "$MNT/$1" "$MNT/$1/snapshot"
	drop_caches
	diff -r "$OUT/plain/$3" "$MNT/$1/snapshot/$2"
}

# reflink SERIAL NAME PLAIN: two files with one extent.
reflink() {
	local name=file-6-of-1048577
	cp --reflink=always "$MNT/$1/$2/$name" "$MNT/$1/$2/shared"
	sync -f "$MNT/$1"
	cp "$OUT/plain/$3/$name" "$OUT/plain/$3/shared"
	drop_caches
	cmp "$OUT/plain/$3/shared" "$MNT/$1/$2/shared"
}

# change SERIAL NAME: writes into the front, the middle and the end of an extent, of which parts remain.
change() {
	change_file "$MNT/$1/$2"
	sync -f "$MNT/$1"
}

# change_plaintext PLAIN NEW: makes the contents that the files must have after that.
change_plaintext() {
	cp -r "$OUT/plain/$1" "$OUT/plain/$2"
	change_file "$OUT/plain/$2"
}

change_file() {
	local at seed=20
	for at in 0 500 2047; do
		seed=$((seed + 1))
		make-data 4096 "$seed" | dd of="$1/file-7-of-8388608" bs=4096 iflag=fullblock seek=$at conv=notrunc,fsync status=none
	done
}

# record_dir SERIAL NAME PLAIN encrypted|open: for the host's verifier.
record_dir() {
	local encrypted=false
	[ "$4" = open ] || encrypted=true
	record_btrfs "$MNT/$1/$2" "$3" 0 $encrypted
}

# recorded NAME: ends the record of this image.
recorded() {
	mv "$OUT/manifest.jsonl" "$OUT/$1.jsonl"
}

# load SERIAL NAME small|write|random|read: loads whose keys are counted.
load() {
	local path=$MNT/$1/$2 number
	case $3 in
		small)
			/tmp/mark begin
			for number in $(seq 200); do
				make-data 4096 "$number" > "$path/small-$number"
			done
			sync -f "$path"
			/tmp/mark end
			;;
		write) fio_load "$path" --rw=write --bs=1M --end_fsync=1 ;;
		random) fio_load "$path" --rw=randwrite --bs=4k --direct=1 --io_size=4M --end_fsync=1 ;;
		read)
			drop_caches
			fio_load "$path" --rw=randread --bs=4k --direct=1 --io_size=4M
			;;
	esac
}

fio_load() {
	local path=$1
	shift
	fio --name=load --filename="$path/data" --size=16M --fallocate=none --eta=never --randrepeat=1 --output=/tmp/fio.txt \
		--exec_prerun='/tmp/mark begin' --exec_postrun='/tmp/mark end' "$@" || {
		# Usually its standard error has the reason.
		grep -m 1 '^fio: ' /tmp/fio.txt || true
		return 1
	}
}

# mirror SERIAL SERIAL: a btrfs with two copies of everything, at $MNT/mirror.
mirror() {
	local first second
	first=$(find_disk "$1")
	second=$(find_disk "$2")
	modprobe -q btrfs || true
	mkfs.btrfs -q -f -d raid1 -m raid1 "$first" "$second"
	mount_fs "$first" "$MNT/mirror" -o noatime
}

# damage SERIAL OTHER encrypted|open: overwrites the copy on the first of the two disks, except its superblocks.
damage() {
	local device other
	device=$(find_disk "$1")
	other=$(find_disk "$2")
	umount "$MNT/mirror"
	dd if=/dev/urandom of="$device" bs=1M seek=66 count=200 conv=notrunc,fsync status=none
	btrfs -q device scan "$device" "$other"
	mount_fs "$other" "$MNT/mirror" -o noatime
	[ "$3" = open ] || unlock btrfs "$MNT/mirror"
}

# repair: scrub finds the damage, repairs all of it, and finds nothing more.
repair() {
	btrfs scrub start -B "$MNT/mirror" > /tmp/scrub 2>&1 || { cat /tmp/scrub; return 1; }
	grep -q 'Corrected: *[1-9]' /tmp/scrub || { cat /tmp/scrub; echo 'nothing was repaired'; return 1; }
	scrub mirror
}

# replace_disk SERIAL SERIAL: replaces the first disk by the second.
replace_disk() {
	btrfs replace start -B -f "$(find_disk "$1")" "$(find_disk "$2")" "$MNT/mirror" > /tmp/replace 2>&1 || { cat /tmp/replace; return 1; }
}

# leave_mirror SERIAL
leave_mirror() {
	umount "$MNT/mirror"
	check_btrfs "$(find_disk "$1")"
}

# leave SERIAL: unmounts it, and has Debian's btrfs-progs check it as far as they can.
leave() {
	local device
	device=$(find_disk "$1")
	umount "$MNT/$1"
	check_btrfs "$device"
}

answer_the_host
