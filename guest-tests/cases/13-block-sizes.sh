# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a disk with sectors of 4096 bytes encrypts natively
# device: --logical-block-size 4096 --physical-block-size 4096
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: keyslots.nokey == 0

[ "$(cat "$BLOCK/queue/logical_block_size")" = 4096 ] || fail 'logical block size'
[ "$(cat "$BLOCK/queue/physical_block_size")" = 4096 ] || fail 'physical block size'
ciphertext_case per-file 4096
expect_native
