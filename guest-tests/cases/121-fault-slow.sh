# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: delayed and reordered completions do no harm
# device: --fault delay=5ms,op=read+write,probability=0.05,seed=1,count=50 --fault delay=300us,op=write,probability=0.2,seed=2,count=100
# device: --fault reorder=8,op=read+write,probability=0.5,seed=3,count=200 --fault delay=20ms,op=flush+program,count=10
# needs: fio
# queues: 4
# check: fscrypt
# stat: events.fault > 300
# stat: requests.failed == 0
# stat: keyslots.nokey == 0

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/busy" two per-file 512
for mode in randwrite randrw; do
	fio --name=$mode --directory="$MNT/busy" --rw=$mode --bsrange=4k-64k --size=4M --numjobs=4 --ioengine=libaio \
		--iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --group_reporting --output="$OUT/fio-$mode.txt" ||
		{ tail -n 30 "$OUT/fio-$mode.txt"; fail "fio $mode found an error"; }
done
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
record_as_read "$MNT"/busy/*.0.0
umount "$MNT"
check_fs "$DISK"
