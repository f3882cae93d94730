# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: an engine without keyslots: requests carry their keys, ext4 encrypts natively, and no key costs a command
# device: --keyslots 0 --data-unit-sizes 512-65536 --max-dun-bytes 8
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: request_keys.requests > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0
# stat: keyslots.evict == 0

expect_engine 0 64 raw 0x1fe00
# The driver's commands at its start
before=$(counter commands)
ciphertext_case per-file 4096
expect_native
[ "$(counter commands)" = "$before" ] || fail "$(counter commands) commands, but only $before at the start"
[ "$(counter nokey_retries)" = 0 ] || fail 'a request came back NOKEY'
