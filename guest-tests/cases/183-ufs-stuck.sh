# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: fault stuck: a doorbell is never answered; the UFS driver aborts the request, clears its slot, and sends it again
# attach: ufs
# device: --personality ufs-3.1
# host: ctl fault add stuck,op=write,slot=0-31,count=1 => fault 1
# check: fscrypt
# stat: events.fault == 1
# stat: keyslots.nokey == 0

secret_tree
echo 5 > "$BLOCK/device/timeout"
encrypted_dir "$MNT/stuck" two
host_step_done
cp -r "$OUT/plain/tree/." "$MNT/stuck"
sync
dmesg_has 'Device abort task' || fail 'the driver has not aborted the request'
drop_caches
same_files "$OUT/plain/tree" "$MNT/stuck"
record "$MNT/stuck" tree
umount "$MNT"
secret_tree_is_right
