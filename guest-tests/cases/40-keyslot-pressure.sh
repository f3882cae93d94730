# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: 200 files, each with its own key, on a device with 4 keyslots
# device: --keyslots 4
# check: fscrypt
# stat: keyslots.replace >= 196
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

[ "$(crypto_attr num_keyslots)" = 4 ] || fail "keyslots: $(crypto_attr num_keyslots)"
many_keys_case
