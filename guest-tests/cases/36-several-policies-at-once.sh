# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: all policies, data unit sizes and several master keys at once on one file system
# device: --keyslots 3
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

make_files tree 0 100 4096 70001 524288
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
policies='per-file:4096 per-file:512 per-file:1024 per-file:2048 ino-lblk-64:4096 ino-lblk-64:512 ino-lblk-32:4096'
for policy in $policies; do
	encrypted_dir "$MNT/$policy" "key-$policy" "${policy%:*}" "${policy#*:}"
done
for policy in $policies; do
	cp -r "$OUT/plain/tree/." "$MNT/$policy" &
done
wait
drop_caches
for policy in $policies; do
	same_files "$OUT/plain/tree" "$MNT/$policy"
	record "$MNT/$policy" tree
done
expect_native

note 'the kernel refuses IV_INO_LBLK_32 with data units smaller than a block'
identifier=$(add_key one "$MNT")
mkdir "$MNT/refused"
answer=$(xfs_io -c "set_encpolicy -v 2 -c 1 -n 4 -s 9 -f 0x13 $identifier" "$MNT/refused" 2>&1) || true
[ -n "$answer" ] || fail 'the kernel accepts IV_INO_LBLK_32 with data units of 512 bytes: add a case for it'
umount "$MNT"
check_fs "$DISK"
