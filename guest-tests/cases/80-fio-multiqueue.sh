# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: fio's own verification on encrypted files, many requests in flight on several queues; the ciphertext is right, too
# device: --keyslots 3
# needs: fio
# queues: 4
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

[ "$(ls "$BLOCK/mq" | wc -l)" -gt 1 ] || fail 'a single request queue'
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/sectors" one per-file 512
make_files tree 0 4096
cp -r "$OUT/plain/tree" "$MNT/secret/tree"
record "$MNT/secret/tree" tree
engine=psync
fio --enghelp | grep -qw io_uring && engine=io_uring
fio --enghelp | grep -qw libaio && engine=libaio

# run NAME DIRECTORY OPTION...
run() {
	name=$1 directory=$2
	shift 2
	note "fio: $name in $directory"
	fio --name="$name" --directory="$MNT/$directory" --ioengine=$engine --iodepth=16 --numjobs=4 --size=8M \
		--verify=crc32c --verify_fatal=1 --group_reporting --output="$OUT/fio-$name-$directory.txt" "$@" \
		|| { tail -n 30 "$OUT/fio-$name-$directory.txt"; fail "fio $name in $directory"; }
	rm "$MNT/$directory/$name".[1-3].0
}

for directory in secret sectors; do
	run direct "$directory" --rw=randwrite --bs=4k,4k,4k --direct=1
	run mixed "$directory" --rw=randrw --bsrange=4k-128k --direct=1
	run buffered "$directory" --rw=randwrite --bsrange=512-64k --direct=0 --end_fsync=1
done
record_as_read "$MNT"/secret/*.0.0 "$MNT"/sectors/*.0.0
expect_native
umount "$MNT"
check_fs "$DISK"
