# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a UFS host controller with one slot: 200 keys take turns in it, policies that it cannot have use the fallback, and all are right after each level of runtime suspend
# attach: ufs
# device: --personality one-slot --data-unit-sizes 4096
# timeout: 600
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 300
# stat: data_units.encrypted >= 902
# stat: keyslots.nokey == 0

expect_engine 1 64 raw 0x1000
many_keys_case

mount_fs "$DISK" "$MNT"
unlock one "$MNT"
# The engine has no data units of 512 bytes.
encrypted_dir "$MNT/fallback" two per-file 512
encrypted_dir "$MNT/native" three ino-lblk-64
make_files more 500
for directory in fallback native; do
	cp -r "$OUT/plain/more/." "$MNT/$directory"
done
fallback_was_used || fail 'data units of 512 bytes did not use the fallback'

all_is_right() {
	drop_caches
	for directory in fallback native; do
		same_files "$OUT/plain/more" "$MNT/$directory"
	done
	same_files "$OUT/plain/tree" "$MNT/secret"
}

all_is_right
# Hibernating link; sleeping device and hibernating link; everything off, so that the driver programs its key anew.
for level in 1 3 5; do
	note "runtime suspend, level $level"
	runtime_suspend $level
	runtime_resume
	all_is_right
done
for directory in fallback native; do
	record "$MNT/$directory" more
done
umount "$MNT"
check_fs "$DISK"
