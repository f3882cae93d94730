#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# `cargo xtask fstests --fs btrfs` in the guest: stands before btrfs. `btrfs check` refuses a file system with encryption (the feature
# bit 0x8000). Then scrub has the kernel compute all checksums, of metadata and of ciphertext, for which it needs no keys.
set -u
btrfs=/usr/bin/btrfs
for device; do :; done
if [ "${1:-}" != check ] ||
	[ $(($($btrfs inspect-internal dump-super "$device" | sed -n 's/^incompat_flags\s*//p') & 0x8000)) = 0 ]; then
	exec $btrfs "$@"
fi
mnt=$(mktemp -d)
mount -t btrfs -o noatime "$device" "$mnt" || exit 1
$btrfs scrub start -B -r "$mnt" > "$mnt.scrub" 2>&1
status=$?
cat "$mnt.scrub"
grep -q 'no errors found' "$mnt.scrub" || status=1
umount "$mnt" || status=1
exit $status
