# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the kernel sees inline-encryption hardware, and ext4 with -o inlinecrypt encrypts with it natively
# device: --keyslots 32 --data-unit-sizes 512-65536 --max-dun-bytes 8
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: data_units.encrypted > 0
# stat: data_units.decrypted > 0
# stat: keyslots.program > 0
# stat: keyslots.nokey == 0
# stat: keyslots.equal_halves == 0

has_inline_encryption || fail "$BLOCK/queue/crypto is missing"
[ "$(crypto_attr num_keyslots)" = 32 ] || fail "keyslots: $(crypto_attr num_keyslots)"
[ "$(crypto_attr max_dun_bits)" = 64 ] || fail "bits of a data unit number: $(crypto_attr max_dun_bits)"
[ "$(engine_keys)" = raw ] || fail "keys: $(engine_keys)"
[ "$(($(crypto_attr modes/AES-256-XTS)))" = $((0x1fe00)) ] || fail "data unit sizes: $(crypto_attr modes/AES-256-XTS)"
[ "$(ls "$BLOCK/queue/crypto/modes")" = AES-256-XTS ] || fail "modes: $(ls "$BLOCK/queue/crypto/modes")"

make_fs "$DISK"
mount_fs "$DISK" "$MNT"
make_files tree 0
encrypted_dir "$MNT/secret" one
cp -r "$OUT/plain/tree/." "$MNT/secret"
drop_caches
same_files "$OUT/plain/tree" "$MNT/secret"
expect_native
record "$MNT/secret" tree

plain_file_beside
umount "$MNT"
check_fs "$DISK"
