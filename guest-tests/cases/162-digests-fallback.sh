# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: keys with a digest that the device does not offer use the fallback, other keys the device
# device: --digests sha256
# needs: CONFIG_BLK_CRYPTO_DIGEST_TEST
# timeout: 600
# stat: digests.sha256 > 0
# stat: digests.crc32c == 0

[ "$(ls "$BLOCK/queue/crypto/digests")" = sha256 ] || fail "digests: $(ls "$BLOCK/queue/crypto/digests")"
digest_test "$DISK" sha256

note 'the stock driver has no inline encryption'
change_driver virtio_blk
digest_test "$DISK"
