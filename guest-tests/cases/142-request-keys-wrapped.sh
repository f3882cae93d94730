# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: raw and hardware-wrapped keys in requests, even of the same bytes; the disk's key ioctls need no keyslots
# device: --keyslots 0 --key-types raw,wrapped
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: request_keys.unwrapped > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0
# stat: wrapped_keys.derive_sw_secret > 0

raw_and_wrapped_case
blk-crypto-key "$DISK" generate /tmp/long-term
blk-crypto-key "$DISK" prepare /tmp/long-term /tmp/ephemeral
expect_errno EBADMSG blk-crypto-key "$DISK" prepare /tmp/ephemeral /tmp/result
head -c 16 /dev/urandom > /tmp/short
expect_errno EINVAL blk-crypto-key "$DISK" import /tmp/short /tmp/result
