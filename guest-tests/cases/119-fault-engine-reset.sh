# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the engine is reset under load, three times: fio's verification and the ciphertext are not affected
# device: --keyslots 3 --fault lose-all-keys,op=write,slot=0-2,nth=500,count=1
# device: --fault lose-all-keys,op=write,slot=0-2,nth=1500,count=1 --fault lose-all-keys,op=read,slot=0-2,nth=500,count=1
# needs: fio
# queues: 4
# check: fscrypt
# stat: events.fault == 3
# stat: keyslots.nokey >= 3

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/busy" two
fio --name=busy --directory="$MNT/busy" --rw=randwrite --bs=4k --size=2M --numjobs=4 --ioengine=libaio --iodepth=16 \
	--direct=1 --verify=crc32c --verify_fatal=1 --group_reporting --output="$OUT/fio.txt" &
fio=$!
cp -r "$OUT/plain/tree/." "$MNT/secret"
sync
wait $fio || { tail -n 30 "$OUT/fio.txt"; fail 'fio found an error'; }
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree
record_as_read "$MNT/busy/busy.0.0"
umount "$MNT"
check_fs "$DISK"
