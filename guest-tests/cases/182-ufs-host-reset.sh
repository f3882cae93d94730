# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the UFS driver's error handler resets the controller under verified I/O, and programs its keys anew; then the driver is bound again
# attach: ufs
# device: --personality ufs-3.1
# needs: CONFIG_DEBUG_FS
# check: fscrypt
# stat: keyslots.program > 0
# stat: keyslots.nokey == 0
# stat: events.reset > 6

controller=$(basename "$(readlink -f /sys/bus/pci/drivers/ufshcd/0000:*)")
secret_tree
encrypted_dir "$MNT/busy" two per-file 512
begin_busy
for round in 1 2 3; do
	note "reset $round"
	# A controller fatal error.
	echo 0x10000 > "/sys/kernel/debug/ufshcd/$controller/saved_err"
	sleep 2
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
done
end_busy
[ "$(dmesg | grep -c 'ufshcd_err_handler started')" -ge 3 ] || fail 'the error handler has not run'
umount "$MNT"

echo "$controller" > /sys/bus/pci/drivers/ufshcd/unbind
wait_for_disk no
echo "$controller" > /sys/bus/pci/drivers/ufshcd/bind
wait_for_disk yes
secret_tree_is_right
