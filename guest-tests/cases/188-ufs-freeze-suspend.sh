# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a UFS host controller is frozen and restored while files are open, and suspended with the system if the kernel can test that: the driver programs its keys again, nothing is lost
# attach: ufs
# device: --personality ufs-3.1
# needs: CONFIG_HIBERNATION
# timeout: 600
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

freeze_case

# The machine stays awake, but all drivers suspend and resume.
if [ -e /sys/power/pm_test ]; then
	mount_fs "$DISK" "$MNT"
	unlock one "$MNT"
	echo devices > /sys/power/pm_test
	for round in 1 2; do
		same_files "$OUT/plain/tree" "$MNT/secret"
		note "system suspend, round $round"
		echo mem > /sys/power/state
		drop_caches
		same_files "$OUT/plain/tree" "$MNT/secret"
	done
	umount "$MNT"
else
	note 'no system suspend: the kernel lacks CONFIG_PM_DEBUG'
fi
