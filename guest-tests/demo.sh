# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the demo: some files are encrypted by the device, and the host verifies every byte of the ciphertext
# device: --keyslots 8
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

# report KEY VALUE: adds a line to the report that the host prints.
report() {
	echo "$1=$2" >> "$OUT/report"
	note "$1: $2"
}

# bits_to_sizes MASK: bit 9 set means 512, and so on.
bits_to_sizes() {
	sizes=
	for bit in 9 10 11 12 13 14 15 16; do
		[ $(($1 >> bit & 1)) = 0 ] || sizes="$sizes $((1 << bit))"
	done
	echo "${sizes# }"
}

report kernel "$(uname -r)"
has_inline_encryption || fail 'the kernel sees no inline-encryption hardware'
report modes "$(ls "$BLOCK/queue/crypto/modes")"
report data_unit_sizes "$(bits_to_sizes "$(crypto_attr modes/AES-256-XTS)")"
report keyslots "$(crypto_attr num_keyslots)"
report max_dun_bits "$(crypto_attr max_dun_bits)"
report keys "$(engine_keys)"

note 'an ext4, mounted with -o inlinecrypt, and three directories with three kinds of encryption policy'
make_fs "$DISK"
mount_fs "$DISK" "$MNT"
encrypted_dir "$MNT/own-keys" 'first key'
encrypted_dir "$MNT/small-units" 'second key' per-file 512
encrypted_dir "$MNT/one-key" 'third key' ino-lblk-64

note 'files of several sizes in each, more of them than there are keyslots'
make_files files 0 1 4096 5000 65536 100001 1048577
for directory in own-keys small-units one-key; do
	cp -r "$OUT/plain/files/." "$MNT/$directory"
done

note 'read back from the disk'
drop_caches
for directory in own-keys small-units one-key; do
	same_files "$OUT/plain/files" "$MNT/$directory"
done
if native_was_used && ! fallback_was_used; then
	report native yes
else
	report native no
fi
dmesg | grep 'fscrypt: AES-256-XTS using' | sed 's/^.*fscrypt: //' | while IFS= read -r words; do
	report kernel_says "$words"
done

note 'record for the host where the files are'
for directory in own-keys small-units one-key; do
	record "$MNT/$directory" files
done
umount "$MNT"
[ "$(sed -n 's/^native=//p' "$OUT/report")" = yes ] || fail 'the kernel did not use the device for encryption'
