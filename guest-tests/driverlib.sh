# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# Cases about the guest driver that run in several ways, with the control virtqueue and in-band, with keyslots and with keys in
# requests: keys, commands and requests in use, and a device that loses keys, is reset, fails or disappears.
# Sourced after fslib.sh.

# The disk's name on its bus, and its driver's directory. Set now, because they cannot be found while no driver is bound.
VIRTIO=$(basename "$(readlink -f "$BLOCK/device")")
DRIVER_DIR=$(readlink -f "$BLOCK/device/driver" || true)
FUNCTION=$(dirname "$(readlink -f "$BLOCK/device")")

# counter NAME: the value of a counter of the driver.
counter() {
	cat "$BLOCK/crypto_stats/$1"
}

# digest_test DISK DIGEST...: the kernel's own test of digests. The hardware must return these digests, and the fallback all.
digest_test() {
	local disk=$1 digest unit way
	shift
	dmesg_clear
	echo "$disk" > /sys/module/blk_crypto_digest_test/parameters/run || {
		dmesg | tail -n 5
		fail "the kernel's test of digests failed on $disk"
	}
	for digest in crc32c xxhash64 sha256 blake2b-256; do
		way='fallback is'
		case " $* " in *" $digest "*) way='hardware and fallback are' ;; esac
		for unit in 512 2048 4096; do
			dmesg_has "${disk#/dev/}: $digest, $unit-byte data units: $way right" || {
				dmesg | tail -n 15
				fail "$disk: the test does not say that $way right for $digest and data units of $unit bytes"
			}
		done
	done
	note "$disk: ${*:-no digests} by the hardware, all by the fallback"
}

unbind_disk() {
	echo "$VIRTIO" > "$DRIVER_DIR/unbind"
	[ ! -e "$BLOCK/device/driver" ] || fail 'the driver is still bound'
}

bind_disk() {
	echo "$VIRTIO" > "$DRIVER_DIR/bind"
	wait_for_disk yes
}

# wait_for_dmesg TEXT: waits until the kernel's log has it, for at most half a minute.
wait_for_dmesg() {
	local tries=0
	until dmesg_has "$1"; do
		[ $tries -lt 300 ] || fail "the kernel does not say: $1"
		tries=$((tries + 1))
		sleep 0.1
	done
	note "the kernel says: $1"
}

# end_busy_on_a_dead_disk: fio must have noticed that its disk is gone.
end_busy_on_a_dead_disk() {
	if wait $BUSY; then
		fail 'fio did not notice that its disk was gone'
	fi
}

# secret_tree: writes files to $MNT/secret, encrypted with the key "one", and reads them back. Sets IDENTIFIER.
secret_tree() {
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	IDENTIFIER=$(add_key one "$MNT")
	set_policy "$MNT/secret" "$IDENTIFIER"
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
}

# secret_tree_is_right: checks these files after the disk was bound to its driver again, and writes new files with another key.
secret_tree_is_right() {
	mount_fs "$DISK" "$MNT"
	unlock one "$MNT"
	same_files "$OUT/plain/tree" "$MNT/secret"
	encrypted_dir "$MNT/later" later
	cp -r "$OUT/plain/tree/." "$MNT/later"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/later"
	expect_native
	record "$MNT/secret" tree
	record "$MNT/later" tree
	umount "$MNT"
	check_fs "$DISK"
}

# eviction_case: host: the keyslots, empty.
eviction_case() {
	secret_tree
	remove_key "$IDENTIFIER" "$MNT"
	host_step_done
	umount "$MNT"
	secret_tree_is_right
}

# driver_before_case, for keys that survive a reset: while the disk has no driver, nobody can evict a key. The next driver
# must evict it. Host: the keyslots, with keys; the keyslots, empty.
driver_before_case() {
	secret_tree
	# The kernel evicts the keys of unused files before the disk is gone.
	exec 8< "$MNT/secret/file-11-of-1048577"
	echo 1 > /proc/sys/vm/drop_caches
	cat <&8 > /dev/null
	unbind_disk
	exec 8<&-
	umount "$MNT"
	host_step_done
	bind_disk
	host_step_done
	secret_tree_is_right
}

# evicted_meanwhile_case, likewise: a key that is removed during a reset of the device is not in the device afterwards.
# Host: the keyslots, empty.
evicted_meanwhile_case() {
	local pause during=0
	needs_function_reset
	secret_tree
	umount "$MNT"
	# The file system is only read, so removing a key needs no I/O. I/O would wait for the reset.
	mount_fs "$DISK" "$MNT" -o ro
	for pause in 0 0.02 0.04 0.06 0.08; do
		unlock one "$MNT"
		same_files "$OUT/plain/tree" "$MNT/secret"
		rm -f /tmp/over
		{ echo 1 > "$FUNCTION/reset"; : > /tmp/over; } &
		sleep $pause
		remove_key "$IDENTIFIER" "$MNT"
		[ -e /tmp/over ] || during=$((during + 1))
		wait $!
	done
	note "$during of 5 keys were removed before a reset was over"
	[ $during -gt 0 ] || fail 'no key was removed during a reset'
	host_step_done
	umount "$MNT"
	secret_tree_is_right
}

# many_keys_case: 200 files, each with its own key, are written and read by 8 processes.
#
# File names have no special characters. The inner shells expand their own variables; make_files gets a list of sizes.
# shellcheck disable=SC2011,SC2016,SC2046
many_keys_case() {
	local round
	make_files tree 0 $(seq 4096 61 16235)
	[ "$(ls "$OUT/plain/tree" | wc -l)" = 200 ] || fail "made $(ls "$OUT/plain/tree" | wc -l) files, not 200"
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one

	note 'written by 8 processes'
	ls "$OUT/plain/tree" | xargs -P 8 -n 5 sh -c '
		for file; do
			dd if="$OUT/plain/tree/$file" of="$MNT/secret/$file" bs=64k conv=fsync status=none || exit 255
		done' sh
	sync

	note 'read by 8 processes, all 200 keys in use'
	for round in 1 2; do
		echo 1 > /proc/sys/vm/drop_caches
		ls "$OUT/plain/tree" | sort -R --random-source=/dev/zero | xargs -P 8 -n 5 sh -c '
			for file; do
				cmp "$OUT/plain/tree/$file" "$MNT/secret/$file" || exit 255
			done' sh
		note "round $round is right"
	done

	note 'read once more, after all keys were programmed anew'
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	expect_native
	record "$MNT/secret" tree
	# The directory has enough names for a hash tree.
	record_names "$MNT/secret"
	umount "$MNT"
	check_fs "$DISK"
}

# key_removal_case: removing a key locks its files, whatever their policy; adding it again unlocks them.
key_removal_case() {
	local identifier directory
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	identifier=$(add_key one "$MNT")
	set_policy "$MNT/secret" "$identifier"
	set_policy "$MNT/secret-64" "$identifier" ino-lblk-64
	encrypted_dir "$MNT/other" two
	for directory in secret secret-64 other; do
		cp -r "$OUT/plain/tree/." "$MNT/$directory"
	done
	expect_native
	sync

	remove_key "$identifier" "$MNT"
	expect_locked secret secret-64
	same_files "$OUT/plain/tree" "$MNT/other"
	note 'the other key still works'

	[ "$(add_key one "$MNT")" = "$identifier" ] || fail 'the key got another identifier'
	drop_caches
	for directory in secret secret-64 other; do
		same_files "$OUT/plain/tree" "$MNT/$directory"
		record "$MNT/$directory" tree
	done
	umount "$MNT"
	check_fs "$DISK"
}

# freeze_case: the disk is frozen and restored while files are open, and again with new files. Needs CONFIG_HIBERNATION.
freeze_case() {
	unbind_ports
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/secret" one
	encrypted_dir "$MNT/secret-64" one ino-lblk-64
	cp -r "$OUT/plain/tree/." "$MNT/secret"
	cp -r "$OUT/plain/tree/." "$MNT/secret-64"
	make-data 1048576 50 "$SENTINEL" > /tmp/open
	exec 8<> "$MNT/secret/open"
	cat /tmp/open >&8

	freeze_and_restore

	# Inodes and their keys stay in memory. Only the data is read again.
	echo 1 > /proc/sys/vm/drop_caches
	cmp /tmp/open "$MNT/secret/open" || fail 'the file that was open has other contents'
	rm "$MNT/secret/open"
	exec 8>&-
	same_files "$OUT/plain/tree" "$MNT/secret"
	same_files "$OUT/plain/tree" "$MNT/secret-64"

	note 'write more'
	make_files tree/later 60 100 70000
	cp -r "$OUT/plain/tree/later" "$MNT/secret"
	cp -r "$OUT/plain/tree/later" "$MNT/secret-64"
	freeze_and_restore
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	same_files "$OUT/plain/tree" "$MNT/secret-64"
	expect_native
	record "$MNT/secret" tree
	record "$MNT/secret-64" tree
	umount "$MNT"
	check_fs "$DISK"
}

# read_all: reads each of the 16 files from the disk; prints how many could be read.
read_all() {
	local number good=0
	sync
	# Inodes and their keys stay in memory.
	echo 1 > /proc/sys/vm/drop_caches
	for number in $(seq 16); do
		! cmp -s "$OUT/plain/keys/$number" "$MNT/keys/$number" || good=$((good + 1))
	done
	echo $good
}

# refused_key_case: 16 keys in 16 keyslots, all lost; the device refuses to take one of them back. Host: `fault add` for programming
# a keyslot, reset-engine, `fault clear`, `fault add`, reset-engine, `fault clear`.
refused_key_case() {
	local number identifier before tries
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	identifier=$(add_key one "$MNT")
	set_policy "$MNT/keys" "$identifier"
	mkdir -p "$OUT/plain/keys"
	for number in $(seq 16); do
		make-data 4096 "$number" "$SENTINEL" > "$OUT/plain/keys/$number"
		cp "$OUT/plain/keys/$number" "$MNT/keys/$number"
	done
	echo "$SENTINEL" > "$OUT/sentinel"
	[ "$(read_all)" = 16 ] || fail 'not all files can be read at the start'

	host_step
	host_step_done
	before=$(counter commands)
	for tries in $(seq 20); do
		[ "$(read_all)" = 15 ] || fail "round $tries: $(read_all) files can be read, not 15"
	done
	number=$(($(counter commands) - before))
	note "for 20 failing reads the driver has sent $number commands"
	[ $number = 16 ] || fail "$number commands, not one for each keyslot"
	[ "$(counter refused)" = 1 ] || fail "$(counter refused) commands were refused"
	[ "$(counter reprograms)" = 1 ] || fail "all keys were programmed $(counter reprograms) times"
	[ "$(counter nokey_retries)" -ge 1 ] || fail 'no request was tried again'

	note 'the key is refused until it is evicted'
	host_step_done
	[ "$(read_all)" = 15 ] || fail 'the refused key came back by itself'
	remove_key "$identifier" "$MNT"
	add_key one "$MNT" > /dev/null
	[ "$(read_all)" = 16 ] || fail 'an evicted key is still refused'

	note 'or until the device is reset'
	host_step
	host_step_done
	[ "$(read_all)" = 15 ] || fail 'no key was refused'
	host_step_done
	if kernel_tells_of_function_resets; then
		echo 1 > "$FUNCTION/reset"
	else
		note 'this kernel tells no driver of a function reset'
		remove_key "$identifier" "$MNT"
		add_key one "$MNT" > /dev/null
	fi
	[ "$(read_all)" = 16 ] || fail 'a key is still refused after a reset'
	expect_native
	record "$MNT/keys" keys
	umount "$MNT"
	check_fs "$DISK"
}

# Kernels before 6.15 do not, and then such a reset takes the device away from under the driver.
kernel_tells_of_function_resets() {
	kernel_has virtio_device_reset_prepare
}

# needs_function_reset: skips the case where a driver is not told.
needs_function_reset() {
	kernel_tells_of_function_resets || skip "the guest's kernel tells no driver of a function reset"
}

# function_reset_case: the device is reset through PCI, five times, while files are written and verified.
function_reset_case() {
	local round
	needs_function_reset
	secret_tree
	encrypted_dir "$MNT/busy" two per-file 512
	begin_busy
	for round in 1 2 3 4 5; do
		echo 1 > "$FUNCTION/reset"
		note "reset $round"
		cp -r "$OUT/plain/tree" "$MNT/secret/tree-$round"
		echo 1 > "$FUNCTION/reset"
		drop_caches
		same_files "$OUT/plain/tree" "$MNT/secret/tree-$round"
		rm -r "$MNT/secret/tree-$round"
	done
	end_busy
	umount "$MNT"
	if dmesg_has 'lost its keys'; then
		fail 'a device that was reset is said to have lost its keys'
	fi
	secret_tree_is_right
}

# broken_ring_case QUEUE:NAME...: one used ring after the other gets invalid elements. Host: break-ring, for each.
broken_ring_case() {
	local queue name
	secret_tree
	for queue in "$@"; do
		name=${queue#*:} queue=${queue%:*}
		encrypted_dir "$MNT/busy" "busy-$queue"
		# All the time, and on the CPU whose requests use the first queue.
		begin_busy --time_based --runtime=200 "--cpus_allowed=$(cut -d , -f 1 "$BLOCK/mq/0/cpu_list")"
		# shellcheck disable=SC2046 # two numbers
		host_step $(used-ring "$FUNCTION" "$queue")
		wait_for_dmesg "$name:id 4294967295 out of range"
		# Until the host no longer writes to the ring's memory.
		sleep 4
		unbind_disk
		end_busy_on_a_dead_disk
		umount "$MNT"
		bind_disk
		mount_fs "$DISK" "$MNT"
		unlock one "$MNT"
		same_files "$OUT/plain/tree" "$MNT/secret"
		rm -rf "$MNT/busy"
	done
	umount "$MNT"
	secret_tree_is_right
}

# unknown_key_case QUEUE: the used ring of this control virtqueue gets invalid elements, and then a command: the device puts a key into
# its only keyslot, and the driver sees no answer. So nobody knows whose key is in there. No request must use it. Host: break-ring.
unknown_key_case() {
	local file
	mount_fs "$DISK" "$MNT"
	encrypted_dir "$MNT/two-keys" two
	for file in old new; do
		head -c 4096 /dev/zero > "$MNT/two-keys/$file"
		sync "$MNT/two-keys/$file"
	done
	dd if=/dev/zero of="$MNT/two-keys/old" bs=4096 count=1 oflag=direct conv=notrunc status=none
	dmesg_clear
	# shellcheck disable=SC2046 # two numbers
	host_step $(used-ring "$FUNCTION" "$1")
	# With one keyslot, each write programs a key. On a busy host the driver may see answers before the host overwrites them.
	for file in $(yes "new old" | head -n 100); do
		sleep 0.1
		dd if=/dev/zero of="$MNT/two-keys/$file" bs=4096 count=1 oflag=direct conv=notrunc status=none || break
	done
	dmesg_has 'command 30 was not answered' || fail 'the driver saw an answer'
	[ "$file" = new ] && file=old || file=new
	if dd if=/dev/zero of="$MNT/two-keys/$file" bs=4096 count=1 oflag=direct conv=notrunc; then
		fail "$file was encrypted with an unknown key"
	fi
	sleep 4
	unbind_disk
	umount "$MNT"
	bind_disk
	mount_fs "$DISK" "$MNT"
	unlock two "$MNT"
	cmp -n 4096 /dev/zero "$MNT/two-keys/old"
	cmp -n 4096 /dev/zero "$MNT/two-keys/new"
	umount "$MNT"
	check_fs "$DISK"
}

# unanswered_command_case: the device never answers a program command, and the driver is unbound. Host: `fault add` of
# that, `fault clear`.
unanswered_command_case() {
	local begun
	secret_tree
	encrypted_dir "$MNT/new" two
	sync
	host_step_done
	{ echo new > "$MNT/new/file"; sync "$MNT/new/file"; } &
	sleep 3
	kill -0 $! || fail 'a key was programmed'
	begun=$(date +%s)
	unbind_disk
	begun=$(($(date +%s) - begun))
	note "unbound after $begun s"
	[ $begun -lt 60 ] || fail 'unbind has waited for the answer'
	dmesg_has 'command 30 was not answered' || fail 'the driver does not say that it was not answered'
	if wait $!; then
		fail 'a file was written without its key'
	fi
	umount "$MNT"
	host_step_done
	bind_disk
	secret_tree_is_right
}

# registers_read_as ones|before, behind a root port. ones: all registers of the disk read as ones, and writes have no effect, as
# after a surprise removal. before: the registers are back. The ROM of another device, which is all ones, takes their place.
registers_read_as() {
	local rom registers=0
	rom=$(grep -l 0x1005 /sys/bus/pci/devices/*/device)
	if [ "$1" = ones ]; then
		registers=$(while read -r first last _; do
			[ $((last - first)) != $((0x3fff)) ] || echo $((first | 1))
		done < "$FUNCTION/resource")
	fi
	# Little-endian, at the place of a ROM's address.
	unhex "$(printf '%08x' "$registers" | sed 's/\(..\)\(..\)\(..\)\(..\)/\4\3\2\1/')" |
		dd of="$(dirname "$rom")/config" bs=1 seek=48 conv=notrunc status=none
}

# surprise_removal_case [COMMAND...]: the disk disappears while files are written. It is removed, and found again. The command runs
# while it is away.
surprise_removal_case() {
	local begun
	secret_tree
	encrypted_dir "$MNT/busy" two
	begin_busy
	expect_native
	dmesg_clear
	dmesg -n 1
	# Its write-back begins when there is no disk any more, and nobody has it open.
	head -c 4M /dev/zero > "$MNT/busy/never-written"
	registers_read_as ones
	echo 10 | tee /proc/sys/vm/dirty_expire_centisecs /proc/sys/vm/dirty_writeback_centisecs > /dev/null
	sleep 2
	begun=$(date +%s)
	echo 1 > "$FUNCTION/remove"
	note "removed after $(($(date +%s) - begun)) s"
	[ $(($(date +%s) - begun)) -lt 8 ] || fail 'the removal waited for a device that is not there'
	end_busy_on_a_dead_disk
	umount "$MNT"
	"$@"
	# After a removal virtio's own code warns of a status that is not 0, whatever the driver does. No other code may warn.
	dmesg -c > "$OUT/dmesg-of-the-removal"
	awk '
		/\[ cut here \]/ { inside = 1; warning = "" }
		!inside { print }
		inside { warning = warning $0 "\n" }
		inside && /\[ end trace / {
			inside = 0
			if (warning !~ /WARNING: [^\n]*drivers\/virtio\/virtio\.c:[^\n]*virtio_dev_remove/) printf "%s", warning
		}
		END { if (inside) printf "%s", warning }' "$OUT/dmesg-of-the-removal" >> "$OUT/dmesg-before"
	dmesg -n 5
	registers_read_as before
	echo 1 > /sys/bus/pci/rescan
	wait_for_disk yes
	# Where the stock driver is built in, it has the disk.
	load_driver virtio_blk_crypto
	secret_tree_is_right
}

# refuse_parameter NAME VALUE: the driver must refuse it.
refuse_parameter() {
	if echo "$2" > "/sys/module/virtio_blk_crypto/parameters/$1"; then
		fail "$1 can be set to $2"
	fi 2> /dev/null
}

# failslab PERCENT: from now on so many allocations of the driver fail, those that may sleep included. 0: none. Needs debugfs.
failslab() {
	local attributes=/sys/kernel/debug/failslab first last
	if [ "$1" != 0 ]; then
		# Where the module's code is, which may have changed.
		first=$(driver_symbols | head -n 1)
		last=$(driver_symbols | tail -n 1)
		[ -n "$first" ] || fail 'the driver is built in, or its symbols are hidden'
		echo "0x$first" > $attributes/require-start
		echo "0x$last" > $attributes/require-end
		# Where it fails after it has allocated pages, Linux 7.3 cleans up an SRCU structure that has callbacks, and warns.
		symbol_range blk_mq_alloc_tag_set | {
			read -r first last
			echo "0x$first" > $attributes/reject-start
			echo "0x$last" > $attributes/reject-end
		}
		echo 32 > $attributes/stacktrace-depth
		echo N > $attributes/ignore-gfp-wait
		echo 0 > $attributes/verbose
		[ "$(cat $attributes/times)" -gt 1 ] || echo 1000000000 > $attributes/times
	fi
	echo "$1" > $attributes/probability
}

# driver_symbols: the addresses of the module's functions, in order.
driver_symbols() {
	sed -n 's/^\([0-9a-f]*\) [tT] .*\[virtio_blk_crypto\]$/\1/p' /proc/kallsyms | sort
}

# symbol_range FUNCTION: where this function of the kernel begins, and where the next one does.
symbol_range() {
	awk -v name="$1" 'found { print first, $1; exit } $3 == name { first = $1; found = 1 }' /proc/kallsyms
}

# failed_allocations: how many allocations have failed.
failed_allocations() {
	local left
	left=$(cat /sys/kernel/debug/failslab/times)
	[ "$left" -gt 1 ] || left=1000000000
	echo $((1000000000 - left))
}

# allocations_fail_case: requests wait for memory and do not fail; a disk without memory is not bound, and nothing is lost.
allocations_fail_case() {
	local key before round refused=0
	# The kernel's test of digests overwrites the disk.
	if [ -e /sys/module/blk_crypto_digest_test ]; then
		failslab 10
		digest_test "$DISK" crc32c xxhash64 sha256 blake2b-256
		failslab 0
	fi
	before=$(failed_allocations)
	secret_tree
	encrypted_dir "$MNT/busy" two
	for key in $(seq 10); do
		encrypted_dir "$MNT/key-$key" "key-$key"
		cp "$OUT/plain/tree/file-11-of-1048577" "$MNT/key-$key/file"
	done
	drop_caches

	note 'allocations fail while files are written, verified and read'
	failslab 30
	begin_busy
	for round in 1 2 3; do
		for key in $(seq 10); do
			cmp "$OUT/plain/tree/file-11-of-1048577" "$MNT/key-$key/file" || fail "the file of key $key has other contents"
		done
		drop_caches
	done
	failslab 0
	end_busy
	note "$(($(failed_allocations) - before)) allocations have failed"
	[ $(($(failed_allocations) - before)) -gt 100 ] || fail 'too few allocations have failed'
	umount "$MNT"

	note 'allocations fail while the disk is unbound and bound'
	before=$(failed_allocations)
	for round in $(seq 40); do
		failslab 20
		if [ -e "$FUNCTION/$VIRTIO/driver" ]; then
			unbind_disk
		fi
		echo "$VIRTIO" > "$DRIVER_DIR/bind" 2> /dev/null || refused=$((refused + 1))
		failslab 0
	done
	note "$refused of 40 times the disk was not bound; $(($(failed_allocations) - before)) allocations have failed"
	[ "$refused" -gt 0 ] || fail 'a disk was always bound, whatever failed'
	[ -e "$FUNCTION/$VIRTIO/driver" ] || bind_disk
	wait_for_disk yes
	secret_tree_is_right
}
