# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# Functions that cases share: encrypted file systems, deterministic files, and the record that the host verifies.
# Sourced after lib.sh, whose functions are used here; runs under `sh -eu`.
#
# Call a function for its output as `x=$(f)` on a line of its own: only then does -e see a failure.

# A text at the start of every 512 bytes of every file that is to be encrypted. Neither it nor 16 bytes of it may be anywhere on
# the disk, so there are no words in it that something else could have written.
SENTINEL='plaintext:w7Kq0XvR9tLz4mHcE2sYpD8uJb5NfA6gTi'

export MNT=/mnt
# Kind of file system that make_fs makes: ext4, f2fs or btrfs.
FS=ext4
# More options for mkfs.btrfs.
BTRFS_OPTIONS=
# Size of a file system block.
FS_BLOCK=4096
BLOCK=/sys/block/${DISK##*/}

# expect_failure WHAT COMMAND...: the command must fail; its output goes to the log.
expect_failure() {
	local what=$1
	shift
	if "$@"; then
		fail "$what: expected a failure, but it succeeded: $*"
	fi
	note "fails as it must: $what"
}

# Makes the kernel read pages, inodes and names from the disk again. Writes dirty data before.
drop_caches() {
	sync
	echo 3 > /proc/sys/vm/drop_caches
}

# --- native or fallback -----------------------------------------------------------------------------------------
#
# The kernel logs each of these once per boot and mode, so a case checks before it does anything that changes the answer.

native_was_used() {
	kernel_said 'fscrypt: AES-256-XTS using blk-crypto (native)'
}

fallback_was_used() {
	kernel_said 'fscrypt: AES-256-XTS using blk-crypto-fallback'
}

# Since boot, the kernel has encrypted file contents natively and never by its fallback.
expect_native() {
	native_was_used || fail 'the kernel did not use inline encryption natively'
	if fallback_was_used; then
		fail 'the kernel used blk-crypto-fallback'
	fi
	note 'the kernel says: blk-crypto (native)'
}

# The opposite.
expect_fallback() {
	fallback_was_used || fail 'the kernel did not use blk-crypto-fallback'
	if native_was_used; then
		fail 'the kernel used inline encryption natively'
	fi
	note 'the kernel says: blk-crypto-fallback'
}

# crypto_attr NAME: what the kernel reports about the disk's inline encryption.
crypto_attr() {
	cat "$BLOCK/queue/crypto/$1"
}

has_inline_encryption() {
	[ -d "$BLOCK/queue/crypto" ]
}

# has_fscrypt DIRECTORY: true when the file system takes keys. /tmp/added has what it says.
has_fscrypt() {
	unhex "$(key_hex one)" | xfs_io -c add_enckey "$1" > /tmp/added 2>&1 && return
	grep -Eq 'Inappropriate ioctl|Operation not supported' /tmp/added || fail "cannot add a key: $(cat /tmp/added)"
	return 1
}

# Kernels before 6.15 know raw keys only, and tell no types of keys.
kernel_has_wrapped_keys() {
	kernel_has blk_crypto_ioctl
}

# needs_wrapped_keys: skips the case where the kernel does not know them.
needs_wrapped_keys() {
	kernel_has_wrapped_keys || skip "the guest's kernel has no hardware-wrapped keys"
}

# engine_keys: the types of keys that the disk takes: raw, wrapped or both with a comma between.
engine_keys() {
	local keys=''
	if [ -e "$BLOCK/queue/crypto/raw_keys" ] || ! kernel_has_wrapped_keys; then
		keys=raw
	fi
	[ ! -e "$BLOCK/queue/crypto/hw_wrapped_keys" ] || keys=${keys:+$keys,}wrapped
	echo "$keys"
}

# expect_engine KEYSLOTS DUN_BITS KEYS DATA_UNITS: the kernel sees exactly this engine. KEYS: raw, wrapped or both with a
# comma between; DATA_UNITS: the mask of sizes for AES-256-XTS, which must be the only mode.
expect_engine() {
	local keys
	has_inline_encryption || fail "$BLOCK/queue/crypto is missing"
	[ "$(crypto_attr num_keyslots)" = "$1" ] || fail "keyslots: $(crypto_attr num_keyslots), not $1"
	[ "$(crypto_attr max_dun_bits)" = "$2" ] || fail "bits of a data unit number: $(crypto_attr max_dun_bits), not $2"
	keys=$(engine_keys)
	[ "$keys" = "$3" ] || fail "keys: $keys, not $3"
	[ "$(ls "$BLOCK/queue/crypto/modes")" = AES-256-XTS ] || fail "modes: $(ls "$BLOCK/queue/crypto/modes")"
	[ "$(($(crypto_attr modes/AES-256-XTS)))" = $(($4)) ] || fail "data units: $(crypto_attr modes/AES-256-XTS), not $4"
	note "the kernel sees $1 keyslots, $2-bit data unit numbers, $3 keys, data units $4"
}

# expect_rings QUEUES DEPTH SERIAL: the disk has QUEUES request queues with DEPTH requests each, and this serial number.
expect_rings() {
	local queues serial
	queues=$(find "$BLOCK/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)
	[ "$queues" = "$1" ] || fail "request queues: $queues, not $1"
	# A scheduler has a number of its own. Debian's kernel has none built in.
	echo none > "$BLOCK/queue/scheduler"
	[ "$(cat "$BLOCK/queue/nr_requests")" = "$2" ] || fail "requests: $(cat "$BLOCK/queue/nr_requests"), not $2"
	serial=$(cat "$BLOCK/serial")
	[ "$serial" = "$3" ] || fail "serial number: $serial, not $3"
}

# expect_no_wrapped_keys DIRECTORY: on a disk with raw keys only, in which DIRECTORY is a file system, the kernel can
# neither use a hardware-wrapped key nor make one.
expect_no_wrapped_keys() {
	if ! kernel_has_wrapped_keys; then
		note 'this kernel has no hardware-wrapped keys'
		return
	fi
	head -c 90 /dev/urandom > /tmp/blob
	expect_errno EOPNOTSUPP blk-crypto-key "$DISK" generate /tmp/result
	expect_errno EOPNOTSUPP blk-crypto-key "$DISK" prepare /tmp/blob /tmp/result
	expect_errno EOPNOTSUPP add-wrapped-key "$1" /tmp/blob
	note 'wrapped keys are refused: EOPNOTSUPP'
}

# --- file systems -----------------------------------------------------------------------------------------------

# make_fs DEVICE [SIZE]: an ext4 that can hold every kind of fscrypt policy.
#
# Without huge_file the largest file is 2 TiB. Policies with inode number and index in the data unit number need an
# index of at most 32 bits: with data units of 512 bytes, the usual 16 TiB would be too large for them.
make_fs() {
	case $FS in
		ext4) mkfs.ext4 -q -F -b "$FS_BLOCK" -O encrypt,verity,stable_inodes,^huge_file "$@" ;;
		f2fs) mkfs.f2fs -q -f -O encrypt,verity,extra_attr "$@" ;;
		# A kernel that encrypts sets the feature bit with the first policy.
		btrfs) mkfs.btrfs -q -f $BTRFS_OPTIONS "$@" ;;
		*) fail "unknown file system $FS" ;;
	esac
}

# mount_fs DEVICE DIRECTORY [OPTION...]: native inline encryption wherever the device has it.
mount_fs() {
	local device=$1 directory=$2
	shift 2
	mkdir -p "$directory"
	case $FS in
		btrfs) mount_btrfs "$device" "$directory" "$@" ;;
		*) mount -t "$FS" -o inlinecrypt "$@" "$device" "$directory" ;;
	esac
}

# mount_btrfs DEVICE DIRECTORY [OPTION...]: with a key for each extent, fscrypt allows hardware without the option inlinecrypt, which
# btrfs does not know. Should a later version know it, it may need it.
mount_btrfs() {
	local device=$1 directory=$2
	shift 2
	modprobe -q btrfs || true
	mount -t btrfs -o inlinecrypt "$@" "$device" "$directory" 2> /dev/null || mount -t btrfs "$@" "$device" "$directory"
}

# check_fs DEVICE: the file system has no errors.
check_fs() {
	case $FS in
		ext4) e2fsck -f -n "$1" || fail "e2fsck found errors on $1" ;;
		f2fs) fsck.f2fs --dry-run -f "$1" || fail "fsck.f2fs found errors on $1" ;;
		btrfs) check_btrfs "$1" ;;
	esac
}

# check_btrfs DEVICE: Debian's btrfs-progs refuse a file system with the feature bit of encryption, so `btrfs check` and
# `btrfs inspect-internal dump-tree` cannot be used. The kernel's scrub and the verifier take their place.
check_btrfs() {
	if [ $(($(btrfs inspect-internal dump-super "$1" | sed -n 's/^incompat_flags\s*//p') & 0x8000)) != 0 ]; then
		note "btrfs check does not support encryption: $1 is not checked by it"
	else
		btrfs check --readonly --check-data-csum "$1" || fail "btrfs check found errors on $1"
	fi
}

# --- keys and policies ------------------------------------------------------------------------------------------

# key_hex NAME: a 64-byte key, always the same one for the same name.
key_hex() {
	printf 'vhost-user-blk-crypto test key %s' "$1" | sha512sum | cut -d ' ' -f 1
}

# unhex DIGITS: as bytes on stdout. The shell's own printf may know no \x.
unhex() {
	env printf "$(printf %s "$1" | sed 's/../\\x&/g')"
}

# add_key NAME DIRECTORY: adds the key to the file system, records it for the host, prints its identifier.
add_key() {
	local hex added identifier
	hex=$(key_hex "$1")
	grep -qs "$hex" "$OUT/keys" || echo "raw $hex # $1" >> "$OUT/keys"
	added=$(unhex "$hex" | xfs_io -c add_enckey "$2") || fail "the key $1 cannot be added" >&2
	identifier=${added##* }
	[ ${#identifier} = 32 ] || fail "adding the key $1 gave \"$added\"" >&2
	echo "$identifier"
}

# unlock NAME DIRECTORY: adds the key to a file system that has files encrypted with it.
unlock() {
	add_key "$1" "$2" > /dev/null
}

# remove_key IDENTIFIER DIRECTORY
remove_key() {
	local removed
	removed=$(xfs_io -c "rm_enckey $1" "$2") || fail "the key $1 cannot be removed: $removed"
	note "$removed"
}

# set_policy DIRECTORY IDENTIFIER [METHOD [DATA_UNIT_SIZE]]: AES-256-XTS contents, AES-256-CBC-CTS names.
# METHOD: per-file, ino-lblk-64 or ino-lblk-32.
set_policy() {
	local directory=$1 identifier=$2 method=${3:-per-file} unit=${4:-4096} flags size answer
	case $method in
		per-file) flags=0x3 ;;
		ino-lblk-64) flags=0xb ;;
		ino-lblk-32) flags=0x13 ;;
		*) fail "unknown method $method" ;;
	esac
	case $unit in
		"$FS_BLOCK") size= ;;
		512) size='-s 9' ;;
		1024) size='-s 10' ;;
		2048) size='-s 11' ;;
		*) fail "unknown data unit size $unit" ;;
	esac
	mkdir -p "$directory"
	answer=$(xfs_io -c "set_encpolicy -v 2 -c 1 -n 4 $size -f $flags $identifier" "$directory" 2>&1) || true
	[ -z "$answer" ] || fail "no policy $method with data units of $unit bytes: $answer"
}

# encrypted_dir DIRECTORY KEY_NAME [METHOD [DATA_UNIT_SIZE]]: in a mounted file system, a new encrypted directory.
encrypted_dir() {
	local identifier
	identifier=$(add_key "$2" "$(dirname "$1")")
	set_policy "$1" "$identifier" "${3:-per-file}" "${4:-4096}"
}

# --- hardware-wrapped keys ------------------------------------------------------------------------------------------
#
# The ioctls of the disk wrap keys; files with wrapped keys end in .lt (long-term form) or .eph (ephemeral form).

# expect_errno NAME COMMAND...: the command, one of the tools that print the name of an error number, must fail with this one.
expect_errno() {
	local name=$1
	shift
	if "$@" > "$OUT/answer" 2> "$OUT/error"; then
		fail "expected $name, but it succeeded: $*"
	fi
	[ "$(cat "$OUT/error")" = "$name" ] || fail "expected $name, got \"$(cat "$OUT/error")\": $*"
	rm "$OUT/answer" "$OUT/error"
}

# wrapped_key_hex NAME: the 32 bytes inside a hardware-wrapped key, always the same ones for the same name.
wrapped_key_hex() {
	printf 'vhost-user-blk-crypto wrapped test key %s' "$1" | sha256sum | cut -d ' ' -f 1
}

# import_key NAME FILE.lt: makes the disk wrap the key, and records it for the host.
import_key() {
	local hex
	hex=$(wrapped_key_hex "$1")
	grep -qs "hw-wrapped $hex" "$OUT/keys" || echo "hw-wrapped $hex # $1" >> "$OUT/keys"
	unhex "$hex" > /tmp/to-import
	blk-crypto-key "$DISK" import /tmp/to-import "$2" || fail "the key $1 cannot be imported" >&2
	rm /tmp/to-import
}

# add_long_term_key FILE.lt DIRECTORY: adds the key to the file system, prints its identifier.
add_long_term_key() {
	local identifier
	blk-crypto-key "$DISK" prepare "$1" /tmp/prepared.eph || fail "the key $1 cannot be prepared" >&2
	identifier=$(add-wrapped-key "$2" /tmp/prepared.eph) || fail "the key $1 cannot be added" >&2
	rm /tmp/prepared.eph
	[ ${#identifier} = 32 ] || fail "adding the key $1 gave \"$identifier\"" >&2
	echo "$identifier"
}

# add_wrapped_key NAME DIRECTORY: as add_key, for a hardware-wrapped key. It is imported the first time.
add_wrapped_key() {
	local file=/tmp/key-$1.lt
	[ -e "$file" ] || import_key "$1" "$file"
	add_long_term_key "$file" "$2"
}

# wrapped_dir DIRECTORY KEY_NAME METHOD [DATA_UNIT_SIZE]: as encrypted_dir, with a hardware-wrapped key.
wrapped_dir() {
	local identifier
	identifier=$(add_wrapped_key "$2" "$(dirname "$1")")
	set_policy "$1" "$identifier" "$3" "${4:-4096}"
}

# --- files ------------------------------------------------------------------------------------------------------

# Sizes around every border that matters: empty, less than a sector, a sector, a block, more than one request.
SIZES='0 1 511 512 513 4095 4096 4097 65536 100001 1048577'

# make_files DIRECTORY SEED [SIZE...]: the same files every time, in the plaintext that the host compares with.
make_files() {
	local directory=$OUT/plain/$1 seed=$2 size
	shift 2
	[ $# -gt 0 ] || eval "set -- $SIZES"
	mkdir -p "$directory"
	for size in "$@"; do
		seed=$((seed + 1))
		make-data "$size" "$seed" "$SENTINEL" > "$directory/file-$seed-of-$size"
	done
	echo "$SENTINEL" > "$OUT/sentinel"
}

# same_files A B: both have the same names and contents.
same_files() {
	diff -r "$1" "$2" > "$OUT/diff" 2>&1 || {
		head -n 20 "$OUT/diff"
		fail "$1 and $2 differ"
	}
	rm -f "$OUT/diff"
}

# plain_file_beside: a plain file on the same file system reads back as it was written.
plain_file_beside() {
	note 'a plain file beside the encrypted ones'
	make-data 500000 7 > /tmp/open
	cp /tmp/open "$MNT/open"
	drop_caches
	cmp /tmp/open "$MNT/open" || fail 'a plain file has other contents'
}

# record DIRECTORY PLAIN_DIRECTORY [OFFSET]: records for the host where each file of DIRECTORY is and that its
# plaintext is in $OUT/plain/PLAIN_DIRECTORY. OFFSET is where the file system begins on the disk. Files must not be
# changed afterwards, and the file system must be unmounted before the case ends.
record() {
	local file
	sync
	find "$1" -type f > "$OUT/files"
	[ -s "$OUT/files" ] || fail "no files in $1"
	while IFS= read -r file; do
		fscrypt-map --offset "${3:-0}" --strip "$1/" --prefix "$2/" "$file" >> "$OUT/manifest.jsonl"
	done < "$OUT/files"
	rm "$OUT/files"
}

# record_as_read FILE...: as record, for encrypted files that another program wrote: what can be read from them now is their plaintext.
# The verifier sees what the program cannot see by reading back: an error that writing and reading share.
record_as_read() {
	local file plain
	drop_caches
	for file; do
		plain=$OUT/plain/as-read/${file#"$MNT/"}
		mkdir -p "${plain%/*}"
		cp "$file" "$plain"
		fscrypt-map --strip "$MNT/" --prefix as-read/ "$file" >> "$OUT/manifest.jsonl"
	done
}

# record_btrfs DIRECTORY PLAIN_DIRECTORY OFFSET ENCRYPTED [EXTENTS]: as record, for files in one subvolume of a btrfs. ENCRYPTED is
# true or false: whether they must be encrypted. Each must have at least EXTENTS extents. The host finds the rest on the image.
# Debian's btrfs-progs ask the kernel for the subvolume's number.
record_btrfs() {
	local tree ino name
	tree=$(btrfs inspect-internal rootid "$1")
	find "$1" -type f -printf '%i %P\n' > "$OUT/files"
	[ -s "$OUT/files" ] || fail "no files in $1"
	while read -r ino name; do
		printf '{"kind":"btrfs","path":"%s","plain":"%s","root":%s,"ino":%s,"offset":%s,"encrypted":%s,"extents":%s}\n' \
			"$1/$name" "$2/$name" "$tree" "$ino" "$3" "$4" "${5:-0}"
	done < "$OUT/files" >> "$OUT/manifest.jsonl"
	rm "$OUT/files"
}

# record_names DIRECTORY [OFFSET]: records for the host the names in DIRECTORY and below it, and where their ciphertext
# is. The rules of record about changes and OFFSET apply here, too.
record_names() {
	sync
	find "$1" -type d -exec fscrypt-map --names --offset "${2:-0}" '{}' + >> "$OUT/manifest.jsonl"
}

# record_plain NAME OFFSET: the disk holds $OUT/plain/NAME unencrypted from OFFSET on.
record_plain() {
	printf '{"kind":"plain","path":"%s","plain":"%s","offset":%s}\n' "$1" "$1" "$2" >> "$OUT/manifest.jsonl"
}

# record_xts NAME OFFSET KEY DATA_UNIT_SIZE [FIRST]: the disk holds $OUT/plain/NAME, encrypted with this key and with
# data units numbered from FIRST (0), from OFFSET on. KEY is in hexadecimal, or hw-wrapped: and what was imported.
record_xts() {
	printf '{"kind":"xts","path":"%s","plain":"%s","offset":%s,"key":"%s","data_unit_size":%s,"first_dun":%s}\n' \
		"$1" "$1" "$2" "$3" "$4" "${5:-0}" >> "$OUT/manifest.jsonl"
}

# physical FILE LOGICAL: prints the offset of this byte of the file on the file system's device.
physical() {
	local extents
	extents=$(fscrypt-map --extents "$1")
	echo "$extents" | tr '{' '\n' | awk -F '[:,}]' -v at="$2" '
		$1 == "\"logical\"" && at >= $2 && at < $2 + $6 { printf "%d\n", $4 + at - $2; found = 1; exit }
		END { exit !found }' || fail "byte $2 of $1 has no place on the disk" >&2
}

# --- reset ------------------------------------------------------------------------------------------------------

# unbind_ports: call it before freeze_and_restore. The port that carries the results to the host does not survive that (a
# limit of virtio_console). The ports are bound again when the case ends.
unbind_ports() {
	local port
	CONSOLES=/sys/bus/virtio/drivers/virtio_console
	PORTS=$(cd $CONSOLES && ls -d virtio*)
	for port in $PORTS; do
		echo "$port" > $CONSOLES/unbind
	done
	trap bind_ports EXIT
}

bind_ports() {
	local port
	for port in $PORTS; do
		echo "$port" > $CONSOLES/bind
	done
}

# freezes: how many times the machine has looked for swap space.
freezes() {
	dmesg | grep -c 'Cannot find swap device' || true
}

# freeze_and_restore: every driver resets its device and sets it up again. Needs CONFIG_HIBERNATION.
#
# Hibernation freezes and resets every device, takes a snapshot and restores the devices. Only then it looks for swap space
# to write the snapshot to. There is none, so the machine goes on, but all drivers have executed freeze and restore.
freeze_and_restore() {
	local before
	sync
	[ -z "$(sed 1d /proc/swaps)" ] || skip 'there is swap space: the machine would really hibernate'
	echo shutdown > /sys/power/disk || skip 'this kernel cannot hibernate'
	before=$(freezes)
	if echo disk > /sys/power/state; then
		fail 'hibernated without swap space'
	fi
	[ "$(freezes)" -gt "$before" ] || fail 'hibernation failed before the snapshot'
	note 'frozen and restored'
}

# --- the device mapper ------------------------------------------------------------------------------------------------

# volume TARGET KEY START_MIB IV_OFFSET [OPTION...]: /dev/mapper/TARGET over 16 MiB of the disk.
volume() {
	local target=$1 key=$2 start=$3 iv_offset=$4
	shift 4
	echo "0 $((16 << 11)) $target aes-xts-plain64 $key $iv_offset $DISK $((start << 11)) $# $*" \
		| dmsetup create --noudevsync "$target" || return 1
	dmsetup mknodes
}

close_volume() {
	dmsetup remove --noudevsync "$1"
}
