# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the driver is unbound while encrypted I/O is in flight: no hang, and no synced data is lost
# needs: fio
# check: fscrypt
# errors: expected
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

module=virtio_blk_crypto
device=$(basename "$(readlink -f "$BLOCK/device")")
driver=$(readlink -f "$BLOCK/device/driver")

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/busy" two
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
sync

fio --name=busy --directory="$MNT/busy" --rw=randrw --bs=4k --size=8M --numjobs=3 --ioengine=psync --direct=1 \
	--time_based --runtime=120 --output=/tmp/fio 2>&1 &
fio=$!
tries=0
while [ ! -e "$MNT/busy/busy.2.0" ]; do
	tries=$((tries + 1))
	[ $tries -lt 300 ] || fail 'fio does not start'
	sleep 0.1
done
sleep 5

note 'in use, neither the module nor the mount can be removed'
expect_failure 'unloading the module of a mounted disk' rmmod $module
expect_failure 'unmounting a busy file system' umount "$MNT"

note 'but the driver can be unbound'
echo "$device" > "$driver/unbind"
[ ! -e "$BLOCK" ] || [ ! -e "$BLOCK/device/driver" ] || fail 'the driver is still bound'
if wait $fio; then
	fail 'fio did not notice that its disk was gone'
fi
umount "$MNT"

note 'bound again, everything that was synced is there'
echo "$device" > "$driver/bind"
wait_for_disk yes
secret_files_are_right

note 'unused, the module can be unloaded'
change_driver $module
