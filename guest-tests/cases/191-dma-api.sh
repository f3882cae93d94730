# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the driver uses the DMA API: verified I/O, keys in turn, resets and unbinding
# device: --access-platform --keyslots 4
# root-port: yes
# needs: fio
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

# Feature 33, VIRTIO_F_ACCESS_PLATFORM.
[ "$(cut -c 34 "/sys/bus/virtio/devices/$VIRTIO/features")" = 1 ] || fail 'the driver does not use the DMA API'

many_keys_case
for round in 1 2 3; do
	unbind_disk
	bind_disk
done
mount_fs "$DISK" "$MNT"
unlock one "$MNT"
same_files "$OUT/plain/tree" "$MNT/secret"
encrypted_dir "$MNT/busy" two
begin_busy
! kernel_tells_of_function_resets || echo 1 > "$FUNCTION/reset"
sleep 2
end_busy
umount "$MNT"
check_fs "$DISK"
