# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: behind vhost-user-blk-pci, with in-band access, ext4 with -o inlinecrypt encrypts natively; the keys survive a freeze
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 3 --max-dun-bytes 8 --key-types raw,wrapped
# queues: 2
# needs: fio CONFIG_HIBERNATION
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0
# stat: requests.control > 0

has_inline_encryption || fail "$BLOCK/queue/crypto is missing"
[ "$(crypto_attr num_keyslots)" = 3 ] || fail "keyslots: $(crypto_attr num_keyslots)"
[ "$(crypto_attr max_dun_bits)" = 64 ] || fail "bits of a data unit number: $(crypto_attr max_dun_bits)"
kernel_has_wrapped_keys && keys=raw,wrapped || keys=raw
[ "$(engine_keys)" = $keys ] || fail "keys: $(engine_keys)"
[ "$(($(crypto_attr modes/AES-256-XTS)))" = $((0x1fe00)) ] || fail "data unit sizes: $(crypto_attr modes/AES-256-XTS)"

make_files tree 0
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/secret" one
encrypted_dir "$MNT/sectors" one per-file 512
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native

if kernel_has_wrapped_keys; then
	note 'commands of hardware-wrapped keys'
	blk-crypto-key "$DISK" generate /tmp/long-term
	blk-crypto-key "$DISK" prepare /tmp/long-term /tmp/ephemeral
fi

note 'commands among many requests: 8 files, 3 keyslots, a ring that is full'
fio --name=pressure --directory="$MNT/sectors" --ioengine=libaio --iodepth=128 --numjobs=8 --size=2M --rw=randwrite \
	--bs=512 --direct=1 --verify=crc32c --verify_fatal=1 --group_reporting --output="$OUT/fio.txt" ||
	fail "fio: $(tail -n 30 "$OUT/fio.txt")"
rm "$MNT"/sectors/pressure.[1-7].0

note 'freeze and restore with files open'
unbind_ports
freeze_and_restore
echo 1 > /proc/sys/vm/drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
make_files tree/later 60 100 70000
cp -r "$OUT/plain/tree/later" "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
record "$MNT/secret" tree
record_as_read "$MNT/sectors/pressure.0.0"
umount "$MNT"
check_fs "$DISK"

note 'without in_band=1 the driver does not ask, and the disk is plain'
change_driver virtio_blk_crypto
if has_inline_encryption; then
	fail 'inline encryption without in_band=1'
fi
