# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: dm-inlinecrypt, with a raw and a hardware-wrapped key, has the same ciphertext as dm-crypt with the same key
# device: --key-types raw,wrapped
# needs: CONFIG_DM_INLINECRYPT CONFIG_DM_CRYPT dmsetup openssl
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.nokey == 0

modprobe -q dm_crypt || true # or built in
modprobe -q dm_inlinecrypt || true
MIB=$((1 << 20))

# same_ciphertext NAME START_MIB FIRST KEY INLINE_KEY INLINE_TYPE [OPTION...]: each of the two reads what the other wrote.
# KEY is dm-crypt's, INLINE_KEY dm-inlinecrypt's form of it. FIRST is the IV offset in sectors.
same_ciphertext() {
	local name=$1 start=$2 first=$3 key=$4 inline_key=$5 type=$6
	shift 6
	make-data $((4 * MIB)) $((start * 10)) "$SENTINEL" > "$OUT/plain/$name"
	make-data $((4 * MIB)) $((start * 10 + 1)) "$SENTINEL" > "/tmp/$name-dm-crypt"

	volume inlinecrypt "$inline_key" "$start" "$first" "keytype:$type" "$@"
	dd if="$OUT/plain/$name" of=/dev/mapper/inlinecrypt bs=64k oflag=direct conv=notrunc status=none
	dd if="$OUT/plain/$name" of=/dev/mapper/inlinecrypt bs=4k count=3 conv=notrunc,fsync status=none
	drop_caches
	cmp -n $((4 * MIB)) "$OUT/plain/$name" /dev/mapper/inlinecrypt || fail "$name: dm-inlinecrypt reads something else"
	close_volume inlinecrypt

	volume crypt "$key" "$start" "$first" "$@"
	cmp -n $((4 * MIB)) "$OUT/plain/$name" /dev/mapper/crypt || fail "$name: dm-crypt reads something else"
	dd if="/tmp/$name-dm-crypt" of=/dev/mapper/crypt bs=64k seek=128 oflag=direct conv=notrunc status=none
	close_volume crypt

	volume inlinecrypt "$inline_key" "$start" "$first" "keytype:$type" "$@"
	drop_caches
	cmp -n $((4 * MIB)) -i 0:$((8 * MIB)) "/tmp/$name-dm-crypt" /dev/mapper/inlinecrypt ||
		fail "$name: dm-inlinecrypt does not read what dm-crypt wrote"
	close_volume inlinecrypt
	note "$name: the same ciphertext"
}

mkdir "$OUT/plain"
echo "$SENTINEL" > "$OUT/sentinel"
raw=$(key_hex dm-inlinecrypt)
same_ciphertext raw 0 0 "$raw" "$raw" raw
record_xts raw 0 "$raw" 512
# The highest bit is set, and the lower half carries within the data: 2^63 + 2^32 - 1000.
same_ciphertext raw-offset 16 9223372041149742104 "$raw" "$raw" raw
record_xts raw-offset $((16 * MIB)) "$raw" 512 9223372041149742104
same_ciphertext raw-4096 32 8192 "$raw" "$raw" raw sector_size:4096 iv_large_sectors
record_xts raw-4096 $((32 * MIB)) "$raw" 4096 1024

# dm-crypt gets the key that the hardware derives, from OpenSSL.
imported=$(wrapped_key_hex one)
context=$({ printf 'inline encryption key'; unhex 000000000000024300825000000000; } | od -An -v -tx1 | tr -d ' \n')
derived=$(openssl kdf -keylen 64 -kdfopt mac:CMAC -kdfopt cipher:AES-256-CBC -kdfopt "hexkey:$imported" \
	-kdfopt hexsalt:0000400000000000000020 -kdfopt "hexinfo:$context" -binary KBKDF | od -An -v -tx1 | tr -d ' \n')
import_key one /tmp/one.lt
blk-crypto-key "$DISK" prepare /tmp/one.lt /tmp/one.eph
ephemeral=$(od -An -v -tx1 /tmp/one.eph | tr -d ' \n')
same_ciphertext wrapped 48 0 "$derived" "$ephemeral" hw-wrapped
record_xts wrapped $((48 * MIB)) "hw-wrapped:$imported" 512
same_ciphertext wrapped-4096 64 0 "$derived" "$ephemeral" hw-wrapped sector_size:4096 iv_large_sectors
record_xts wrapped-4096 $((64 * MIB)) "hw-wrapped:$imported" 4096

note 'a wrapped key is refused where its form is wrong, and where there is no native support'
long_term=$(od -An -v -tx1 /tmp/one.lt | tr -d ' \n')
volume inlinecrypt "$long_term" 80 0 keytype:hw-wrapped
expect_failure 'writing with a long-term wrapped key' \
	dd if=/dev/zero of=/dev/mapper/inlinecrypt bs=4k count=1 oflag=direct conv=notrunc status=none
close_volume inlinecrypt
cmp -n 4096 -i 0:$((80 * MIB)) /dev/zero "$DISK" || fail 'something was written'
change_driver virtio_blk
expect_failure 'a wrapped key without native support' volume inlinecrypt "$ephemeral" 0 0 keytype:hw-wrapped 2> /tmp/words
grep -q 'Operation not supported' /tmp/words || fail "a wrapped key without native support: $(cat /tmp/words)"
