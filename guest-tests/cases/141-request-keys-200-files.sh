# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: 200 files, each with its own key, on an engine without keyslots
# device: --keyslots 0
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: request_keys.expanded >= 400
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

many_keys_case
