# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: two logical units with an ext4 each: 200 keys on each of them at the same time, over the same 32 slots; then the driver is bound again
# attach: ufs
# luns: 2
# device: --personality ufs-3.1
# timeout: 600
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.replace > 300
# stat: keyslots.nokey == 0

lun_1() {
	use_lun 1
	MNT=/mnt-1
	OUT=$OUT/lun-1
}

(use_lun 1)
use_lun 0
[ "$(ls -d /sys/bus/scsi/devices/*:*:*:*/block | wc -l)" = 2 ] || fail 'there are not two disks'
mkdir "$OUT/lun-1"
(
	lun_1
	many_keys_case
) &
second=$!
many_keys_case
wait $second || fail 'the second logical unit: see above'

rebind
still_right() {
	mount_fs "$DISK" "$MNT"
	unlock one "$MNT"
	same_files "$OUT/plain/tree" "$MNT/secret"
	umount "$MNT"
}

(
	lun_1
	still_right
) &
second=$!
use_lun 0
still_right
wait $second || fail 'the second logical unit: see above'
