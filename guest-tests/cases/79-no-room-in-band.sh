# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: an in-band command waits for room in a ring that is full of stuck requests; a removal ends that wait
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1 num_request_queues=1 queue_depth=1000
# device: --in-band --keyslots 1
# needs: fio
# host: ctl fault add stuck,op=read,sector=400000-500000 => fault
# host: ctl fault clear => 1 faults are cleared
# check: fscrypt
# errors: expected
# stat: events.fault > 0

secret_tree
encrypted_dir "$MNT/new" two
# The keyslot has the key of the first file, so writing the second file needs a command before anything else.
for file in other one; do
	make-data 4096 1 > "$MNT/new/$file"
	sync "$MNT/new/$file"
done
host_step_done
# More requests than the ring has room for. Without a scheduler, no request waits for another reason.
echo none > "$BLOCK/queue/scheduler"
fio --name=full --filename="$DISK" --offset=210M --size=16M --rw=randread --bs=512 --ioengine=libaio --iodepth=128 --numjobs=4 \
	--direct=1 --output="$OUT/fio.txt" &
fio=$!
sleep 8
dd if=/dev/zero of="$MNT/new/other" bs=4096 count=1 conv=notrunc oflag=direct status=none &
write=$!
sleep 3
kill -0 $write || fail 'a key was programmed'
echo "$VIRTIO" > "$DRIVER_DIR/unbind" &
unbind=$!
wait_for_dmesg 'command 30 was not answered'
kill -0 $fio || fail 'no request is stuck'
host_step_done
wait $unbind
if wait $write; then
	fail 'a file was written without its key'
fi
wait $fio || true
umount "$MNT"
bind_disk
secret_tree_is_right
