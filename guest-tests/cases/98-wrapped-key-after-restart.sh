# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a long-term wrapped key works after a restart with the same wrapping-key file, and is refused with another one
# boots: 3
# device: --key-types raw,wrapped
# device-1: --wrapping-key-file @state/wrapping.key
# device-2: --wrapping-key-file @state/wrapping.key
# device-3: --wrapping-key-file @state/another.key
# check: fscrypt
# stat: requests.crypto_in == 0
# stat: requests.crypto_out == 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

needs_wrapped_keys
case $BOOT in
1)
	make_files tree 0
	make_fs "$DISK"
	mount_fs "$DISK" "$MNT"
	import_key one "$STATE/one.lt"
	blk-crypto-key "$DISK" generate "$STATE/generated.lt"
	blk-crypto-key "$DISK" prepare "$STATE/one.lt" "$STATE/one.eph"
	add-wrapped-key "$MNT" "$STATE/one.eph" > "$STATE/identifier"
	add_long_term_key "$STATE/generated.lt" "$MNT" > "$STATE/generated"
	set_policy "$MNT/secret" "$(cat "$STATE/identifier")" ino-lblk-64
	# The host does not know a generated key, so it cannot verify the ciphertext. The files must be readable after the restart.
	set_policy "$MNT/generated" "$(cat "$STATE/generated")" ino-lblk-32
	for directory in secret generated; do
		cp -r "$OUT/plain/tree/." "$MNT/$directory"
	done
	expect_native
	;;
2)
	note 'an ephemerally wrapped key is invalid after a restart'
	mount_fs "$DISK" "$MNT"
	expect_errno EBADMSG add-wrapped-key "$MNT" "$STATE/one.eph"
	[ ! -e "$MNT/secret/file-9-of-65536" ] || fail 'names can be read without the key'

	note 'long-term wrapped keys are the same keys as before'
	make_files tree 0
	echo "hw-wrapped $(wrapped_key_hex one)" > "$OUT/keys"
	[ "$(add_long_term_key "$STATE/one.lt" "$MNT")" = "$(cat "$STATE/identifier")" ] || fail 'another identifier'
	[ "$(add_long_term_key "$STATE/generated.lt" "$MNT")" = "$(cat "$STATE/generated")" ] || fail 'another identifier'
	same_files "$OUT/plain/tree" "$MNT/secret"
	same_files "$OUT/plain/tree" "$MNT/generated"
	make_files tree/later 60 100 70000
	cp -r "$OUT/plain/tree/later" "$MNT/secret"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	expect_native
	record "$MNT/secret" tree
	record_names "$MNT/secret"
	cp -r "$OUT/manifest.jsonl" "$OUT/keys" "$OUT/sentinel" "$OUT/plain" "$STATE"
	;;
3)
	note 'other hardware refuses the keys, and the files stay locked'
	mount_fs "$DISK" "$MNT"
	for name in one generated; do
		expect_errno EBADMSG blk-crypto-key "$DISK" prepare "$STATE/$name.lt" /tmp/result
	done
	expect_errno EBADMSG add-wrapped-key "$MNT" "$STATE/one.eph"
	expect_errno EBADMSG add-wrapped-key "$MNT" "$STATE/one.lt"
	expect_unreadable "$MNT/secret"

	note 'the same bytes, imported here, make the same master key'
	import_key one /tmp/one.lt
	[ "$(add_long_term_key /tmp/one.lt "$MNT")" = "$(cat "$STATE/identifier")" ] || fail 'another identifier'
	remove_key "$(cat "$STATE/identifier")" "$MNT"
	cp -r "$STATE/manifest.jsonl" "$STATE/keys" "$STATE/sentinel" "$STATE/plain" "$OUT"
	;;
esac
umount "$MNT"
check_fs "$DISK"
