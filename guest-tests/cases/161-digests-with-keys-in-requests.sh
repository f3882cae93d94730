# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: digests from an engine without keyslots, and in-band
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 0
# needs: CONFIG_BLK_CRYPTO_DIGEST_TEST
# timeout: 600
# stat: digests.crc32c > 0
# stat: digests.xxhash64 > 0
# stat: digests.sha256 > 0
# stat: digests.blake2b_256 > 0
# stat: keyslots.program == 0

digest_test "$DISK" crc32c xxhash64 sha256 blake2b-256
[ "$(counter nokey_retries)" = 0 ] || fail 'a request came back NOKEY'
