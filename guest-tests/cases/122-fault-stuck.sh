# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: requests are stuck for longer than the block layer's timeout, others complete, and after the fault all complete correctly
# device: --workers 4
# queues: 4
# needs: fio
# host: ctl fault add stuck,op=read+write,slot=0-31 => fault 1
# host: ctl fault list => 1 stuck,op=read+write,slot=0-31
# host: ctl fault clear => 1 faults are cleared
# check: fscrypt
# stat: events.fault > 0
# stat: requests.failed == 0
# stat: keyslots.nokey == 0

# done_so_far: prints how many reads and writes the disk has completed.
done_so_far() {
	awk '{ print $1, $5 }' "$BLOCK/stat"
}

in_flight() {
	awk '{ print $1 + $2 }' "$BLOCK/inflight"
}

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/busy" two per-file 512
while [ ! -e /tmp/enough ]; do
	fio --name=busy --directory="$MNT/busy" --rw=randrw --bsrange=4k-64k --size=2M --numjobs=2 --ioengine=libaio \
		--iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 --group_reporting --output="$OUT/fio.txt" || exit 1
done &
fio=$!
cp -r "$OUT/plain/tree" "$MNT/secret/before"
sync
host_step
tries=0
before=
while [ "$(in_flight)" -eq 0 ] || [ "$before" != "$(done_so_far)" ]; do
	[ $tries -lt 60 ] || fail "requests still complete: $before, $(done_so_far)"
	tries=$((tries + 1))
	before=$(done_so_far)
	sleep 1
done
note "$(in_flight) requests are stuck"
host_step
{
	cp -r "$OUT/plain/tree" "$MNT/secret/meanwhile"
	sync "$MNT"/secret/meanwhile/*
} &
copy=$!
# Longer than the block layer's timeout of 30 s, which the driver ignores.
sleep 35
[ "$(in_flight)" -gt 0 ] || fail 'no request is stuck any more'
kill -0 $fio || fail 'fio has ended'
kill -0 $copy || fail 'all files were copied'
timeout 20 dd if="$DISK" of=/dev/null bs=4096 count=16 iflag=direct status=none || fail 'a plain request does not complete'
note 'a plain read completed'
host_step
wait $copy
: > /tmp/enough
wait $fio || { tail -n 30 "$OUT/fio.txt"; fail 'fio found an error'; }
drop_caches
for tree in before meanwhile; do
	same_files "$OUT/plain/tree" "$MNT/secret/$tree"
done
expect_native
record "$MNT/secret/before" tree
record "$MNT/secret/meanwhile" tree
record_as_read "$MNT/busy/busy.0.0"
umount "$MNT"
check_fs "$DISK"
