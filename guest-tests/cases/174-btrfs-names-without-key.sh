# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: btrfs lists a directory with long names without its key, finds every name that it lists, and has the names back with the key
# needs: CONFIG_BTRFS_FS mkfs.btrfs

# files NUMBER LENGTH: empty files with names of this length.
files() {
	local number
	for number in $(seq "$1"); do
		: > "$MNT/secret/$(printf "%.$2d" "$number")"
	done
}

# listed prints the directory's inode numbers and names.
listed() {
	find "$MNT/secret" -mindepth 1 -printf '%i %f\n' | sort
}

mkfs.btrfs -q -f "$DISK"
mount -t btrfs "$DISK" "$MNT"
has_fscrypt "$MNT" || skip "no fscrypt on this kernel's btrfs: $(cat /tmp/added)"
identifier=$(add_key one "$MNT")
set_policy "$MNT/secret" "$identifier"
# btrfs lists by way of a buffer of 4096 bytes, in the order in which the files were made. Without the key the first 24 names need
# 3852 bytes of it, and the next one 276. A kernel that reckons with 4/3 of its 160 bytes, 238 in all, writes beyond the buffer. KASAN
# reports that. Without KASAN the kernel has oopsed later, since the many other names overwrite what is behind the buffer.
files 10 160
files 14 16
: > "$MNT/secret/$(printf '%.160d' 11)"
files 5 255
files 300 100
listed > /tmp/before
[ "$(wc -l < /tmp/before)" = 330 ]

remove_key "$identifier" "$MNT"
drop_caches
listed > /tmp/locked
[ "$(cut -d ' ' -f 1 /tmp/locked)" = "$(cut -d ' ' -f 1 /tmp/before)" ] || fail "other files without the key: $(cat /tmp/locked)"
[ "$(cut -d ' ' -f 2 /tmp/locked | sort -u | wc -l)" = 330 ] || fail "the same name twice: $(cat /tmp/locked)"
if grep -q '000000000' /tmp/locked; then
	fail 'names can be read without the key'
fi
drop_caches
while read -r number name; do
	found=$(stat -c %i "$MNT/secret/$name") || fail "$name is listed, but not found"
	[ "$found" = "$number" ] || fail "$name is inode $number when listed, and $found when looked up"
done < /tmp/locked

unlock one "$MNT"
listed | cmp - /tmp/before || fail 'other names than before the key was removed'
# Nor does a mount without the key know them.
umount "$MNT"
mount -t btrfs "$DISK" "$MNT"
listed | cmp - /tmp/locked || fail 'other names without the key after a new mount'
unlock one "$MNT"
drop_caches
listed | cmp - /tmp/before || fail 'other names after a new mount'
umount "$MNT"
