# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
# `cargo xtask compare` in the guest: executes the host's commands from the port "dialog", one at a time (dialoglib.sh). The
# host decides what is measured and in which order (xtask/src/compare). After lib.sh and fslib.sh, whose functions are used.

# disk SERIAL PARTITIONS MIB: divides the disk into PARTITIONS parts of MIB MiB; prints its inline encryption.
disk() {
	local path part=0 table='label: gpt'
	path=$(find_disk "$1")
	while [ $part -lt "$2" ]; do
		table="$table
size=$3MiB"
		part=$((part + 1))
	done
	echo "$table" | sfdisk -q "$path"
	[ -b "$path$2" ] || { echo "$path has no part $2"; return 1; }
	cd "/sys/block/${path##*/}/queue/crypto" || return 0
	for _f in * modes/*; do
		[ ! -f "$_f" ] || echo "$_f=$(cat "$_f")"
	done
}

# volume NAME TARGET DEVICE OPTION...: /dev/mapper/NAME, encrypted by the device mapper.
volume() {
	local name=$1 target=$2 device=$3
	shift 3
	modprobe -q "dm_$target" || true
	echo "0 $(blockdev --getsz "$device") $target aes-xts-plain64 $(key_hex "$name") 0 $device 0 $# $*" \
		| dmsetup create --noudevsync "$name"
	dmsetup mknodes
}

# make NAME FILE_SYSTEM HOW SERIAL PARTITION: makes and mounts the file system of a target; its directory is $MNT/NAME/d.
make() {
	local name=$1 how=$3 device top=$MNT/$1
	FS=$2
	device=$(find_disk "$4")$5
	case $how in
		dm-crypt) volume "$name" crypt "$device" sector_size:4096 iv_large_sectors ;;
		dm-inlinecrypt) volume "$name" inlinecrypt "$device" keytype:raw sector_size:4096 iv_large_sectors ;;
	esac
	case $how in dm-*) device=/dev/mapper/$name ;; esac
	case $FS in
		# Leave no work for the background.
		ext4) mkfs.ext4 -q -F -b 4096 -O encrypt,verity,stable_inodes -E lazy_itable_init=0,lazy_journal_init=0 "$device" ;;
		*) make_fs "$device" ;;
	esac
	case $how in
		native | fallback) mount_fs "$device" "$top" -o noatime ;;
		*)
			mkdir -p "$top"
			[ "$FS" != btrfs ] || modprobe -q btrfs || true
			mount -t "$FS" -o noatime "$device" "$top"
			;;
	esac
	mkdir "$top/d"
	case $how in
		native | fallback | no-inlinecrypt) encrypted_dir "$top/d" "$name" ;;
	esac
}

# layout NAME MIB: the file that loads read and write.
layout() {
	fio --name=layout --filename="$MNT/$1/d/data" --rw=write --bs=1M --size="$2M" --direct=1 --end_fsync=1 --fallocate=none \
		--output=/tmp/layout.txt || { cat /tmp/layout.txt; return 1; }
}

# load NAME OPTION...: runs fio; prints its JSON.
load() {
	local name=$1
	shift
	fio --name=load --filename="$MNT/$name/d/data" --direct=1 --output-format=json --eta=never --fallocate=none --randrepeat=0 \
		--lat_percentiles=1 --clat_percentiles=0 \
		--exec_prerun='/tmp/mark begin' --exec_postrun='/tmp/mark end' "$@"
}

# small_files COUNT: makes an archive of small files, of sizes as in a source tree.
small_files() {
	local seed=0 size
	mkdir /tmp/small
	while [ $seed -lt "$1" ]; do
		for size in 700 1500 2800 4096 5000 9000 13000 31000; do
			seed=$((seed + 1))
			mkdir -p "/tmp/small/$((seed / 32))"
			make-data $size $seed > "/tmp/small/$((seed / 32))/$seed.c"
		done
	done
	tar -cf /tmp/small.tar -C /tmp/small .
	find /tmp/small -type f -printf '%s\n' | awk '{ n++; bytes += $1 } END { print n, bytes }' > /tmp/small.count
	rm -r /tmp/small
}

# untar NAME: unpacks them and writes them back to the disk; prints JSON.
untar() {
	local top=$MNT/$1/d start end files bytes
	read -r files bytes < /tmp/small.count
	rm -rf "$top/small"
	mkdir "$top/small"
	sync -f "$top"
	/tmp/mark begin
	start=$(date +%s%N)
	tar -xf /tmp/small.tar -C "$top/small"
	sync -f "$top"
	end=$(date +%s%N)
	/tmp/mark end
	echo "{\"requests\":$files,\"bytes\":$bytes,\"nanoseconds\":$((end - start))}"
}

# churn_files NAME COUNT: makes COUNT files, each with a key of its own.
churn_files() {
	key-churn prepare "$MNT/$1/d" "$2" 16384
}

# churn NAME FILES read|write SECONDS SEED: one request after the other, each to any of the files; prints JSON.
churn() {
	key-churn run "$MNT/$1/d" "$2" "$3" "$4" "$5" /tmp/mark
}

# For disks behind a UFS host controller, whose driver is loaded by now.
modprobe -q sd_mod || true

answer_the_host
for top in "$MNT"/*/; do
	umount "$top"
done
