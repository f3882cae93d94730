# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: memory is plugged in during a slow read; encrypted I/O then goes to and from the new memory
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 3 --workers 1 --fault delay=12s,op=read,sector=327680-327687,count=1
# needs: fio CONFIG_ACPI_HOTPLUG_MEMORY
# host: memory 256M
# check: fscrypt
# stat: events.fault == 1
# stat: keyslots.nokey == 0
# stat: requests.failed == 0
# stat: events.broken_queue == 0

memory() {
	awk '/^MemTotal/ { print $2 }' /proc/meminfo
}

# free_high: prints the KiB that are free above 4 GiB, where there was no memory before.
free_high() {
	awk '$4 == "Normal" { high = 1 } high && /pages free/ { print $3 * 4; exit }' /proc/zoneinfo
}

# Some kernels leave that to udev.
echo online > /sys/devices/system/memory/auto_online_blocks
make_files tree 0
make_fs "$DISK" 128M
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/busy" two per-file 512
before=$(memory)
dd if="$DISK" of=/dev/null bs=4096 skip=40960 count=1 iflag=direct status=none &
slow=$!
sleep 0.5
host_step
tries=0
while [ "$(memory)" -lt $((before + (200 << 10))) ]; do
	tries=$((tries + 1))
	[ $tries -lt 300 ] || fail 'the guest has no more memory than before'
	sleep 0.1
done
kill -0 $slow || fail 'the slow read was over too early'
# The kernel allocates the highest memory first.
begin_busy --numjobs=4 --size=2M --iodepth=16 --bsrange=512-32k
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
used=$(((256 << 10) - $(free_high)))
note "used of the new memory: $used KiB"
[ $used -gt 10000 ] || fail 'the new memory is not used'
end_busy
wait $slow
expect_native
record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
