# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: adding and removing hardware-wrapped master keys: what locks, what unlocks, and every documented error
# device: --key-types raw,wrapped
# check: fscrypt
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
import_key one /tmp/one.lt
blk-crypto-key "$DISK" prepare /tmp/one.lt /tmp/one.eph
identifier=$(add-wrapped-key "$MNT" /tmp/one.eph)
set_policy "$MNT/secret-64" "$identifier" ino-lblk-64
set_policy "$MNT/secret-32" "$identifier" ino-lblk-32
set_policy "$MNT/sectors" "$identifier" ino-lblk-64 512
wrapped_dir "$MNT/other" two ino-lblk-64
directories='secret-64 secret-32 sectors'
for directory in $directories other; do
	cp -r "$OUT/plain/tree/." "$MNT/$directory"
done
expect_native

note 'EBADMSG: no key, a changed one, the long-term form'
head -c 90 /dev/urandom > /tmp/bad
expect_errno EBADMSG add-wrapped-key "$MNT" /tmp/bad
expect_errno EBADMSG add-wrapped-key "$MNT" /tmp/one.lt
cp /tmp/one.eph /tmp/bad
byte=$(od -An -tu1 -j 40 -N 1 /tmp/bad)
env printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of=/tmp/bad bs=1 seek=40 conv=notrunc status=none
expect_errno EBADMSG add-wrapped-key "$MNT" /tmp/bad
note 'EINVAL: sizes that are none'
for count in 0 15 129; do
	head -c $count /dev/urandom > /tmp/bad
	expect_errno EINVAL add-wrapped-key "$MNT" /tmp/bad
done

note 'per-file keys do not go with a wrapped key, and nobody encrypts'
set_policy "$MNT/per-file" "$identifier" per-file
if mkdir "$MNT/per-file/x" 2> /tmp/words || (: > "$MNT/per-file/y") 2>> /tmp/words; then
	fail 'per-file keys and a wrapped key: a file could be made'
fi
grep -q 'Invalid argument' /tmp/words || fail "per-file keys and a wrapped key: $(cat /tmp/words)"

note 'removed: names and contents are locked'
remove_key "$identifier" "$MNT"
expect_locked $directories
same_files "$OUT/plain/tree" "$MNT/other"

note 'the same blob unlocks them again, and so does a new one of the same key'
[ "$(add-wrapped-key "$MNT" /tmp/one.eph)" = "$identifier" ] || fail 'the key got another identifier'
for directory in $directories; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
done
remove_key "$identifier" "$MNT"
[ "$(add_long_term_key /tmp/one.lt "$MNT")" = "$identifier" ] || fail 'prepared again, the key has another identifier'
drop_caches
for directory in $directories other; do
	same_files "$OUT/plain/tree" "$MNT/$directory"
	record "$MNT/$directory" tree
	record_names "$MNT/$directory"
done
umount "$MNT"

note 'EOPNOTSUPP: mounted without -o inlinecrypt'
mount -t ext4 "$DISK" "$MNT"
expect_errno EOPNOTSUPP add-wrapped-key "$MNT" /tmp/one.eph
[ ! -e "$MNT/secret-64/file-9-of-65536" ] || fail 'names can be read without the key'
umount "$MNT"

note 'and so does the stock driver, which cannot use the key either'
change_driver virtio_blk
mount_fs "$DISK" "$MNT"
expect_errno EOPNOTSUPP add-wrapped-key "$MNT" /tmp/one.eph
locked=$(find "$MNT/secret-64" -type f | head -n 1)
expect_failure 'reading without the key' dd if="$locked" of=/dev/null status=none
umount "$MNT"
check_fs "$DISK"
