# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# Cases in which the host does something to the device meanwhile: its steps, and kills. Sourced after caselib.sh.

# --- steps on the host -------------------------------------------------------------------------------------

# host_step [WORD...]: asks the host for the next step of the case's header, and sends it the words. The host acts soon, not at
# once.
host_step() {
	echo "${*:-next}" > "$(find_port progress)"
}

# host_step_done: as host_step, and waits until the host should have done it.
host_step_done() {
	host_step
	sleep 4
}

# wait_for_size BYTES: waits until the disk has this size.
wait_for_size() {
	local tries=0
	while [ "$(blockdev --getsize64 "$DISK")" != "$1" ]; do
		[ $tries -lt 300 ] || fail "the disk has $(blockdev --getsize64 "$DISK") bytes, not $1"
		tries=$((tries + 1))
		sleep 0.1
	done
	note "the disk has $1 bytes"
}

# begin_busy [OPTION...]: two files in $MNT/busy are written and verified in the background, until end_busy.
begin_busy() {
	local tries=0
	while [ ! -e /tmp/enough ]; do
		fio --name=busy --directory="$MNT/busy" --rw=randrw --bsrange=4k-64k --size=2M --numjobs=2 --ioengine="$(fio_engine)" \
			--iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 --group_reporting --output="$OUT/fio.txt" "$@" || exit 1
	done &
	BUSY=$!
	while [ ! -e "$MNT/busy/busy.1.0" ]; do
		[ $tries -lt 300 ] || fail 'fio does not start'
		tries=$((tries + 1))
		sleep 0.1
	done
	sleep 1
}

# end_busy: fio must have found all that it wrote, and the kernel no error. One of its files stays, for the verifier.
end_busy() {
	: > /tmp/enough
	wait $BUSY || { tail -n 30 "$OUT/fio.txt"; fail 'fio found an error'; }
	rm /tmp/enough
	if dmesg | grep -E ' error, dev |EXT4-fs error'; then
		fail 'the kernel saw an error'
	fi
	mv "$MNT/busy/busy.0.0" "$MNT/busy/kept"
	rm "$MNT"/busy/busy.*
	record_as_read "$MNT/busy/kept"
}

# pause_case: the host pauses the guest while files are written, verified and read with more keys than keyslots. A pause
# loses no key. Unbinding and binding the driver loses all.
pause_case() {
	local device driver round
	device=$(basename "$(readlink -f "$BLOCK/device")")
	driver=$(readlink -f "$BLOCK/device/driver")
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	encrypted_dir "$MNT/busy" two per-file 512
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	begin_busy --numjobs=6 --size=1M --iodepth=16 --bsrange=512-32k
	host_step
	for round in 1 2 3 4 5; do
		drop_caches
		same_files "$OUT/plain/tree" "$MNT/secret"
		sleep 0.5
	done
	host_step
	end_busy
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	sync
	note 'unbind the driver while keys are in the keyslots'
	echo "$device" > "$driver/unbind"
	umount "$MNT"
	echo "$device" > "$driver/bind"
	wait_for_disk yes
	host_step
	sleep 1
	secret_files_are_right
}

# replug_case TIMES: in the first step on the host another frontend connects, under I/O. The other steps unplug the disk and
# plug it in again. Earlier files must be right: each time the newest ones, in the end all.
replug_case() {
	local round tries number now before=
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	encrypted_dir "$MNT/busy" two per-file 512
	begin_busy --size=1M --iodepth=16 --bsrange=512-32k
	host_step
	sleep 3
	end_busy
	umount "$MNT"
	for round in $(seq "$1"); do
		mount_fs "$DISK" "$MNT"
		unlock one "$MNT"
		[ -z "$before" ] || same_files "$OUT/plain/tree/$before" "$MNT/secret/$before"
		before=$round
		make_files "tree/$round" $((100 * round)) 100 4097 70000
		cp -r "$OUT/plain/tree/$round" "$MNT/secret"
		umount "$MNT"
		# Each plugged-in disk gets another number.
		number=$(cat "$BLOCK/diskseq")
		host_step
		tries=0
		# The old one may go at any moment.
		while now=$(cat "$BLOCK/diskseq" 2> /dev/null || echo "$number") && [ "$now" = "$number" ] || [ ! -b "$DISK" ]; do
			tries=$((tries + 1))
			[ $tries -lt 600 ] || fail "the disk does not come back, round $round"
			sleep 0.1
		done
		# A kernel with virtio_blk built in has given it to that.
		load_driver virtio_blk_crypto
	done
	secret_files_are_right
}

# resize_case: the disk grows from 128 to 256 and 320 MiB while files on it are written and verified. The cases name the steps
# on the host: grow by ctl, fail to shrink, and grow the image and send a signal.
resize_case() {
	local size file last at new place
	make_files tree 0
	# Longer than what ext4 reserves when all space is used.
	make_files tree/long 100 $((8 << 20))
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	encrypted_dir "$MNT/busy" two per-file 512
	# Space for fio, before all space is used.
	for file in 0 1 2 3; do
		fallocate -l 4M "$MNT/busy/busy.$file.0"
	done
	begin_busy --size=4M --numjobs=4 --iodepth=16
	# Use all free space: later files can only be in the new part.
	dd if=/dev/zero of="$MNT/filler" bs=1M status=none 2> /dev/null || true
	last=$((128 << 20))
	for size in 256 320; do
		host_step
		[ $size = 256 ] || { host_step; host_step; }
		wait_for_size $((size << 20))
		[ "$(blockdev --getsize64 "$DISK")" = $((size << 20)) ]
		resize2fs "$DISK"
		cp -r "$OUT/plain/tree" "$MNT/secret/tree-$size"
		sync
		file=$(find "$MNT/secret/tree-$size/long" -type f)
		new=0
		for at in $(seq 0 1048576 7340032); do
			place=$(physical "$file" "$at")
			[ "$place" -lt $last ] || new=$((new + 1))
		done
		[ $new -gt 0 ] || fail "$file is not in the new part of the disk"
		note "$file: $new of 8 MiB are in the new part of the disk"
		dd if=/dev/zero of="$MNT/filler-$size" bs=1M status=none 2> /dev/null || true
		last=$((size << 20))
	done
	end_busy
	drop_caches
	for size in 256 320; do
		same_files "$OUT/plain/tree" "$MNT/secret/tree-$size"
	done
	expect_native
	record "$MNT/secret/tree-256" tree
	record "$MNT/secret/tree-320" tree
	umount "$MNT"
	check_fs "$DISK"
}

# --- a device that is killed and started again -----------------------------------------------------------------------

# begin_kills: asks the host to begin to kill the device. After each kill, the host searches the image for the sentinel.
begin_kills() {
	echo "$SENTINEL" > "$(find_port progress)"
}

# kills_left: true until the last device is there. The serial number tells which device it is.
kills_left() {
	[ "$(cat "$BLOCK/serial")" != "kill-$KILLS" ]
}

# fio_engine: prints an I/O engine that keeps several requests in flight, if fio has it.
fio_engine() {
	if fio --enghelp | grep -qw libaio; then
		echo libaio
	else
		echo psync
	fi
}

# fio_while_killed NAME OPTION...: writes and verifies, in the background.
fio_while_killed() {
	local name=$1
	shift
	fio --name="$name" --size=4M --rw=randwrite --verify=crc32c --verify_fatal=1 --group_reporting \
		--output="$OUT/fio-$name.txt" "$@" &
	running="$running $!"
}

# wait_for_fio WHEN: all that fio_while_killed has begun since `running` was emptied have found what they wrote.
wait_for_fio() {
	local one
	for one in $running; do
		wait "$one" || { tail -n 40 "$OUT"/fio-*.txt; fail "fio in $1"; }
	done
}

# keys_were_lost: the kills make the kernel log lost keys; without keyslots, not even that.
keys_were_lost() {
	if [ "$(crypto_attr num_keyslots)" -gt 0 ]; then
		dmesg_has 'device lost its keys' || fail 'no key was ever lost'
	elif dmesg_has 'device lost its keys'; then
		fail 'a device without keyslots has lost keys'
	fi
}

# survive_kills: files, encrypted and not, and a part of the disk without a file system are written and verified while the
# device is killed KILLS times.
survive_kills() {
	local round=0 running engine
	engine=$(fio_engine)
	make_files tree 0
	make_fs "$DISK" 128M
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	encrypted_dir "$MNT/sectors" two per-file 512
	mkdir "$MNT/open"
	begin_kills
	while kills_left; do
		round=$((round + 1)) running=
		fio_while_killed direct --directory="$MNT/secret" --ioengine=$engine --iodepth=16 --bsrange=4k-64k --direct=1 --fsync=20 \
			--verify_pattern="\"$SENTINEL\""
		fio_while_killed buffered --directory="$MNT/sectors" --ioengine=psync --bsrange=512-32k --fdatasync=50 --end_fsync=1 \
			--verify_pattern="\"$SENTINEL\""
		fio_while_killed open --directory="$MNT/open" --ioengine=$engine --iodepth=8 --bs=4k --direct=1 --fsync=20
		fio_while_killed raw --filename="$DISK" --offset=160M --ioengine=$engine --iodepth=8 --bsrange=4k-64k --direct=1 --fsync=20
		cp -r "$OUT/plain/tree" "$MNT/secret/tree-$round"
		drop_caches
		same_files "$OUT/plain/tree" "$MNT/secret/tree-$round"
		wait_for_fio "round $round"
		rm -r "$MNT/secret/tree-$round" "$MNT/sectors"/* "$MNT/open"/* "$MNT/secret"/direct*
	done
	note "$round rounds"
	cp -r "$OUT/plain/tree" "$MNT/secret/tree"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret/tree"
	expect_native
	keys_were_lost
	record "$MNT/secret/tree" tree
	umount "$MNT"
	check_fs "$DISK"
}
