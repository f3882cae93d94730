# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: digests from the device and from the fallback are those of the ciphertext, however bios are split, cloned and merged
# device: --data-unit-sizes 512-4096
# needs: CONFIG_BLK_CRYPTO_DIGEST_TEST dmsetup
# timeout: 600
# stat: digests.crc32c > 0
# stat: digests.xxhash64 > 0
# stat: digests.sha256 > 0
# stat: digests.blake2b_256 > 0
# stat: keyslots.nokey == 0

digests='blake2b-256 crc32c sha256 xxhash64'
# shellcheck disable=SC2046,SC2086 # words
[ "$(echo $(ls "$BLOCK/queue/crypto/digests"))" = "$digests" ] || fail "digests: $(ls "$BLOCK/queue/crypto/digests")"
[ "$(crypto_attr digests/sha256)" = 32 ] || fail "size of a SHA-256 digest: $(crypto_attr digests/sha256)"
# The driver's buffer has room for the SHA-256 digests of this many KiB in data units of 512 bytes.
[ "$(cat "$BLOCK/queue/max_hw_sectors_kb")" = 1024 ] || fail "largest request: $(cat "$BLOCK/queue/max_hw_sectors_kb") KiB"
# shellcheck disable=SC2086
digest_test "$DISK" $digests
read -r _ read_merges _ _ _ write_merges _ < "$BLOCK/stat"
note "$read_merges reads and $write_merges writes were merged"
[ "$read_merges" -gt 0 ] && [ "$write_merges" -gt 0 ] || fail 'no bios with digests were merged'

note 'on two stripes of the disk, which split every bio'
half=$(($(blockdev --getsz "$DISK") / 2 / 24 * 24))
dmsetup create --noudevsync stripes --table "0 $((2 * half)) striped 2 24 $DISK 0 $DISK $half"
stripes=/dev/$(dmsetup info -c --noheadings -o blkdevname stripes)
# shellcheck disable=SC2086
digest_test "$stripes" $digests
dmsetup remove --noudevsync stripes
[ "$(counter nokey_retries)" = 0 ] || fail 'a request came back NOKEY'
