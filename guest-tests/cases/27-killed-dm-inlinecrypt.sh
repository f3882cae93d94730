# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device is killed and started again 10 times under dm-inlinecrypt: no error, no wrong byte, no plaintext on the disk
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 8 --crypto-latency-us 15000 --program-latency-us 2000
# needs: CONFIG_DM_INLINECRYPT dmsetup fio
# kills: 10
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0

# The other cases of kills have an encrypted file system and a plain disk; this one has an encrypted disk without a file system.

modprobe -q dm_inlinecrypt || true # or built in
engine=$(fio_engine)
key=$(key_hex killed)
volume inlinecrypt "$key" 0 0 keytype:raw sector_size:4096 iv_large_sectors
mkdir "$OUT/plain"
echo "$SENTINEL" > "$OUT/sentinel"
make-data $((4 << 20)) 1 "$SENTINEL" > "$OUT/plain/units"

write_and_read() {
	dd if="$OUT/plain/units" of=/dev/mapper/inlinecrypt bs=64k seek=192 oflag=direct conv=notrunc status=none
	drop_caches
	cmp -n $((4 << 20)) -i 0:$((12 << 20)) "$OUT/plain/units" /dev/mapper/inlinecrypt || fail 'something else is read'
}

begin_kills
round=0
while kills_left; do
	round=$((round + 1)) running=
	fio_while_killed direct --filename=/dev/mapper/inlinecrypt --ioengine="$engine" --iodepth=16 --bsrange=4k-64k --direct=1 --fsync=20
	fio_while_killed buffered --filename=/dev/mapper/inlinecrypt --offset=8M --ioengine=psync --bsrange=4k-32k --fdatasync=50 --end_fsync=1
	write_and_read
	wait_for_fio "round $round"
done
# Once more on the device that is not killed.
write_and_read
note "$round rounds"
keys_were_lost

close_volume inlinecrypt
record_xts units $((12 << 20)) "$key" 4096 $((12 << 8))
