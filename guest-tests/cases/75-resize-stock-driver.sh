# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the kernel's own virtio_blk sees a larger disk, too; if the disk grew while no driver was loaded, the next driver sees it
# attach: vhost-user-blk
# driver: virtio_blk
# image: 64M
# host: ctl resize 128M => the frontend was told
# host: ctl resize 192M => before 134217728

host_step
wait_for_size $((128 << 20))
dmesg_has '[vda] new size: 262144 512-byte logical blocks' || fail 'the kernel says nothing'
echo 'the last block' | dd of="$DISK" bs=4096 seek=32767 conv=sync oflag=direct status=none
unload_driver virtio_blk
host_step
sleep 2
load_driver virtio_blk
wait_for_size $((192 << 20))
dd if="$DISK" of=/dev/null bs=4096 skip=49151 count=1 iflag=direct status=none
[ "$(dd if="$DISK" bs=4096 skip=32767 count=1 iflag=direct status=none | tr -d '\0')" = 'the last block' ] ||
	fail 'the last block of before is another one'
